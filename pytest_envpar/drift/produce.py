"""How the file system of one side becomes a stack of layers: the cheapest way that is open, and why not a cheaper one.

Ways, the cheapest first: its layers (kept from before, read as folders of this machine, or from a file); a scanner
inside a container; the stream of an export. All of them give the same entries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Protocol, cast

from pytest_envpar.drift import folder, manifest, stat_tables
from pytest_envpar.drift.folder import FolderLayer, UnreadableError
from pytest_envpar.drift.layers import Stack, shared_layers
from pytest_envpar.drift.manifest import Manifest, ManifestError
from pytest_envpar.drift.narrowed import WideError, narrowed
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.records import KIND, XATTRS, Record
from pytest_envpar.drift.remote import Scanner
from pytest_envpar.drift.scanners import NoWayError, Scanners
from pytest_envpar.drift.stat_tables import Recorder, Table, TableError
from pytest_envpar.drift.tar_manifest import tar_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.drift.layers import Layer
    from pytest_envpar.drift.remote import Listing
    from pytest_envpar.drift.sides import Side

Way = Literal["layers", "scan", "export", "archive"]
Lack = Literal["sockets", "xattrs"]
PARTIAL: frozenset[Lack] = frozenset(["sockets", "xattrs"])

Parts = tuple["Listing", "Listing"]

_KIND = "entries"
_TABLE = "stat"
_MAX_KEPT_BYTES = 1 << 28
_CAPABILITY = b"security.capability".hex()
_REMAPPED = re.compile(r"/\d+\.\d+/overlay2/")


class Store(Protocol):
    """Where manifests are kept between comparisons: :class:`~pytest_envpar.ledger.manifests.Manifests` is one."""

    def get(self, key: str, kind: str, version: int) -> bytes | None:
        """The bytes of a key; ``None`` if they are not there."""
        ...

    def has(self, keys: Iterable[str], kind: str, version: int) -> Collection[str]:
        """Which of the keys are there."""
        ...

    def put(self, key: str, kind: str, version: int, data: bytes) -> bool:
        """Keep the bytes; False if that is not possible."""
        ...


class MemoryStore:
    """A :class:`Store` that lasts as long as this process. Mutable."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int], bytes] = {}

    def get(self, key: str, kind: str, version: int) -> bytes | None:
        """See :class:`Store`."""
        return self.kept.get((key, kind, version))

    def has(self, keys: Iterable[str], kind: str, version: int) -> Collection[str]:
        """See :class:`Store`."""
        return frozenset(key for key in keys if (key, kind, version) in self.kept)

    def put(self, key: str, kind: str, version: int, data: bytes) -> bool:
        """See :class:`Store`."""
        self.kept[key, kind, version] = data
        return True


@dataclasses.dataclass(frozen=True)
class Produced:
    """A side's file system.

    Args:
        way: How it was had.
        why: A line for ``--explain``.
        lacks: What is missing from it and may be there. An engine's tar has no sockets, Docker's no extended attributes
            but capabilities either.
    """

    stack: Stack
    way: Way
    why: str
    lacks: frozenset[Lack] = frozenset()


