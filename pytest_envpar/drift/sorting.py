"""Records in the order of an archive become a manifest in the order of a tree, in bounded memory."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from pytest_envpar.drift import manifest
from pytest_envpar.drift.records import HARDLINK, KIND, PATH, Record, order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.drift.manifest import Manifest

_RUN = 50_000


class Sorter:
    """Collects records, each path as it was said last, and gives them back as a manifest.

    Args:
        layer: Whether it is a layer of an image.
        max_entries: See :data:`~pytest_envpar.drift.manifest.MAX_ENTRIES`.
        run: How many records are held in memory.
    """

    def __init__(
        self, *, layer: bool = False, max_entries: int = manifest.MAX_ENTRIES, run: int = _RUN
    ) -> None:
        self._layer = layer
        self._limit = max_entries
        self._run = run
        self._held: dict[str, Record] = {}
        self._runs: list[Manifest] = []
        self._count = 0
        self._group: dict[str, str] = {}
        self._notes: list[tuple[str, str]] = []

    def add(self, made: Record) -> None:
        """Add one record; its ``hardlink`` is ignored (see :meth:`link`)."""
        path = made[PATH]
        self._group.pop(path, None)
        self._held[path] = made
        self._count += 1
        if self._count > 2 * self._limit:
            raise manifest.too_many(self._limit)
        if len(self._held) >= self._run:
            self._spill()

    def imply(self, path: str) -> None:
        """A directory that is only known from what is in it, unless it is named as well."""
        while path not in self._held and self._earlier(path) is None:
            self.add((path, "i755" if self._layer else "d755", "0:0", "", "", "", "", "0"))
            if path == "/":
                return
            path = path[: path.rfind("/")] or "/"

    def get(self, path: str) -> Record | None:
        """What was said last of a path."""
        return self._held.get(path) or self._earlier(path)

    def link(self, path: str, target: str) -> bool:
        """Add another name of a file. False if there is no such file (yet)."""
        made = self.get(target)
        if made is None or made[KIND][0] in "dDiw" or path == target:
            return False
        group = self._group.get(target, target)
        self.add((path, *made[1:]))
        if len(self._group) >= manifest.MAX_LINKS:
            raise manifest.too_many_links()
        self._group[target] = self._group[path] = group
        return True

    def note(self, path: str, reason: str) -> None:
        """Remember what could not be read."""
        self._notes.append((path, reason))

    def finish(self) -> Manifest:
        """The manifest of everything."""
        if not self._layer:
            self.imply("/")
        first: dict[str, str] = {}
        for path, group in self._group.items():
            if group not in first or order(path) < order(first[group]):
                first[group] = path
        writer = manifest.Writer(layer=self._layer, max_entries=self._limit)
        above = "\0"
        for made in self._sorted():
            path = made[PATH]
            if path.startswith(above):
                continue  # what was a folder when this was said is none any more
            if made[KIND][0] not in "dDi":
                above = path + "/"
                group = self._group.get(path, "")
                link = first[group] if group else ""
                if link != made[HARDLINK]:
                    made = (*made[:HARDLINK], link, *made[HARDLINK + 1 :])  # type: ignore[assignment] # noqa: PLW2901
            writer.add(made)
        for note in self._notes:
            writer.note(*note)
        for run in self._runs:
            run.close()
        return writer.finish()

    def _earlier(self, path: str) -> Record | None:
        for run in reversed(self._runs):
            made = run.get(path)
            if made is not None:
                return made
        return None

    def _spill(self) -> None:
        held, self._held = self._held, {}
        ordered = sorted(held.values(), key=_key)
        self._runs.append(manifest.write(ordered, layer=True))

    def _sorted(self) -> Iterator[Record]:
        if not self._runs:
            yield from sorted(self._held.values(), key=_key)
            return
        self._spill()
        streams = [_ranked(run, number) for number, run in enumerate(self._runs)]
        last = None
        for key, _, made in heapq.merge(*streams):
            if key != last:
                yield made
            last = key


def _ranked(run: Manifest, number: int) -> Iterator[tuple[str, int, Record]]:
    """So that of equal paths the one of the latest run comes first."""
    return ((order(made[PATH]), -number, made) for made in run.records())


def _key(made: Record) -> str:
    return order(made[PATH])
