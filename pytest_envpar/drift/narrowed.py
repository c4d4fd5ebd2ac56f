"""Two images of one engine that share layers, listed only where they may differ: folder by folder, from the root down.

In an overlay a folder is the topmost one of the layers that have it, and a layer that has something below a folder has
the folder, too. So a folder that is the same inode on both sides has the same below it, and is not entered.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from pytest_envpar.drift.manifest import MAX_ENTRIES, too_many
from pytest_envpar.drift.paired import check
from pytest_envpar.drift.records import HARDLINK, KIND, PATH, Checker, order
from pytest_envpar.drift.remote import ROW
from pytest_envpar.errors import EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pytest_envpar.drift.model import NotCompared
    from pytest_envpar.drift.remote import Detail, Frame, Row, Scanner

_IDENT = 8
_ROWS = 2000
"""In one frame."""
_FOLDERS = 25
"""Per request: that there is too much shows before all of it is listed."""
_MOST = 30_000
"""Rows that are held of a side: some 20 MB. A listing of everything is read as it comes, whatever its size."""


class WideError(EnvparError):
    """It takes a listing of everything to tell what differs."""

    code = "wide"


class Narrowed:
    """What was listed of one side, as a :class:`~pytest_envpar.drift.remote.Listing` beside that of the other.

    Args:
        scanner: Asked about single paths.
        rows: In tree order.
    """

    most_moved: int | None = None
    """See :class:`~pytest_envpar.drift.remote.Listing`: what it says is true at this moment."""

    def __init__(self, scanner: Scanner, rows: Sequence[Row]) -> None:
        self._scanner = scanner
        self._rows = rows

    @property
    def notes(self) -> Sequence[NotCompared]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        return self._scanner.notes

    def frames(self, skip: Sequence[str]) -> Iterator[Frame]:  # noqa: ARG002 - left out when it was listed
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        for at in range(0, len(self._rows), _ROWS):
            rows = self._rows[at : at + _ROWS]
            fields = "".join(f"{field}\0" for row in rows for field in row)
            yield (
                b"L" if any(row[HARDLINK] for row in rows) else b"R",
                fields.encode("utf-8", "surrogateescape"),
            )

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        return self._scanner.details(paths)


def narrowed(left: Scanner, right: Scanner, skip: Sequence[str]) -> tuple[Narrowed, Narrowed]:
    """List both as far as they may differ.

    Args:
        skip: Paths that are left out with everything below them.

    Raises:
        WideError: That is not enough to tell the differences.
        ManifestError: They have too many entries.
        EngineError: A scanner failed.
    """
    sides = (_Side(left), _Side(right))
    # Folders that have to be listed, and on which sides they are.
    waiting = deque([("/", (True, True))])
    while waiting:
        some = [waiting.popleft() for _ in range(min(_FOLDERS, len(waiting)))]
        # Both are asked before either is read: they work beside each other.
        answers = [
            side.ask([path for path, where in some if where[at]], skip) for at, side in enumerate(sides)
        ]
        one, two = (side.take(frames) for side, frames in zip(sides, answers, strict=True))
        if any("/" in rows and not rows["/"][_IDENT] for rows in (one, two)):
            raise WideError("they are no overlays")
        if any(side.is_full for side in sides):
            raise WideError(f"more than {_MOST} files and folders are where they may differ")
        for path in dict.fromkeys((*one, *two)):
            pair = (one.get(path), two.get(path))
            if pair[0] == pair[1] and _is_settled(pair[0]):
                continue
            for side, row in zip(sides, pair, strict=True):
                if row is not None:
                    side.rows[path] = row
            where = (_is_folder(pair[0]), _is_folder(pair[1]))
            if path != "/" and any(where):
                waiting.append((path, where))
    split = _split(*(side.rows for side in sides))
    made_left, made_right = (Narrowed(side.scanner, side.sorted(split)) for side in sides)
    return made_left, made_right


def _split(left: Mapping[str, Row], right: Mapping[str, Row]) -> set[str]:
    """The files with several names of which one differs, by their ``inode:ctime:names``.

    WideError if others of their names may be where nothing was listed. A layer's names of a file are the same for both
    sides: where one side shows all of them, what the other one shows of them was listed as well.
    """
    groups = (_groups(left), _groups(right))
    split = {
        ident
        for one, two, idents in ((left, right, groups[0]), (right, left, groups[1]))
        for ident, paths in idents.items()
        if any(path not in two or one[path][_IDENT] != two[path][_IDENT] for path in paths)
    }
    for ident in split:
        shown = max(len(side.get(ident, ())) for side in groups)
        if ident.rpartition(":")[2] != str(shown):
            raise WideError("a file with several names differs, and not all of them were seen")
    return split


def _groups(rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """The names of each file that has several."""
    found: dict[str, list[str]] = {}
    for path, row in rows.items():
        if row[HARDLINK]:
            found.setdefault(row[_IDENT], []).append(path)
    return found


def _is_folder(row: Row | None) -> bool:
    return row is not None and row[KIND][0] == "d"


def _is_settled(row: Row | None) -> bool:
    """Whether nothing differs at or below a path where both sides have this row, whatever is elsewhere."""
    return row is not None and not row[HARDLINK] and bool(row[_IDENT] or not _is_folder(row))


class _Side:
    """What one scanner has said. Mutable."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.rows: dict[str, Row] = {}
        """What is kept: where the sides may differ, and files with several names."""
        self.is_full = False
        """Whether there is more than is held."""
        self._asked: frozenset[str] = frozenset()
        self._checker = Checker(layer=False, ordered=False)
        self._count = 0

    def ask(self, folders: Sequence[str], skip: Sequence[str]) -> Iterable[Frame]:
        self._asked = frozenset(folders)
        return self.scanner.folders(folders, skip) if folders else ()

    def take(self, frames: Iterable[Frame]) -> dict[str, Row]:
        """The rows that were asked for, by their paths. All are read: what is asked next is answered after them."""
        new: dict[str, Row] = {}
        for frame in frames:
            # A frame without rows counts as well: there may be many.
            self._count += max(1, frame[1].count(b"\0") // ROW)
            if self._count > MAX_ENTRIES:
                raise too_many(MAX_ENTRIES)
            if self.is_full:
                continue
            for row in self.scanner.parsed(frame):
                check(self._checker, row[:8])
                path = row[PATH]
                if (path.rpartition("/")[0] or "/") not in self._asked or path in new:
                    raise EngineError("a scanner's answer is broken: it was not asked for that")
                new[path] = row
            self.is_full = len(self.rows) + len(new) > _MOST
        return new

    def sorted(self, split: Collection[str]) -> list[Row]:
        """All of them in tree order.

        Only those files that are given count as such with several names: of the others all names are the same on both
        sides. The inode of a folder says nothing of the folder itself.
        """
        made: list[Row] = []
        first: dict[str, str] = {}
        for path in sorted(self.rows, key=order):
            row = self.rows[path]
            ident = row[_IDENT]
            link = first.setdefault(ident, path) if row[HARDLINK] and ident in split else ""
            ident = "" if row[KIND][:1] == "d" else ident
            made.append(cast("Row", (*row[:HARDLINK], link, *row[HARDLINK + 1 : _IDENT], ident)))
        return made