class Producer:
    """Makes stacks for the sides of one comparison; layers that both have are made once.

    Args:
        store: What is known already, and where new manifests go.
        outside: Paths that are no part of the comparison; told what is found mounted.
        labels: For containers that are made for a scan or an export.
        resources: Closed by whoever owns it when the comparison is done: removes those containers.
        images: Images of the same engine in which there may be a Python, for a container that has none it may use.
    """

    def __init__(
        self,
        store: Store,
        outside: Outside,
        labels: Mapping[str, str],
        resources: contextlib.ExitStack,
        images: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._outside = outside
        self._scanners = Scanners(labels, resources, images)
        self._layers: dict[str, Layer] = {}

    def kept(self, side: Side) -> Manifest | None:
        """The manifest of a whole image from an earlier scan."""
        return self._get(side.image_id, "tree") if side.container is None and side.image_id else None

    def layers(self, side: Side, lower: int) -> Produced:
        """By layers.

        Args:
            lower: How many of the lowest the other side has as well: they are only looked into where it matters.

        Raises:
            NoWayError: A layer is neither known nor readable here.
        """
        if side.archive is not None and not side.diff_ids:
            return self._bare(side)
        if not side.diff_ids:
            raise NoWayError(f"{side.name}: its layers are not known")
        told: dict[str, int] = {}
        made = [self._layer(side, number, told, lower) for number in range(len(side.diff_ids))]
        if side.container is not None:
            made += self._own_layers(side)
            told["read from its own folder"] = 1
        why = ", ".join(f"{count} {how}" for how, count in told.items())
        way: Way = "archive" if side.archive is not None else "layers"
        return Produced(Stack(made), way, f"{side.name}: layers: {why}")

    def listing(self, side: Side, *, fresh: bool = False) -> Listing:
        """A listing of a side that an engine has: what an image looks like there may be known from before.

        Args:
            fresh: Whether what is known does not count.

        Raises:
            NoWayError: No scanner can run there.
        """
        if side.container is not None:
            return self._scanners.of(side)
        data = None if fresh else self._store.get(_table_key(side), _TABLE, stat_tables.VERSION)
        if data is not None:
            with contextlib.suppress(TableError):
                return Table(data, lambda: self._scanners.of(side), _table_key(side))
        return Recorder(self._scanners.of(side), _table_key(side))

    def parts(
        self, left: Side, right: Side, skip: Sequence[str], *, fresh: bool, say: Callable[[str], None]
    ) -> Parts | None:
        """Listings of two images that share layers, of no more than where they may differ.

        None if they share none, or it is known what one of them looks like: then only the other one is walked through.

        Args:
            skip: Paths that are left out with everything below them.
            fresh: Whether what is known does not count.
            say: Told a line for ``--explain``.

        Raises:
            NoWayError: No scanner can run there.
            EngineError: A scanner failed.
        """
        sides = (left, right)
        if any(side.container is not None for side in sides) or not shared_layers(
            left.diff_ids, right.diff_ids
        ):
            return None
        keys = [f"{_table_key(side)}:{other.image_id}" for side, other in (sides, sides[::-1])]
        if not fresh:
            if self._store.has(map(_table_key, sides), _TABLE, stat_tables.VERSION):
                return None
            one, two = (self._store.get(key, _TABLE, stat_tables.VERSION) for key in keys)
            if one is not None and two is not None:
                with contextlib.suppress(TableError):
                    return (
                        Table(one, lambda: self._scanners.of(left), keys[0], part=True),
                        Table(two, lambda: self._scanners.of(right), keys[1], part=True),
                    )
        with ThreadPoolExecutor(2) as pool:
            one_scanner, two_scanner = pool.map(self._scanners.of, sides)
        try:
            found = narrowed(one_scanner, two_scanner, skip)
        except WideError as error:
            say(f"all of both was listed: {error.message}")
            return Recorder(one_scanner, _table_key(left)), Recorder(two_scanner, _table_key(right))
        say("only folders that may differ were listed: layers that both have are not entered")
        return Recorder(found[0], keys[0]), Recorder(found[1], keys[1])

    def learn(self, listing: Listing) -> None:
        """Keep what a listing of an image has said."""
        if isinstance(listing, (Recorder, Table)) and listing.changed:
            data = listing.table()
            if data is not None and len(data) <= _MAX_KEPT_BYTES:
                self._store.put(listing.key, _TABLE, stat_tables.VERSION, data)

    def scan(self, side: Side) -> Produced:
        """By a scanner that reads everything. Raises NoWayError."""
        known = self.kept(side)
        if known is not None:
            return Produced(Stack([known]), "scan", f"{side.name}: scanned before, known by its image id")
        scanner = self._scanners.of(side)
        rows = scanner.rows(skip=self._left_out(side).paths)
        made = manifest.write((row[:8] for row in rows), notes=lambda: scanner.notes)
        self.mounted(side, scanner)
        self._scanners.done(scanner)
        if side.container is None:
            self._put(side.image_id, "tree", made)
        return Produced(Stack([made]), "scan", f"{side.name}: scanned inside a container")

    def mounted(self, side: Side, listing: Listing) -> None:
        """Say what a scanner found mounted in a container of somebody else's."""
        if side.container is not None and isinstance(listing, Scanner):
            self._outside.mount(listing.mounts)

    def export(self, side: Side) -> Produced:
        """By an export. Raises NoWayError."""
        if side.archive is not None and not side.diff_ids:
            return self._bare(side)
        if side.engine is None:
            raise NoWayError(f"{side.name}: there is no engine that has it")
        key = side.image_id if side.container is None else ""
        lacks: frozenset[Lack] = frozenset(["sockets"]) if side.engine.info.kind == "podman" else PARTIAL
        kind = "export" if "xattrs" in lacks else "export-xattrs"
        made = self._get(key, kind) if key else None
        if made is not None:
            return Produced(Stack([made]), "export", f"{side.name}: exported before", lacks)
        container = (
            side.container.id if side.container is not None else self._scanners.create(side, ("true",))
        )
        made = tar_manifest(side.engine.export(container), skip=self._left_out(side).skips)
        if key:
            self._put(key, kind, made)
        return Produced(Stack([made]), "export", f"{side.name}: the engine's export was read", lacks)

    def _left_out(self, side: Side) -> Outside:
        """What is not looked at. Of an image that is always the same: what is kept of it is for every comparison."""
        return self._outside if side.container is not None else Outside()

    def _bare(self, side: Side) -> Produced:
        assert side.archive is not None
        made = tar_manifest(side.archive.tree(), skip=self._outside.skips)
        return Produced(Stack([made]), "archive", f"{side.name}: the archive was read", PARTIAL)

    def _layer(self, side: Side, number: int, told: dict[str, int], lower: int) -> Layer:
        diff_id = side.diff_ids[number]
        made = self._layers.get(diff_id)
        how = "as on the other side"
        if made is None:
            made, how = self._get(diff_id, "layer"), "known"
        if made is None and side.archive is not None:
            made, how = tar_manifest(side.archive.layer(number), layer=True), "read from the file"
            self._put(diff_id, "layer", made)
        if made is None:
            path = self._folders(side)[number]
            try:
                if number < lower:
                    made, how = FolderLayer(path), "looked into"
                else:
                    made, how = folder.folder_manifest(path, layer=True), "read from its folder"
                    self._put(diff_id, "layer", made)
            except UnreadableError as error:
                raise NoWayError(f"{side.name}: {error.message}") from error
        self._layers[diff_id] = made
        told[how] = told.get(how, 0) + 1
        return made

    def _folders(self, side: Side) -> tuple[Path, ...]:
        folders = None
        if side.engine is not None and side.image_id:
            folders = side.engine.image_folders(side.image_id)
        if folders is None:
            raise NoWayError(
                f"{side.name}: its layers are not known, and are no folders that can be read here"
            )
        _same_owners(side, folders)
        return folders

    def _own_layers(self, side: Side) -> list[Layer]:
        """What a container has on top of its image: what the engine prepared, and its writable layer."""
        assert side.engine is not None
        assert side.container is not None
        folders = side.engine.layer_folders(side.container.id)
        if folders is None or len(folders.lower) < len(side.diff_ids):
            raise NoWayError(f"{side.name}: its own layer is no folder that can be read here")
        _same_owners(side, (folders.upper,))
        above = folders.lower[: len(folders.lower) - len(side.diff_ids)]
        try:
            return [folder.folder_manifest(path, layer=True) for path in (*reversed(above), folders.upper)]
        except UnreadableError as error:
            raise NoWayError(f"{side.name}: {error.message}") from error

    def _get(self, key: str, kind: str) -> Manifest | None:
        data = self._store.get(key, f"{_KIND}-{kind}", manifest.VERSION)
        if data is None:
            return None
        try:
            return Manifest(data)
        except ManifestError:
            return None  # it is made again, and takes its place

    def _put(self, key: str, kind: str, made: Manifest) -> None:
        if made.size_bytes <= _MAX_KEPT_BYTES and not made.notes():
            self._store.put(key, f"{_KIND}-{kind}", manifest.VERSION, made.to_bytes())


def view(lacks: Collection[Lack]) -> Callable[[Record], Record | None]:
    """Makes of a record what it is where these are missing; None for one that is not there at all."""

    def partial(made: Record) -> Record | None:
        if made[KIND][0] == "s" and "sockets" in lacks:
            return None
        if made[XATTRS] and "xattrs" in lacks:
            kept = " ".join(pair for pair in made[XATTRS].split(" ") if pair.partition("=")[0] == _CAPABILITY)
            return cast("Record", (*made[:XATTRS], kept, *made[XATTRS + 1 :]))
        return made

    return partial


def _table_key(side: Side) -> str:
    assert side.engine is not None
    return f"stat:{side.engine.info.id}:{side.image_id}"


def _same_owners(side: Side, folders: tuple[Path, ...]) -> None:
    """NoWayError if the owners of files are others in these folders than inside: with user namespaces the engine's host
    has them shifted."""
    shifted = side.engine is not None and side.engine.info.rootless
    # userns-remap keeps its own root: /var/lib/docker/100000.100000/overlay2.
    if shifted or any(_REMAPPED.search(str(path)) for path in folders):
        raise NoWayError(f"{side.name}: the owners in its folders are shifted by a user namespace")
