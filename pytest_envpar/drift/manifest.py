r"""A manifest: all entries of a file system or of one image layer, as compact bytes that may be kept.

Written and read as a stream, whatever its size; read at one path without reading the rest. The format, version 1,
numbers little-endian:

    b"envpar-manifest 1\n"
    blocks, each zlib: the records without their times, seven fields each, every field ended by a zero byte (UTF-8,
        surrogates escaped), then the times as 8-byte integers
    index, zlib: six fields for each block: its first path, offset, compressed, text and whole size, number of records
    links, zlib: two fields for each file with several names: path, name of the group (its first path)
    notes, zlib: two fields for each file that was not read: path, reason
    footer: offset and size of index, links and notes; number of entries; 1 for a layer; the fingerprint; b"EPMF"

The fingerprint is the sha256 of all blocks' texts, one after the other: the same for the same entries, whoever
produced them and whenever they were touched. A manifest is data from a container: everything read is checked.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import struct
import tempfile
import weakref
import zlib
from array import array
from collections import OrderedDict
from typing import IO, TYPE_CHECKING

from pytest_envpar.drift import records
from pytest_envpar.drift.model import Entry, NotCompared
from pytest_envpar.drift.records import FIELDS, HARDLINK, MTIME, PATH, Checker, Record, RecordError, order
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

VERSION = 1
# 1: first.
MAX_ENTRIES = 4_000_000
"""More than this is refused; the largest images known have about a third of it."""
MAX_LINKS = 400_000
"""Names of files with several names in one tree, which are held in memory."""

_MAGIC = b"envpar-manifest %d\n" % VERSION
_FOOTER = struct.Struct("<6QQ?32s4s")
_END = b"EPMF"
_BLOCK_RECORDS = 512
_BLOCK_CHARS = 1 << 18
_MAX_BLOCK = 1 << 23
_MAX_SECTION = 1 << 28
_SPOOL_BYTES = 1 << 24
_TEXT_FIELDS = FIELDS - 1
_CACHED_BLOCKS = 32


class ManifestError(EnvparError):
    """A manifest that is broken, or would be too large."""

    code = "manifest"


class Manifest:
    """All entries of a tree, or of a layer, in tree order.

    Raises:
        ManifestError: The bytes are not a manifest of this version; also while reading, at the first broken record.
    """

    def __init__(self, data: bytes | IO[bytes]) -> None:
        self._data = data
        self.close: Callable[[], object] = lambda: None
        """Let go of the file behind it, if it has one; done at the latest with the last reference."""
        if not isinstance(data, bytes):
            self.close = weakref.finalize(self, data.close)
        try:
            self._open()
        except (struct.error, zlib.error, ValueError, MemoryError, OverflowError) as error:
            raise _broken(error) from error
        self._cache: OrderedDict[int, dict[str, Record]] = OrderedDict()

    def _open(self) -> None:
        size = len(self._data) if isinstance(self._data, bytes) else self._data.seek(0, 2)
        if self._read(0, len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as one of this version")
        *places, self.count, self.layer, fingerprint, end = _FOOTER.unpack(
            self._read(size - _FOOTER.size, _FOOTER.size)
        )
        if end != _END or any(place > size for place in places) or self.count > MAX_ENTRIES:
            raise ValueError("its end is missing or says what cannot be")
        self.fingerprint = bytes(fingerprint).hex()
        index = self._section(places[0], places[1])
        if len(index) % 6:
            raise ValueError("its index is incomplete")
        self._firsts = [order(path) for path in index[::6]]
        self._blocks = list(zip(*(map(int, index[at::6]) for at in range(1, 6)), strict=True))
        if sum(block[4] for block in self._blocks) != self.count or sorted(self._firsts) != self._firsts:
            raise ValueError("its index does not fit")
        for block in self._blocks:
            if min(block) < 0 or max(block[1:4]) > _MAX_BLOCK or block[0] + block[1] > size:
                raise ValueError("its index leads outside")
        self._links, self._notes = tuple(places[2:4]), tuple(places[4:6])

    @property
    def size_bytes(self) -> int:
        """Length of the encoded form."""
        return len(self._data) if isinstance(self._data, bytes) else self._data.seek(0, 2)

    def to_bytes(self) -> bytes:
        """The encoded form, to be kept."""
        return self._read(0, self.size_bytes)

    def __iter__(self) -> Iterator[Entry]:
        """The entries; of a layer without its whiteouts."""
        return (records.entry(made) for made in self.records() if made[1] != records.WHITEOUT)

    def records(self, after: str | None = None) -> Iterator[Record]:
        """The records in tree order, from the first that comes after this path, or all."""
        checker = Checker(layer=self.layer)
        start = 0
        if after is not None:
            start = max(0, bisect.bisect_right(self._firsts, order(after)) - 1)
        for number in range(start, len(self._blocks)):
            for made in self._block(number):
                self._check(checker, made)
                if after is None or order(made[PATH]) > order(after):
                    yield made

    def get(self, path: str) -> Record | None:
        """The record of one path; ``None`` if the tree does not have it."""
        number = bisect.bisect_right(self._firsts, order(path)) - 1
        if number < 0:
            return None
        block = self._cache.get(number)
        if block is None:
            checker = Checker(layer=self.layer)
            block = {}
            for made in self._block(number):
                self._check(checker, made)
                block[made[PATH]] = made
            self._cache[number] = block
            if len(self._cache) > _CACHED_BLOCKS:
                self._cache.popitem(last=False)
        return block.get(path)

    def below(self, path: str) -> Iterator[Record]:
        """The records of everything below a directory."""
        prefix = path if path == "/" else path + "/"
        for made in self.records(after=path):
            if not made[PATH].startswith(prefix):
                return
            yield made

    def links(self) -> list[tuple[str, str]]:
        """The paths of files with several names, each with the first path of its group."""
        return self._pairs(self._links)

    def may_be_linked(self, higher: Sequence[object]) -> bool:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        return bool(higher) and bool(self.links())

    def notes(self) -> tuple[NotCompared, ...]:
        """What was found and not read."""
        return tuple(NotCompared(path, reason) for path, reason in self._pairs(self._notes))

    def _pairs(self, place: tuple[int, ...]) -> list[tuple[str, str]]:
        try:
            fields = self._section(place[0], place[1])
        except (zlib.error, ValueError) as error:
            raise _broken(error) from error
        if len(fields) % 2 or len(fields) > 2 * MAX_LINKS:
            raise _broken(ValueError("a table does not fit"))
        return list(zip(fields[::2], fields[1::2], strict=True))

    def _check(self, checker: Checker, made: Record) -> None:
        try:
            checker.check(made)
        except RecordError as error:
            raise _broken(error) from error

    def _block(self, number: int) -> list[Record]:
        offset, packed, text_size, size, count = self._blocks[number]
        try:
            raw = _unpacked(self._read(offset, packed), size)
            parts = raw[:text_size].decode("utf-8", "surrogateescape").split("\0")
            times = array("q", raw[text_size:])
            if len(raw) != size or len(parts) != _TEXT_FIELDS * count + 1 or len(times) != count or parts[-1]:
                raise ValueError("a block does not fit")
        except (zlib.error, ValueError) as error:
            raise _broken(error) from error
        parts.pop()
        columns = [parts[at::_TEXT_FIELDS] for at in range(_TEXT_FIELDS)]
        return list(zip(*columns, map(str, times), strict=True))

    def _section(self, offset: int, size: int) -> list[str]:
        raw = _unpacked(self._read(offset, size), _MAX_SECTION)
        fields = raw.decode("utf-8", "surrogateescape").split("\0")
        if fields.pop():
            raise ValueError("a table is cut off")
        return fields

    def _read(self, offset: int, size: int) -> bytes:
        if offset < 0:
            raise ValueError("it is too short")
        if isinstance(self._data, bytes):
            return self._data[offset : offset + size]
        self._data.seek(offset)
        return self._data.read(size)


class Writer:
    """Makes a manifest of records that come in tree order.

    Args:
        layer: Whether whiteouts and opaque directories may come.
        max_entries: See :data:`MAX_ENTRIES`.
    """

    def __init__(self, *, layer: bool = False, max_entries: int = MAX_ENTRIES) -> None:
        self._layer = layer
        self._limit = max_entries
        self._checker = Checker(layer=layer)
        self._file: IO[bytes] = io.BytesIO(_MAGIC)
        self._file.seek(len(_MAGIC))
        self._offset = len(_MAGIC)
        self._index: list[str] = []
        self._pending: list[Record] = []
        self._chars = 0
        self._hash = hashlib.sha256()
        self._links: list[tuple[str, str]] = []
        self._notes: list[tuple[str, str]] = []
        self.count = 0
        self._closing: weakref.finalize[[], Writer]

    def add(self, made: Record) -> None:
        """Append one record. ManifestError if it is not well formed, out of order or one too many."""
        try:
            self._checker.check(made)
        except RecordError as error:
            raise ManifestError(f"a producer of entries gave what it must not: {error}") from error
        if self.count >= self._limit:
            raise too_many(self._limit)
        self.count += 1
        if made[HARDLINK]:
            self._link(made[PATH], made[HARDLINK])
        self._pending.append(made)
        self._chars += len(made[0]) + len(made[3]) + len(made[6])
        if len(self._pending) >= _BLOCK_RECORDS or self._chars > _BLOCK_CHARS:
            self._flush()

    def note(self, path: str, reason: str) -> None:
        """Remember a file that was not read."""
        if len(self._notes) < MAX_LINKS:
            self._notes.append((path, reason))

    def finish(self) -> Manifest:
        """The manifest. A file whose other names are not in the tree counts as a file with one name."""
        groups: dict[str, int] = {}
        for _, group in self._links:
            groups[group] = groups.get(group, 0) + 1
        alone = {group for group, count in groups.items() if count == 1}
        self._end()
        made = self._manifest()
        if not alone:
            return made
        again = Writer(layer=self._layer, max_entries=self._limit)
        again._notes = self._notes
        for each in made.records():
            again.add((*each[:HARDLINK], "", *each[HARDLINK + 1 :]) if each[HARDLINK] in alone else each)  # type: ignore[arg-type]
        made.close()
        again._end()
        return again._manifest()

    def _link(self, path: str, group: str) -> None:
        if len(self._links) >= MAX_LINKS:
            raise too_many_links()
        self._links.append((path, group))

    def _flush(self) -> None:
        pending, self._pending, self._chars = self._pending, [], 0
        if not pending:
            return
        try:
            text = "\0".join("\0".join(made[:MTIME]) for made in pending) + "\0"
            raw = text.encode("utf-8", "surrogateescape")
            times = array("q", [int(made[MTIME]) for made in pending]).tobytes()
        except (UnicodeError, OverflowError) as error:
            raise ManifestError(f"a producer of entries gave what it must not: {error}") from error
        self._hash.update(raw)
        packed = zlib.compress(raw + times, 1)
        sizes = (self._offset, len(packed), len(raw), len(raw) + len(times), len(pending))
        self._index += [pending[0][PATH], *map(str, sizes)]
        self._file.write(packed)
        self._offset += len(packed)
        if self._offset > _SPOOL_BYTES and isinstance(self._file, io.BytesIO):
            # It has no name and goes with its last user, however that ends.
            spool = tempfile.TemporaryFile()  # noqa: SIM115
            self._closing = weakref.finalize(self, spool.close)
            spool.write(self._file.getvalue())
            self._file = spool

    def _end(self) -> None:
        self._flush()
        places: list[int] = []
        tables = (
            self._index,
            [x for pair in self._links for x in pair],
            [x for pair in self._notes for x in pair],
        )
        for fields in tables:
            raw = "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")
            packed = zlib.compress(raw, 1)
            self._file.write(packed)
            places += [self._offset, len(packed)]
            self._offset += len(packed)
        self._file.write(_FOOTER.pack(*places, self.count, self._layer, self._hash.digest(), _END))

    def _manifest(self) -> Manifest:
        if isinstance(self._file, io.BytesIO):
            return Manifest(self._file.getvalue())
        self._closing.detach()
        return Manifest(self._file)


def build(entries: Iterable[Entry], *, max_entries: int = MAX_ENTRIES) -> Manifest:
    """The manifest of entries that come in tree order."""
    writer = Writer(max_entries=max_entries)
    for each in entries:
        writer.add(records.record(each))
    return writer.finish()


def write(
    made: Iterable[Record],
    *,
    layer: bool = False,
    max_entries: int = MAX_ENTRIES,
    notes: Callable[[], Iterable[NotCompared]] | None = None,
) -> Manifest:
    """The manifest of records that come in tree order; ``notes`` is asked at the end."""
    writer = Writer(layer=layer, max_entries=max_entries)
    for each in made:
        writer.add(each)
    for note in notes() if notes is not None else ():
        writer.note(note.path, note.reason)
    return writer.finish()


def too_many(limit: int) -> ManifestError:
    """The error of a tree that is too large."""
    return ManifestError(
        f"more than {limit} files and folders: that is not compared",
        hint="leave out the folder that holds them, or compare something smaller",
    )


def too_many_links() -> ManifestError:
    """The error of a tree with too many hard links."""
    return ManifestError(f"more than {MAX_LINKS} names of hard links: that is not compared")


def _unpacked(packed: bytes, limit: int) -> bytes:
    """Decompress to at most ``limit`` bytes: a small block may claim to be a huge one."""
    engine = zlib.decompressobj()
    raw = engine.decompress(packed, limit + 1)
    if len(raw) > limit or not engine.eof or engine.unused_data:
        raise ValueError("a part has another length than it says")
    return raw


def _broken(error: Exception) -> ManifestError:
    return ManifestError(f"a stored manifest is broken: {error}")
