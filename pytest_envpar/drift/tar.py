"""Tar streams, header by header.

A reader of our own because the standard library's takes several times as long, and because what is read is hostile:
nothing is extracted, and every size and count has a limit. Formats: ustar, GNU (long
names, sparse files) and pax (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, sparse files as in
https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html), plain or compressed with gzip.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.records import MAX_PATH_BYTES
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
"""Bytes of a header, and what content is rounded up to."""
_MAX_EXTENDED = 1 << 23
_MAX_SIZE = 1 << 62
_MAX_SEGMENTS = 100_000
_ZERO_BLOCK = bytes(BLOCK)
_XATTR = "SCHILY.xattr."

Segments = list[tuple[int, int]]


class TarError(EnvparError):
    """An archive that is broken, or that is not read for what it claims."""

    code = "archive"


@dataclasses.dataclass(slots=True)
class Member:
    """A header with all its extensions: mutable while it is put together."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    stored: int
    """Bytes in the archive."""
    mtime_ns: int
    target: bytes
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    size: int = 0
    """Bytes of the file: more than are stored if it is sparse."""
    segments: Segments | None = None


def members(source: Source) -> Iterator[Member]:
    """The headers of an archive one after the other. Whoever takes one also takes or skips its data."""
    extended: dict[str, bytes] = {}
    for_all: dict[str, bytes] = {}
    long_name = long_target = None
    while True:
        header = source.read(BLOCK, at_end=True)
        if not header or header == _ZERO_BLOCK:
            return
        member = _header(header)
        kind = member.kind
        if kind in (b"L", b"K", b"x", b"g"):
            if member.stored > _MAX_EXTENDED:
                raise TarError(f"a header of {member.stored} bytes, which is more than any honest one has")
            data = source.read(member.stored)
            source.skip(-member.stored % BLOCK)
            if kind == b"L":
                long_name = data.rstrip(b"\0")
            elif kind == b"K":
                long_target = data.rstrip(b"\0")
            elif kind == b"x":
                extended |= _pax(data)
            else:
                for_all |= _pax(data)
            continue
        if kind == b"S":
            _old_sparse(member, header, source)
            member.kind = b"0"
        elif kind in (b"\0", b"7"):
            member.kind = b"5" if member.name.endswith(b"/") else b"0"
        elif kind == b"D":
            member.kind = b"5"
        elif kind not in b"0123456" or len(kind) != 1:
            # A type of one vendor: POSIX says to take it for a file.
            member.kind = b"0"
        if long_name is not None:
            member.name = long_name
        if long_target is not None:
            member.target = long_target
        if extended or for_all:
            _extend(member, {**for_all, **extended}, source)
        extended, long_name, long_target = {}, None, None
        if member.kind in (b"2", b"3", b"4", b"6"):
            member.stored = 0  # a size there is what the file system says, and no data follows
        if member.segments is None:
            member.size = member.stored
        yield member


def is_gzip(start: bytes) -> bool:
    """Whether a stream that starts so is compressed with gzip."""
    return start[:2] == b"\x1f\x8b"


