"""Layers on top of each other as one file system, and the comparison of two such stacks that share their lower part.

What a layer says about a path hides what lower ones say about it. A whiteout, an opaque directory and everything that
is no directory also hide what lower ones have below it
(https://github.com/opencontainers/image-spec/blob/main/layer.md#representing-changes).
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
from typing import TYPE_CHECKING, Protocol

from pytest_envpar.drift.compare import compare_records, difference
from pytest_envpar.drift.records import HARDLINK, IMPLIED, KIND, PATH, WHITEOUT, Record, order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_envpar.drift.model import Change, NotCompared

_REMEMBERED = 20_000
_DIRECTORIES = "dDi"


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What a stack shows at a path.

    Args:
        layer: Which layer it is from.
        floor: The lowest layer that is still seen below it, if it is a directory.
    """

    layer: int
    record: Record
    floor: int


class Layer(Protocol):
    """One layer: a manifest, or a folder that is looked into."""

    @property
    def count(self) -> int:
        """Records in it."""
        ...

    @property
    def layer(self) -> bool:
        """Whether it may hide what is below it."""
        ...

    def records(self) -> Iterator[Record]:
        """All of it, in tree order."""
        ...

    def get(self, path: str) -> Record | None:
        """What it says of a path."""
        ...

    def below(self, path: str) -> Iterator[Record]:
        """What it says of everything below a directory."""
        ...

    def links(self) -> Sequence[tuple[str, str]]:
        """Paths of files with several names, each with the first path of its group."""
        ...

    def may_be_linked(self, higher: Sequence[Layer]) -> bool:
        """False if it is certain that no file with several names is hidden by these layers."""
        ...

    def notes(self) -> Sequence[NotCompared]:
        """What was not read, and why."""
        ...


class Stack:
    """Layers, the lowest first, as one tree.

    Args:
        layers: One or more; only the lowest may be a whole file system.
        view: Changes what is shown of each record, or hides it: for what another side cannot have.
    """

    def __init__(
        self, layers: Sequence[Layer], view: Callable[[Record], Record | None] | None = None
    ) -> None:
        self.layers = tuple(layers)
        self._view = view
        self._top = len(self.layers) - 1
        self._settled: frozenset[int] = frozenset()
        self._seen: dict[str, _Seen | None] = {}

    @property
    def count(self) -> int:
        """Records in all layers, which is at least the number of entries."""
        return sum(layer.count for layer in self.layers)

    def get(self, path: str) -> Record | None:
        """What the tree has at a path."""
        seen = self._look(path)
        made = None if seen is None else self._shown(seen.layer, seen.record)
        return made if made is None or self._view is None else self._view(made)

    def records(self) -> Iterator[Record]:
        """The whole tree, in its order."""
        return self._records() if self._view is None else filter(None, map(self._view, self._records()))

    def _records(self) -> Iterator[Record]:
        if not self._top and not self.layers[0].layer:
            yield from self.layers[0].records()
            return
        streams = [_ranked(layer, number) for number, layer in enumerate(self.layers)]
        # What hides below the path before: where it begins, and the lowest layer still seen there.
        above: list[tuple[str, int]] = []
        pending: list[tuple[int, Record]] = []
        last = ""
        for key, number, made in heapq.merge(*streams, key=_merged):
            if key != last and pending:
                seen = _seen(pending, _floor(above, last))
                above.append((last + "\0", self._top + 1 if seen is None else seen.floor))
                if seen is not None:
                    yield self._shown(seen.layer, seen.record)
                pending = []
            last = key
            pending.append((-number, made))
        if pending:
            seen = _seen(pending, _floor(above, last))
            if seen is not None:
                yield self._shown(seen.layer, seen.record)

    def links(self) -> dict[tuple[int, str], str]:
        """Files with several names some of which are hidden: layer and path, and the first path still seen of the
        others, or nothing if it is alone."""
        return self._links

    def settle(self, layers: Iterable[int]) -> None:
        """Say of layers that what hides some of the names of their files is the same on the other side."""
        self._settled = frozenset(layers)

    def _look(self, path: str) -> _Seen | None:
        try:
            return self._seen[path]
        except KeyError:
            pass
        floor = 0
        if path != "/":
            parent = self._look(path[: path.rfind("/")] or "/")
            if parent is None and self.layers[0].get("/") is None and path.count("/") == 1:
                parent = _Seen(0, (path, "d755", "", "", "", "", "", ""), 0)  # a layer need not name its root
            if parent is None or parent.record[KIND][0] not in _DIRECTORIES:
                return None
            floor = parent.floor
        found = []
        for number in range(self._top, floor - 1, -1):
            made = self.layers[number].get(path)
            if made is not None:
                found.append((number, made))
        seen = _seen(found, floor)
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        # Folders only: files are asked for once.
        if seen is not None and seen.record[KIND][0] in _DIRECTORIES:
            self._seen[path] = seen
        return seen

    def _shown(self, layer: int, made: Record) -> Record:
        kind = made[KIND]
        if kind[0] in "Di":
            return (made[0], f"d{kind[1:]}", *made[2:])
        if made[HARDLINK] and self._links:
            other = self._links.get((layer, made[PATH]))
            if other is not None:
                return (*made[:HARDLINK], other, *made[HARDLINK + 1 :])  # type: ignore[return-value]
        return made

    @functools.cached_property
    def _links(self) -> dict[tuple[int, str], str]:
        found: dict[tuple[int, str], str] = {}
        for number, layer in enumerate(self.layers[:-1]):
            if number in self._settled or not layer.may_be_linked(self.layers[number + 1 :]):
                continue
            groups: dict[str, list[str]] = {}
            hidden: set[str] = set()
            for path, group in layer.links():
                if self._hidden(number, path):
                    hidden.add(group)
                else:
                    groups.setdefault(group, []).append(path)
            for group in hidden:
                paths = groups.get(group, [])
                first = min(paths, key=order) if len(paths) > 1 else ""
                found.update({(number, path): first for path in paths})
        return found

    def _hidden(self, layer: int, path: str) -> bool:
        """Whether a higher layer hides what ``layer`` has at a path. Only higher ones are asked: they are small."""
        for number in range(layer + 1, self._top + 1):
            higher = self.layers[number]
            if higher.get(path) is not None:
                return True
            at = path.rfind("/")
            while at > 0:
                made = higher.get(path[:at])
                if made is not None and made[KIND][0] not in "di":
                    return True
                at = path.rfind("/", 0, at)
        return False


