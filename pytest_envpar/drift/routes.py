"""From two sides to what differs between them, on the cheapest way that is open.

1. The same image: equal. The same layers: only the configuration is compared.
2. Layers: those that both sides have are only looked into where the others say something.
3. A scanner inside containers, which tells inodes first and reads only the files that are not the same one.
4. Exports.

A container on its image is route 2 with one more layer, its own.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_envpar.drift import paired, produce
from pytest_envpar.drift.config import compare_config, compare_facts
from pytest_envpar.drift.environment import environments
from pytest_envpar.drift.layers import Stack, compare_stacks, shared_layers
from pytest_envpar.drift.model import Comparison
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.paired import MovedError
from pytest_envpar.drift.produce import MemoryStore, Produced, Producer
from pytest_envpar.drift.scanners import NoWayError
from pytest_envpar.drift.stat_tables import Recorder, Table, TableError
from pytest_envpar.errors import ConnectionLostError, EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.drift.model import Change, ConfigChange
    from pytest_envpar.drift.produce import Lack, Store
    from pytest_envpar.drift.remote import Listing
    from pytest_envpar.drift.sides import Side

Force = Literal["layers", "scan", "export"]
"""A way that is taken instead of the cheapest."""

_LACKS: Mapping[Lack, str] = MappingProxyType(
    {"sockets": "sockets", "xattrs": "extended attributes other than capabilities"}
)


def compare_sides(
    left: Side,
    right: Side,
    store: Store | None = None,
    *,
    mtime: bool = False,
    force: Force | None = None,
    labels: Mapping[str, str] | None = None,
) -> Comparison:
    """What differs between two sides.

    Args:
        store: What is known from earlier comparisons; without one everything is read again.
        mtime: Whether times of modification count.
        force: Take this way, even if there is a cheaper one.
        labels: For the containers that are made on the way; by default those of this process as their owner.

    Raises:
        UsageError: There is no way to compare them.
        EngineError: The engine failed.
        ManifestError: One of them has more entries than are compared.
        TarError: A file is broken.
    """
    return _Comparing(left, right, store or MemoryStore(), mtime, force, labels).result()


class _Comparing:
    def __init__(
        self,
        left: Side,
        right: Side,
        store: Store,
        mtime: bool,
        force: Force | None,
        labels: Mapping[str, str] | None,
    ) -> None:
        self._sides = (left, right)
        self._mtime = mtime
        self._force = force
        self._why: list[str] = []
        self._resources = contextlib.ExitStack()
        self._outside = Outside(
            (str(path) for side in self._sides for path in side.hidden),
            {
                path: what
                for side in self._sides
                if side.container is not None
                for path, what in side.container.mounts.items()
            },
        )
        self._producer = Producer(
            store,
            self._outside,
            labels or own_labels(),
            self._resources,
            images=tuple(
                side.image_id for side in self._sides if side.engine is left.engine and side.image_id
            ),
        )

    def result(self) -> Comparison:
        left, right = self._sides
        config = self._config()
        fixed = left.unchanging and right.unchanging and self._force is None
        if fixed and left.image_id and left.image_id == right.image_id:
            self._why.append("both are the same image, so that nothing can differ")
            return self._made("same-image", (), config)
        if fixed and left.diff_ids and left.diff_ids == right.diff_ids and left.config and right.config:
            self._why.append("both have the same layers, so that no file can differ")
            return self._made("same-layers", (), config)
        with self._resources:
            found = self._layered() or self._scanned() or self._each()
            route, changes = found
            # All of it before the containers go.
            listed = tuple(self._outside.left(changes))
        return self._made(route, listed, config)

    def _made(self, route: str, changes: tuple[Change, ...], config: tuple[ConfigChange, ...]) -> Comparison:
        left, right = self._sides
        return Comparison(
            left.name,
            right.name,
            route,
            tuple(change for change in changes if not self._outside.skips(change.path)),
            config,
            self._outside.not_compared(),
            tuple(self._why),
        )

    def _config(self) -> tuple[ConfigChange, ...]:
        left, right = self._sides
        if left.config is None or right.config is None:
            for side in self._sides:
                if side.config is None:
                    self._why.append(f"{side.name}: it has no configuration that could be compared")
            return ()
        containers = not (left.unchanging and right.unchanging)
        found = compare_config(left.config, right.config, containers=containers)
        if left.container is None or right.container is None:
            return found
        felt = environments(left, right)
        if felt is None:
            self._why.append("what processes feel was not compared: both have to run and to have a Python")
            return found
        return (*found, *compare_facts(*felt))

    def _layered(self) -> tuple[str, Iterator[Change]] | None:
        """Both by their layers."""
        if self._force not in (None, "layers"):
            return None
        left, right = self._sides
        shared = shared_layers(left.diff_ids, right.diff_ids)
        try:
            one, two = self._producer.layers(left, shared), self._producer.layers(right, shared)
        except NoWayError as error:
            if self._force is not None:
                raise self._closed(error) from error
            self._why.append(f"not by layers: {error.message}")
            return None
        if shared:
            self._why.append(f"{shared} layers are the same and are only looked into where others differ")
        own = (left.container is not None) != (
            right.container is not None
        ) and left.image_id == right.image_id
        route = "upper" if own else "archive" if "archive" in (one.way, two.way) else "layers"
        return route, self._compared(one, two, shared)

    def _scanned(self) -> tuple[str, Iterator[Change]] | None:
        """Both on one engine and neither known: inodes first, and only what differs is read."""
        left, right = self._sides
        if self._force not in (None, "scan") or left.engine is None or left.engine is not right.engine:
            return None
        if left.unchanging and right.unchanging:
            if any(map(self._producer.kept, self._sides)):
                return None
            if not shared_layers(left.diff_ids, right.diff_ids):
                self._why.append("not by inodes: they have no layer in common, so that all files are others")
                return None
        try:
            try:
                listed = self._listed(fresh=False)
            except (MovedError, TableError) as error:
                self._why.append(f"what was known of an image is of no use any more: {error.message}")
                listed = self._listed(fresh=True)
        except NoWayError as error:
            if self._force is not None:
                raise self._closed(error) from error
            self._why.append(f"not by scanning both: {error.message}")
            return None
        except EngineError as error:
            self._why.append(self._gone_on(error, "not by scanning both"))
            return None
        return "scan", iter(listed)

    def _listed(self, *, fresh: bool) -> list[Change]:
        parts = self._producer.parts(
            *self._sides, self._skip(self._sides[0]), fresh=fresh, say=self._why.append
        )
        if parts is None:
            # Making a container takes longer than what follows.
            with ThreadPoolExecutor(2) as pool:
                one, two = pool.map(lambda side: self._producer.listing(side, fresh=fresh), self._sides)
        else:
            one, two = parts
        both = tuple(zip(self._sides, (one, two), strict=True))

        def mounted() -> Callable[[str], bool]:
            for side, listing in both:
                self._producer.mounted(side, listing)
            return self._outside.skips

        listed = list(
            paired.compare_listings(
                one,
                two,
                skip=(self._skip(self._sides[0]), self._skip(self._sides[1])),
                outside=mounted,
                mtime=self._mtime,
                note=self._outside.note,
            )
        )
        for side, listing in both:
            self._producer.learn(listing)
            self._why.append(f"{side.name}: {_how(listing)}")
        self._why.append("only files of other inodes were read")
        return listed

    def _skip(self, side: Side) -> tuple[str, ...]:
        # What is known of an image is so for every comparison.
        return self._outside.paths if side.container is not None else Outside().paths

    def _each(self) -> tuple[str, Iterator[Change]]:
        """Each on the cheapest way of its own."""
        with ThreadPoolExecutor(2) as pool:
            (one, whys), (two, more) = pool.map(self._one, self._sides)
        self._why += [*whys, *more]
        ways = (one.way, two.way)
        route = next(way for way in ("export", "archive", "scan", "layers") if way in ways)
        return route, self._compared(one, two, 0)

    def _one(self, side: Side) -> tuple[Produced, list[str]]:
        """With why it was not a cheaper way."""
        reasons: list[str] = []
        whys: list[str] = []
        ways: dict[str, Callable[[], Produced]] = {
            "layers": lambda: self._producer.layers(side, 0),
            "scan": lambda: self._producer.scan(side),
            "export": lambda: self._producer.export(side),
        }
        for name, way in ways.items():
            if self._force not in (None, name):
                continue
            try:
                return way(), whys
            except NoWayError as error:
                reasons.append(error.message)
                whys.append(f"not by {name}: {error.message}")
            except EngineError as error:
                if name != "scan":
                    raise
                reasons.append(error.message)
                whys.append(self._gone_on(error, "not by scan"))
        raise UsageError(
            f"{side.name} cannot be looked at",
            detail=tuple(dict.fromkeys(reasons)),
            hint="the image has to be on an engine, or its layers known from an earlier comparison",
        )

    def _compared(self, one: Produced, two: Produced, shared: int) -> Iterator[Change]:
        for made in (one, two):
            self._why.append(made.why)
        left, right = one.stack, two.stack
        lacks = one.lacks | two.lacks
        if lacks:
            # An image cannot have sockets, a container can.
            images = all(side.unchanging for side in self._sides)
            missing = [_LACKS[each] for each in sorted(lacks) if not (images and each == "sockets")]
            if missing:
                self._outside.note("/", f"{' and '.join(missing)} are not in an engine's tar")
            left, right = (Stack(stack.layers, produce.view(lacks)) for stack in (left, right))
        unread: list[str] = []
        yield from compare_stacks(left, right, shared=shared, mtime=self._mtime, unread=unread.append)
        reasons = {
            note.path: note.reason
            for stack in (left, right)
            for layer in stack.layers
            for note in layer.notes()
        }
        for path in unread:
            self._outside.note(path, reasons.get(path, "it could not be read"))
        for path, reason in reasons.items():
            self._outside.note(path, reason)

    def _gone_on(self, error: EngineError, what: str) -> str:
        """A scanner that began and then failed leaves other ways open, unless the engine is gone. Returns why."""
        if self._force is not None or isinstance(error, ConnectionLostError):
            raise error
        return f"{what}: {error.message}"

    def _closed(self, error: Exception) -> UsageError:
        return UsageError(
            f"the way {self._force!r} is not open", detail=(str(getattr(error, "message", error)),)
        )


def _how(listing: Listing) -> str:
    if isinstance(listing, Table):
        return "its inodes are known from before" + (", some of its files were read" if listing.asked else "")
    return "scanned inside a container" if isinstance(listing, Recorder) else "scanned while it runs"


def own_labels() -> Mapping[str, str]:
    """Labels that say that a container is made by this process and lives no longer."""
    from pytest_envpar.containers.labels import Owner

    return Owner.current(Path.cwd()).labels("probe")
