"""Two listings of one engine side by side: a file that is the same inode on both sides is not read.

Containers of one engine share the files of their image layers. Inode number, time of the last change of the inode,
size and permissions together name one state of one file, unless it is a container's own copy, which has a mark: only
files that are not the same one are read, and only where they may be equal or have to be told. Where both sides say the
same for some folders on end, it is not even looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pytest_envpar.drift.compare import difference
from pytest_envpar.drift.manifest import MAX_ENTRIES, MAX_LINKS, too_many, too_many_links
from pytest_envpar.drift.records import (
    DIGEST,
    HARDLINK,
    KIND,
    PATH,
    XATTRS,
    Checker,
    Record,
    RecordError,
    order,
)
from pytest_envpar.drift.remote import ROW, parsed
from pytest_envpar.errors import EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.remote import Detail, Frame, Listing, Row

_AT_ONCE = 500
"""Paths per request for details."""
_IDENT = 8

_Pair = tuple["Row | None", "Row | None"]


class MovedError(EnvparError):
    """So many files are other inodes that what was known of them is of no use."""

    code = "moved"


def compare_listings(
    left: Listing,
    right: Listing,
    *,
    skip: tuple[Sequence[str], Sequence[str]],
    outside: Callable[[], Callable[[str], bool]],
    mtime: bool,
    note: Callable[[str, str], None],
) -> Iterator[Change]:
    """What differs between the file systems of two containers of one engine.

    Args:
        skip: For each side paths that are left out with everything below them.
        outside: Asked for what says of a path that it is no part of the comparison, when both sides have told what they
            have mounted.
        mtime: As for :func:`~pytest_envpar.drift.compare.compare`.
        note: Told what could not be read, and why.

    Raises:
        NoScannerError: A scanner did not start.
        MovedError: A side is a table of what is no more.
        EngineError: A scanner failed.
    """
    sides = (left, right)
    # Both are asked before either is read: they run beside each other.
    readings = [_Reading(side.frames(skipped)) for side, skipped in zip(sides, skip, strict=True)]
    pairs = list(_suspects(*readings))
    is_outside = outside()
    pairs = [pair for pair in pairs if not is_outside(_path(pair))]
    moved = sum(one is not None and two is not None and one[_IDENT] != two[_IDENT] for one, two in pairs)
    if any(side.most_moved is not None and moved > side.most_moved for side in sides):
        raise MovedError(f"{moved} files are other inodes")
    links = [reading.links for reading in readings]
    pairs = [cast("_Pair", tuple(map(_named, pair, links))) for pair in pairs]
    # Whose names are the same, too, is the same.
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    details = [
        _details(
            side, [made[PATH] for pair in pairs for made in pair[at : at + 1] if made and _is_open(made)]
        )
        for at, side in enumerate(sides)
    ]
    reasons = {found.path: found.reason for side in sides for found in side.notes}
    for path, reason in reasons.items():
        note(path, reason)

    def unread(path: str) -> None:
        note(path, reasons.get(path, "it could not be read"))

    checkers = (Checker(layer=False), Checker(layer=False))
    for pair in pairs:
        one, two = map(_whole, pair, details, checkers)
        change = difference(one, two, mtime=mtime, unread=unread)
        if change is not None:
            yield change


class _Reading:
    """The rows of one side, frame by frame. Mutable.

    Args:
        frames: From its scanner.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self._checker = Checker(layer=False)
        self._count = 0
        self.rows: list[Row] = []
        """Those of the frame at hand that were not taken yet, the last one first."""
        self.ended = False
        self.links: dict[str, int] = {}
        """How many names each file has that has several."""

    def frame(self) -> Frame | None:
        """The next one; None at the end."""
        return next(self._frames, None)

    def load(self, frame: Frame | None) -> None:
        """Take the rows of a frame."""
        if frame is None:
            self.ended = True
            return
        rows = list(parsed(frame, "a container"))
        self._add(len(rows))
        for row in rows:
            check(self._checker, row[:8])
            if row[HARDLINK]:
                if len(self.links) > MAX_LINKS:
                    raise too_many_links()
                self.links[row[HARDLINK]] = self.links.get(row[HARDLINK], 0) + 1
        rows.reverse()
        self.rows = rows

    def skip(self, frame: Frame) -> None:
        """Count the rows of a frame that are not taken."""
        self._add(frame[1].count(b"\0") // ROW)

    def _add(self, count: int) -> None:
        # A frame without rows counts as well: there may be many.
        self._count += max(1, count)
        if self._count > MAX_ENTRIES:
            raise too_many(MAX_ENTRIES)


def _suspects(one: _Reading, two: _Reading) -> Iterator[_Pair]:
    """The paths at which the sides may differ."""
    while True:
        if not one.rows and not two.rows:
            left, right = one.frame(), two.frame()
            # Of files with several names those that are the same on both sides have to be counted, too.
            while left is not None and left == right and left[0] == b"R":
                one.skip(left)
                left, right = one.frame(), two.frame()
            if left is None and right is None:
                return
            one.load(left)
            two.load(right)
        elif not one.rows and not one.ended:
            one.load(one.frame())
        elif not two.rows and not two.ended:
            two.load(two.frame())
        else:
            yield from _merged(one, two)


def _merged(one: _Reading, two: _Reading) -> Iterator[_Pair]:
    """Pairs until one side's rows are used up; all of the other's if it has ended."""
    lefts, rights = one.rows, two.rows
    while lefts and rights:
        left, right = lefts[-1], rights[-1]
        if left[PATH] == right[PATH]:
            if left != right or left[HARDLINK]:
                yield left, right
            lefts.pop()
            rights.pop()
        elif order(left[PATH]) < order(right[PATH]):
            yield lefts.pop(), None
        else:
            yield None, rights.pop()
    while lefts and two.ended:
        yield lefts.pop(), None
    while rights and one.ended:
        yield None, rights.pop()


def _path(pair: _Pair) -> str:
    made = pair[0] or pair[1]
    assert made is not None
    return made[PATH]


def _named(made: Row | None, names: dict[str, int]) -> Row | None:
    """Without the mark of a file with several names if only one of them is there."""
    if made is None or not made[HARDLINK] or names[made[HARDLINK]] > 1:
        return made
    return cast("Row", (*made[:HARDLINK], "", *made[HARDLINK + 1 :]))


def _is_open(made: Row) -> bool:
    """Whether there is more to be known of it than a listing tells."""
    return made[KIND][0] != "d"


def _details(side: Listing, paths: Sequence[str]) -> dict[str, Detail]:
    found: dict[str, Detail] = {}
    for at in range(0, len(paths), _AT_ONCE):
        found |= side.details(paths[at : at + _AT_ONCE])
    return found


def _whole(made: Row | None, details: dict[str, Detail], checker: Checker) -> Record | None:
    """A row as a record, with what its listing does not tell."""
    detail = details.get(made[PATH]) if made is not None and _is_open(made) else None
    if made is None or detail is None:
        return None if made is None else made[:8]
    digest = detail.digest if made[KIND][0] == "f" else ""
    whole = cast(
        "Record", (*made[:DIGEST], digest, made[HARDLINK], detail.xattrs, *made[XATTRS + 1 : _IDENT])
    )
    check(checker, whole)
    return whole


def check(checker: Checker, made: Record) -> None:
    """EngineError if a scanner gave what an honest one does not."""
    try:
        checker.check(made)
    except RecordError as error:
        raise EngineError(f"a scanner's answer is broken: {error}") from error