class Source:
    """Bytes of a stream, taken piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(plain(pieces))
        self._data = b""
        self._at = 0
        self._before = 0
        self.holes = 0
        """Zeros so far that were not in the stream."""

    @property
    def position(self) -> int:
        """How many bytes have been taken."""
        return self._before + self._at

    def read(self, size: int, *, at_end: bool = False) -> bytes:
        """Exactly so many bytes. TarError if there are fewer; nothing at the very end if ``at_end``."""
        found = self._data[self._at : self._at + size]
        if len(found) == size:
            self._at += size
            return found
        parts, left = [found], size - len(found)
        while left:
            piece = next(self._pieces, None)
            if piece is None:
                if at_end and left == size:
                    self._data, self._at = b"", 0
                    return b""
                raise TarError("the archive is cut off")
            parts.append(piece[:left])
            self._before += len(self._data)
            self._data, self._at = piece, min(left, len(piece))
            left -= self._at
        return b"".join(parts)

    def take(self, size: int) -> Iterator[memoryview]:
        """So many bytes in pieces as they come."""
        while size > 0:
            if self._at >= len(self._data):
                piece = next(self._pieces, None)
                if piece is None:
                    raise TarError("the archive is cut off")
                self._before += len(self._data)
                self._data, self._at = piece, 0
            found = memoryview(self._data)[self._at : self._at + size]
            self._at += len(found)
            size -= len(found)
            yield found

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        if size <= len(self._data) - self._at:
            self._at += max(size, 0)
            return
        for _ in self.take(size):
            pass

    def drain(self) -> None:
        """Read to the end: whoever sends waits for that."""
        for _ in self._pieces:
            pass


def plain(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A stream without its compression. TarError if it is broken or of a kind that is not read."""
    stream = (piece for piece in pieces if piece)
    start = b""
    while len(start) < 4:
        piece = next(stream, None)
        if piece is None:
            break
        start += piece
    if start[:4] == b"\x28\xb5\x2f\xfd":
        raise TarError("the archive is compressed with zstd, which is not read", hint="compress it with gzip")
    if not is_gzip(start):
        if start:
            yield start
        yield from stream
        return
    engine = zlib.decompressobj(31)
    data: bytes | None = start
    try:
        while data is not None:
            while data:
                yield engine.decompress(data, 1 << 20)
                data = engine.unconsumed_tail
                if engine.eof:
                    data = engine.unused_data.lstrip(b"\0")
                    if data:
                        engine = zlib.decompressobj(31)  # several in a row are one, as gzip has it
            data = next(stream, None)
            if data is not None and engine.eof:
                engine = zlib.decompressobj(31)
    except zlib.error as error:
        raise TarError(f"the archive is broken: {error}") from error


def _header(block: bytes) -> Member:
    try:
        checksum = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError("this is not a tar archive") from None
    if checksum != sum(block) - sum(block[148:156]) + 256:
        raise TarError("this is not a tar archive, or it is broken: a checksum does not fit")
    name = block[:100].partition(b"\0")[0]
    ustar = block[257:263]
    if ustar == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        if prefix:
            name = prefix + b"/" + name
    kind = block[156:157]
    devices = kind in (b"3", b"4")
    return Member(
        name=name,
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        uid=_number(block[108:116]) & 0xFFFFFFFF,
        gid=_number(block[116:124]) & 0xFFFFFFFF,
        stored=_size(_number(block[124:136])),
        mtime_ns=_time(_number(block[136:148], negative=True) * 1_000_000_000),
        target=block[157:257].partition(b"\0")[0],
        major=_number(block[329:337]) if devices else 0,
        minor=_number(block[337:345]) if devices else 0,
    )


def _number(field: bytes, *, negative: bool = False) -> int:
    if field[:1] in (b"\x80", b"\xff"):
        value = int.from_bytes(field, "big", signed=field[0] == 0xFF)
        value = value if field[0] == 0xFF else value & ((1 << (8 * len(field) - 1)) - 1)
        if value < 0 and not negative:
            raise TarError("the archive is broken: a number is negative")
        return value
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError("the archive is broken: a number is none") from None


def _size(value: int) -> int:
    if not 0 <= value <= _MAX_SIZE:
        raise TarError("the archive is broken: a size is none")
    return value


def _time(value: int) -> int:
    return value if abs(value) < 1 << 63 else 0


