"""Two images of one engine that share layers, listed only where they may differ: folder by folder, from the root down.

In an overlay a folder is the topmost one of the layers that have it, and a layer that has something below a folder has
the folder, too. So a folder that is the same inode on both sides has the same below it, and is not entered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pytest_envpar.drift.manifest import MAX_ENTRIES, too_many
from pytest_envpar.drift.records import HARDLINK, KIND, PATH, order
from pytest_envpar.errors import EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pytest_envpar.drift.model import NotCompared
    from pytest_envpar.drift.remote import Detail, Frame, Row, Scanner

_IDENT = 8
_ROWS = 2000
"""In one frame."""


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
    while any(side.open for side in sides):
        # Both are asked before either is read: they work beside each other.
        answers = [side.ask(skip) for side in sides]
        one, two = (side.take(frames) for side, frames in zip(sides, answers, strict=True))
        for side, new, others in ((sides[0], one, two), (sides[1], two, one)):
            side.open = [
                path
                for path, row in new.items()
                if row[KIND][0] == "d" and not (row[_IDENT] and row == others.get(path))
            ]
        if any("/" in side.rows and not side.rows["/"][_IDENT] for side in sides):
            raise WideError("they are no overlays")
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


class _Side:
    """What one scanner has said. Mutable."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.open = ["/"]
        """Folders that have to be listed next."""
        self.rows: dict[str, Row] = {}

    def ask(self, skip: Sequence[str]) -> Iterable[Frame]:
        return self.scanner.folders(self.open, skip) if self.open else ()

    def take(self, frames: Iterable[Frame]) -> dict[str, Row]:
        """The rows that were asked for, by their paths."""
        asked = set(self.open)
        new: dict[str, Row] = {}
        for frame in frames:
            for row in self.scanner.parsed(frame):
                path = row[PATH]
                parent = path.rpartition("/")[0] or "/"
                if parent not in asked or path in self.rows:
                    raise EngineError("a scanner's answer is broken: it was not asked for that")
                self.rows[path] = row
                if path != "/":
                    new[path] = row
            if len(self.rows) > MAX_ENTRIES:
                raise too_many(MAX_ENTRIES)
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