def compare_stacks(
    left: Stack,
    right: Stack,
    *,
    shared: int = 0,
    mtime: bool = False,
    unread: Callable[[str], None] | None = None,
) -> Iterator[Change]:
    """What differs between two stacks.

    Args:
        shared: How many of their lowest layers are the same. Those are looked into only where higher ones say
            something, so that the costs are those of the layers that differ.
        mtime: As for :func:`~pytest_envpar.drift.compare.compare`.
        unread: As there.
    """
    higher = sum(layer.count for layer in (*left.layers[shared:], *right.layers[shared:]))
    if not shared or higher > left.count + right.count - higher:
        yield from compare_records(left.records(), right.records(), mtime=mtime, unread=unread)
        return
    differing = (*left.layers[shared:], *right.layers[shared:])
    settled = [number for number in range(shared) if not left.layers[number].may_be_linked(differing)]
    for stack in (left, right):
        stack.settle(settled)
    for path in _touched(left, right, shared):
        change = difference(left.get(path), right.get(path), mtime=mtime, unread=unread)
        if change is not None:
            yield change


def shared_layers(left: Sequence[str], right: Sequence[str]) -> int:
    """How many diff IDs two images have in common from the lowest on."""
    count = 0
    for one, two in zip(left, right, strict=False):
        if one != two:
            break
        count += 1
    return count


def _touched(left: Stack, right: Stack, shared: int) -> Iterator[str]:
    """Every path at which the stacks may differ, in order and once."""
    lower = left.layers[:shared]
    base = Stack(lower)
    base.settle(range(shared))
    streams: list[Iterable[str]] = []
    for layer in (*left.layers[shared:], *right.layers[shared:]):
        streams.append(made[PATH] for made in layer.records())
        streams += [_uncovered(layer, base, below) for below in lower]
    renamed = {path for stack in (left, right) for number, path in stack.links() if number < shared}
    streams.append(sorted(renamed, key=order))
    last = None
    for path in heapq.merge(*streams, key=order):
        if path != last:
            yield path
        last = path


def _uncovered(layer: Layer, base: Stack, lower: Layer) -> Iterator[str]:
    """What a lower layer has in directories that ``layer`` hides or replaces."""
    inside = "\0"
    for made in layer.records():
        if made[KIND][0] in "di":
            continue
        path = made[PATH]
        if path.startswith(inside):
            continue  # told already
        seen = base.get(path)
        if seen is not None and seen[KIND][0] == "d":
            inside = path + "/"
            for below in lower.below(path):
                yield below[PATH]


def _ranked(layer: Layer, number: int) -> Iterator[tuple[str, int, Record]]:
    """So that of equal paths the one of the highest layer comes first."""
    return ((order(made[PATH]), -number, made) for made in layer.records())


def _merged(item: tuple[str, int, Record]) -> tuple[str, int]:
    return item[:2]


def _floor(above: list[tuple[str, int]], key: str) -> int:
    """The lowest layer seen at a key; forgets the folders that ended before it."""
    while above and not key.startswith(above[-1][0]):
        above.pop()
    return above[-1][1] if above else 0


def _seen(found: Sequence[tuple[int, Record]], floor: int) -> _Seen | None:
    """What is seen of what the layers say of one path, the highest first."""
    shown: tuple[int, Record] | None = None
    implied: tuple[int, Record] | None = None
    lowest = floor
    for number, made in found:
        if number < floor:
            break
        letter = made[KIND][0]
        if letter == IMPLIED:
            implied = implied or (number, made)
            continue
        folder = letter in "dD"
        if not folder:
            lowest = number + 1
            if shown is None and implied is None:
                return None if letter == WHITEOUT else _Seen(number, made, lowest)
            break
        shown = shown or (number, made)
        if letter == "D":
            lowest = number
            break
    shown = shown or implied
    return None if shown is None else _Seen(shown[0], shown[1], lowest)