def _pax(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = 0
    segments: list[bytes] = []
    while at < len(data):
        blank = data.find(b" ", at, at + 12)
        digits = data[at:blank]
        if blank < 0 or not digits.isdigit():
            raise TarError("the archive is broken: an extended header is none")
        end = at + int(digits)
        if end > len(data) or end <= blank or data[end - 1 : end] != b"\n":
            raise TarError("the archive is broken: an extended header is none")
        key, _, value = data[blank + 1 : end - 1].partition(b"=")
        name = key.decode("utf-8", "surrogateescape")
        if name in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            segments.append(value)
        else:
            found[name] = value
        at = end
    if segments:
        found["GNU.sparse.map"] = b",".join(segments)
    return found


def _extend(member: Member, extended: dict[str, bytes], source: Source) -> None:
    for key, value in extended.items():
        if key == "path":
            member.name = value
        elif key == "linkpath":
            member.target = value
        elif key == "size":
            member.stored = _size(_decimal(value))
        elif key == "uid":
            member.uid = _decimal(value) & 0xFFFFFFFF
        elif key == "gid":
            member.gid = _decimal(value) & 0xFFFFFFFF
        elif key == "mtime":
            member.mtime_ns = _fraction(value)
        elif key.startswith(_XATTR):
            member.xattrs[key[len(_XATTR) :]] = value
    name = extended.get("GNU.sparse.name")
    if name is not None:
        member.name = name
    size = extended.get("GNU.sparse.realsize", extended.get("GNU.sparse.size"))
    if extended.get("GNU.sparse.major") == b"1" and size is not None:
        member.size = _size(_decimal(size))
        member.segments, taken = _new_sparse(source, member.stored)
        member.stored -= taken
    elif "GNU.sparse.map" in extended and size is not None:
        member.size = _size(_decimal(size))
        numbers = extended["GNU.sparse.map"].split(b",")
        member.segments = _segments([_decimal(number) for number in numbers if number])


def _new_sparse(source: Source, stored: int) -> tuple[Segments, int]:
    """pax sparse format 1.0: the map stands before the data, as decimal lines in whole blocks."""
    numbers: list[int] = []
    rest, taken, wanted = b"", 0, 1
    while len(numbers) < wanted:
        if taken >= stored:
            raise TarError("the archive is broken: a sparse file has no map")
        *lines, rest = (rest + source.read(BLOCK)).split(b"\n")
        taken += BLOCK
        numbers += [_decimal(line) for line in lines[: wanted - len(numbers)]]
        if wanted == 1 and numbers:
            wanted = 1 + 2 * numbers[0]
            numbers += [_decimal(line) for line in lines[1:wanted]]
        if wanted > 2 * _MAX_SEGMENTS:
            raise TarError("a sparse file of more pieces than any honest one has")
    return _segments(numbers[1:]), taken


def _old_sparse(member: Member, header: bytes, source: Source) -> None:
    numbers: list[int] = []
    for at in range(386, 482, 24):
        if header[at] == 0:
            break
        numbers += [_number(header[at : at + 12]), _number(header[at + 12 : at + 24])]
    member.size = _size(_number(header[483:495]))
    more = header[482]
    while more:
        block = source.read(BLOCK)
        for at in range(0, 504, 24):
            if block[at] == 0:
                break
            numbers += [_number(block[at : at + 12]), _number(block[at + 12 : at + 24])]
        more = block[504]
        if len(numbers) > 2 * _MAX_SEGMENTS:
            raise TarError("a sparse file of more pieces than any honest one has")
    member.segments = _segments(numbers)


def _segments(numbers: list[int]) -> Segments:
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_SEGMENTS:
        raise TarError("the archive is broken: the map of a sparse file is incomplete")
    made = list(zip(numbers[::2], numbers[1::2], strict=True))
    at = 0
    for start, size in made:
        if start < at:
            raise TarError("the archive is broken: the map of a sparse file is out of order")
        at = start + size
    return made


def padded(size: int) -> int:
    """What so many bytes of content take in an archive."""
    return size + -size % BLOCK


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise TarError("the archive is broken: a number is none")
    return int(value)


def _fraction(value: bytes) -> int:
    whole, _, rest = value.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    digits = whole.lstrip(b"-") or b"0"
    if not digits.isdigit() or (rest and not rest.isdigit()) or len(value) > 40:
        raise TarError("the archive is broken: a time is none")
    return _time(sign * (int(digits) * 1_000_000_000 + int(rest[:9].ljust(9, b"0") or b"0")))


def tree_path(name: bytes) -> str:
    """A member's name as a path of the tree. An absolute one is that of the tree; ``..`` is of no honest archive."""
    if len(name) > MAX_PATH_BYTES:
        raise TarError(f"a name of {len(name)} bytes, which is more than is read")
    parts = [part for part in text(name).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise TarError(f"the archive names {text(name)[:200]!r}, which leads out of it")
    return "/" + "/".join(parts)


def text(name: bytes) -> str:
    """A name as text: bytes that are not UTF-8 are surrogate-escaped."""
    return name.replace(b"\0", b"").decode("utf-8", "surrogateescape")
