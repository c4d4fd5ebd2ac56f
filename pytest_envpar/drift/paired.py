"""Two scans of one engine side by side: a file that is the same inode on both sides is not read.

Containers of one engine share the files of their image layers. Inode number, time of the last change of the inode,
size and permissions together name one state of one file; only files that are not the same one are read, and only
where they may be equal or have to be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pytest_envpar.drift.compare import difference
from pytest_envpar.drift.manifest import MAX_ENTRIES, MAX_LINKS, too_many_links
from pytest_envpar.drift.records import DIGEST, HARDLINK, KIND, PATH, Checker, Record, RecordError, order
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.remote import Row, Scanner

_AT_ONCE = 500
"""Paths per request for digests."""

_Pair = tuple["Record | None", "Record | None"]


def compare_scans(
    left: Scanner,
    right: Scanner,
    *,
    skip: Sequence[str],
    mtime: bool,
    note: Callable[[str, str], None],
) -> Iterator[Change]:
    """What differs between the file systems of two containers of one engine.

    Args:
        skip: Paths that are left out with everything below them.
        mtime: As for :func:`~pytest_envpar.drift.compare.compare`.
        note: Told what could not be read, and why.

    Raises:
        NoScannerError: A scanner did not start.
        EngineError: One failed.
    """
    # Both are asked before either is read: they run beside each other.
    rows = [scanner.rows(read=False, skip=skip, limit=MAX_ENTRIES) for scanner in (left, right)]
    pairs, links = _suspects(*rows)
    pairs = [tuple(_named(made, names) for made, names in zip(pair, links, strict=True)) for pair in pairs]  # type: ignore[misc]
    wanted = [
        [made[PATH] for pair in pairs for made in pair[at : at + 1] if made and _is_open(made)]
        for at in (0, 1)
    ]
    digests = [_digests(scanner, paths) for scanner, paths in zip((left, right), wanted, strict=True)]
    reasons = {found.path: found.reason for scanner in (left, right) for found in scanner.notes}
    for path, reason in reasons.items():
        note(path, reason)

    def unread(path: str) -> None:
        note(path, reasons.get(path, "it could not be read"))

    for one, two in pairs:
        change = difference(_read(one, digests[0]), _read(two, digests[1]), mtime=mtime, unread=unread)
        if change is not None:
            yield change


def _suspects(
    lefts: Iterator[Row], rights: Iterator[Row]
) -> tuple[list[_Pair], tuple[dict[str, int], dict[str, int]]]:
    """The paths at which the sides may differ, and for each side how many names each file with several has."""
    found: list[_Pair] = []
    links: tuple[dict[str, int], dict[str, int]] = {}, {}
    one_side, other_side = _checked(lefts, links[0]), _checked(rights, links[1])
    one, two = next(one_side, None), next(other_side, None)
    while one is not None or two is not None:
        if one is not None and two is not None and one[PATH] == two[PATH]:
            if one != two or one[HARDLINK]:
                found.append((one[:8], two[:8]))
            one, two = next(one_side, None), next(other_side, None)
        elif two is None or (one is not None and order(one[PATH]) < order(two[PATH])):
            assert one is not None
            found.append((one[:8], None))
            one = next(one_side, None)
        else:
            found.append((None, two[:8]))
            two = next(other_side, None)
    # Folders are other inodes everywhere, and equal all the same.
    return [pair for pair in found if pair[0] != pair[1] or _may_differ(pair)], links


def _checked(rows: Iterator[Row], links: dict[str, int]) -> Iterator[Row]:
    checker = Checker(layer=False)
    for count, row in enumerate(rows):
        try:
            checker.check(row[:8])
        except RecordError as error:
            raise EngineError(f"a scanner's answer is broken: {error}") from error
        if row[HARDLINK]:
            if count > MAX_ENTRIES or len(links) > MAX_LINKS:
                raise too_many_links()
            links[row[HARDLINK]] = links.get(row[HARDLINK], 0) + 1
        yield row


def _may_differ(pair: _Pair) -> bool:
    one = pair[0]
    return one is not None and one[KIND][0] == "f"


def _named(made: Record | None, names: dict[str, int]) -> Record | None:
    """Without the mark of a file with several names if only one of them is there."""
    if made is None or not made[HARDLINK] or names[made[HARDLINK]] > 1:
        return made
    return cast("Record", (*made[:HARDLINK], "", *made[HARDLINK + 1 :]))


def _is_open(made: Record) -> bool:
    return made[KIND][0] == "f" and not made[DIGEST]


def _digests(scanner: Scanner, paths: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at in range(0, len(paths), _AT_ONCE):
        found |= scanner.digests(paths[at : at + _AT_ONCE])
    return found


def _read(made: Record | None, digests: dict[str, str]) -> Record | None:
    if made is None or made[KIND][0] != "f":
        return made
    return cast("Record", (*made[:DIGEST], digests.get(made[PATH], ""), *made[DIGEST + 1 :]))
