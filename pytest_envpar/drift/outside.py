"""What is in a container's file system and does not come from its image: left out, or said not to be compared."""

from __future__ import annotations

import contextlib
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, TypeVar

from pytest_envpar.drift.model import NotCompared
from pytest_envpar.drift.records import KIND, OWNER, PATH, XATTRS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.records import Record

_At = TypeVar("_At")

OURS = ("/.envpar", "/envpar")
"""Where a run puts what is ours."""

ENGINE = (
    *("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/.dockerenv"),
    *("/run/.containerenv", "/run/secrets", "/dev", "/proc", "/sys"),
)
"""Paths that engines write or mount into every container. An image's own files there are seen by nobody."""

_MAX_NOT_COMPARED = 1000


class Outside:
    """Paths that are no part of a comparison. Mutable: it gathers what was found on the way.

    Args:
        hidden: Paths that are left out without a word, with everything below them.
        mounted: Paths at which something else is mounted on one side or the other, and what it is.
    """

    def __init__(self, hidden: Iterable[str] = (), mounted: Mapping[str, str] | None = None) -> None:
        self._hidden = {*OURS, *ENGINE, *hidden} - {"/"}
        self._mounted: dict[str, str] = {}
        self._above: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._places: frozenset[str] = frozenset()
        self._last: tuple[str, frozenset[str], bool] | None = None
        """A folder, and whether it is no part of the comparison by the places at that time: both sides ask."""
        self.mount(mounted or {})

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted({*self._hidden, *self._mounted}))

    def mount(self, mounted: Mapping[str, str]) -> None:
        """Something is mounted there, which is not what the image has."""
        for path, what in mounted.items():
            if path != "/" and not self._is_hidden(path):
                self._mounted.setdefault(path, what)
        self._above = {parent for path in self.paths for parent in _parents(path)}
        self._places = frozenset(self.paths)

    def note(self, path: str, reason: str) -> None:
        """Something was not looked at, and why."""
        if not self._is_hidden(path) and len(self._reasons) <= _MAX_NOT_COMPARED:
            self._reasons.setdefault(path, reason)

    def skips(self, path: str) -> bool:
        """Whether a path is no part of the comparison."""
        folder = path[: path.rfind("/")]
        # Of the paths of a whole image many in a row are in one folder.
        places, known = self._places, self._last
        if known is None or known[0] != folder or known[1] is not places:
            known = self._last = (folder, places, not places.isdisjoint(_parents(path)))
        return path == "/" or path in places or known[2]

    def left(self, changes: Iterable[Change]) -> Iterator[Change]:
        """The changes that are part of the comparison, in tree order as they come.

        The root folder's own permissions are the engine's. A plain folder that only holds what engines or mounts put
        there is made by them where an image has none.
        """
        return self._left(changes, attrgetter("path"), _is_plain_change)

    def left_records(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same of all records of one side: a plain folder that holds nothing else may be from the image as well."""
        return self._left(records, itemgetter(PATH), _is_plain)

    def _left(
        self, items: Iterable[_At], path_of: Callable[[_At], str], is_plain: Callable[[_At], bool]
    ) -> Iterator[_At]:
        held: list[tuple[str, _At]] = []
        for item in items:
            path = path_of(item)
            if self.skips(path):
                continue
            # Folders wait for what is in them.
            while held and not path.startswith(held[-1][0] + "/"):
                held.pop()
            if path in self._above and is_plain(item):
                held.append((path, item))
                continue
            yield from (folder for _, folder in held)
            held.clear()
            yield item

    def not_compared(self) -> tuple[NotCompared, ...]:
        """What was not compared, sorted by path."""
        found = {path: f"a {what} is mounted there" for path, what in self._mounted.items()}
        found |= {path: reason for path, reason in self._reasons.items() if not self._is_mounted(path)}
        listed = [NotCompared(path, found[path]) for path in sorted(found, key=lambda path: path.split("/"))]
        if len(listed) > _MAX_NOT_COMPARED:
            more = len(listed) - _MAX_NOT_COMPARED
            listed[_MAX_NOT_COMPARED:] = [NotCompared("/", f"and at least {more} more")]
        return tuple(listed)

    def _is_hidden(self, path: str) -> bool:
        return path in self._hidden or not self._hidden.isdisjoint(_parents(path))

    def _is_mounted(self, path: str) -> bool:
        return path in self._mounted or not self._mounted.keys().isdisjoint(_parents(path))


def _is_plain_change(change: Change) -> bool:
    entry = change.after if change.before is None else change.before if change.after is None else None
    return (
        entry is not None
        and entry.type == "directory"
        and (entry.mode, entry.uid, entry.gid, entry.xattrs) == (0o755, 0, 0, ())
    )


def _is_plain(made: Record) -> bool:
    return (made[KIND], made[OWNER], made[XATTRS]) == ("d755", "0:0", "")


def _parents(path: str) -> list[str]:
    found = []
    with contextlib.suppress(ValueError):
        at = path.rindex("/")
        while at > 0:
            found.append(path[:at])
            at = path.rindex("/", 0, at)
    return found
