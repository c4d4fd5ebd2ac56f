"""What the comparison of containers gives, on its way to a test inside: values, and the rows in which they travel.

The host compares; its results (``pytest_envpar.drift``) may be of any size. They become rows of plain JSON, packed some
hundred at a time, so that no message is large. The types here have the names and fields of the host's.
"""

import dataclasses
import json
import struct
import zlib
from pathlib import PurePosixPath
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

_ROWS = 512
_MOST_CHARS = 1 << 18
_LENGTH = struct.Struct(">I")


@dataclasses.dataclass(frozen=True)
class Entry:
    path: str
    type: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""
    device: Optional[Tuple[int, int]] = None
    xattrs: Tuple[Tuple[str, bytes], ...] = ()
    hardlink: str = ""
    mtime_ns: int = 0


@dataclasses.dataclass(frozen=True, order=True)
class ContainerChange:
    """One path of ``Container.changes()``: ``pytest_envpar.drift.changes.Change``."""

    path: PurePosixPath
    kind: str
    attributes: Tuple[str, ...] = ()
    noise: Optional[str] = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Changes:
    items: Tuple[ContainerChange, ...] = ()
    noise: Tuple[ContainerChange, ...] = ()

    def __iter__(self) -> Iterator[ContainerChange]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def count(self, kind: str) -> int:
        return sum(change.kind == kind for change in self.items)


@dataclasses.dataclass(frozen=True)
class Change:
    """One path of ``Container.diff()``: ``pytest_envpar.drift.model.Change``."""

    path: str
    kind: str
    attributes: Tuple[str, ...] = ()
    before: Optional[Entry] = None
    after: Optional[Entry] = None


@dataclasses.dataclass(frozen=True)
class ConfigChange:
    field: str
    before: Optional[str]
    after: Optional[str]


@dataclasses.dataclass(frozen=True)
class NotCompared:
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    left: str
    right: str
    route: str
    changes: Tuple[Change, ...] = ()
    config: Tuple[ConfigChange, ...] = ()
    not_compared: Tuple[NotCompared, ...] = ()
    why: Tuple[str, ...] = ()


class Manifest:
    """All entries of a container's file system; they stay packed until they are looked at."""

    def __init__(self, told: Dict[str, Any], data: bytes) -> None:
        self.count = int(told["count"])
        self.fingerprint = str(told["fingerprint"])
        self._notes = tuple(NotCompared(path, reason) for path, reason in told["notes"])
        self._data = data

    def __iter__(self) -> Iterator[Entry]:
        return (_entry(row) for row in unpack(self._data))

    def notes(self) -> Tuple[NotCompared, ...]:
        return self._notes


# --- on the host -------------------------------------------------------------------------------------------------


def changes_rows(changes: Any) -> Iterator[List[Any]]:
    """Of ``pytest_envpar.drift.changes.Changes``."""
    for each in (*changes.items, *changes.noise):
        yield [str(each.path), each.kind, list(each.attributes), each.noise]


def comparison_rows(made: Any) -> Iterator[List[Any]]:
    """Of ``pytest_envpar.drift.model.Comparison``, but for its names and route."""
    for change in made.changes:
        entries = [None if each is None else entry_row(each) for each in (change.before, change.after)]
        yield ["changes", change.path, change.kind, list(change.attributes), *entries]
    for config in made.config:
        yield ["config", config.field, config.before, config.after]
    for note in made.not_compared:
        yield ["not_compared", note.path, note.reason]
    for line in made.why:
        yield ["why", line]


def entry_row(entry: Any) -> List[Any]:
    """Of ``pytest_envpar.drift.model.Entry``."""
    return [
        *(entry.path, entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.digest, entry.target),
        *(entry.device, [[name, value.hex()] for name, value in entry.xattrs]),
        *(entry.hardlink, entry.mtime_ns),
    ]


def pack(rows: Iterable[List[Any]]) -> Iterator[bytes]:
    """Rows as packed pieces, each with its length in front."""
    lines: List[str] = []
    chars = 0
    for row in rows:
        lines.append(json.dumps(row, separators=(",", ":")))
        chars += len(lines[-1])
        if len(lines) >= _ROWS or chars > _MOST_CHARS:
            yield _packed(lines)
            lines, chars = [], 0
    if lines:
        yield _packed(lines)


def _packed(lines: List[str]) -> bytes:
    data = zlib.compress("\n".join(lines).encode("ascii"), 1)
    return _LENGTH.pack(len(data)) + data


# --- inside ------------------------------------------------------------------------------------------------------


def unpack(data: bytes) -> Iterator[List[Any]]:
    """The opposite of :func:`pack`."""
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        for line in zlib.decompress(data[at : at + length]).split(b"\n"):
            yield json.loads(line)
        at += length


def changes_of(data: bytes) -> Changes:
    """What :func:`changes_rows` told."""
    found = [
        ContainerChange(PurePosixPath(path), kind, tuple(attributes), noise)
        for path, kind, attributes, noise in unpack(data)
    ]
    return Changes(
        tuple(each for each in found if each.noise is None),
        tuple(each for each in found if each.noise is not None),
    )


def comparison_of(told: Dict[str, Any], data: bytes) -> Comparison:
    """What :func:`comparison_rows` told."""
    found: Dict[str, List[Any]] = {"changes": [], "config": [], "not_compared": [], "why": []}
    for tag, *row in unpack(data):
        if tag == "changes":
            path, kind, attributes, before, after = row
            entries = [None if each is None else _entry(each) for each in (before, after)]
            found[tag].append(Change(path, kind, tuple(attributes), *entries))
        elif tag == "config":
            found[tag].append(ConfigChange(*row))
        elif tag == "not_compared":
            found[tag].append(NotCompared(*row))
        else:
            found[tag].append(row[0])
    return Comparison(
        str(told["left"]),
        str(told["right"]),
        str(told["route"]),
        **{name: tuple(each) for name, each in found.items()},
    )


def _entry(row: List[Any]) -> Entry:
    path, kind, mode, uid, gid, size, digest, target, device, xattrs, hardlink, mtime_ns = row
    number = None if device is None else (device[0], device[1])
    values = tuple((name, bytes.fromhex(value)) for name, value in xattrs)
    return Entry(path, kind, mode, uid, gid, size, digest, target, number, values, hardlink, mtime_ns)
