"""Entries as the flat tuples of text that producers, the codec and the comparison pass around.

A million of them are looked at for one comparison, so that no object is made of one before it differs. A record is the
fields of an :class:`~pytest_envpar.drift.model.Entry` in a fixed order, and everything a record says is text:

    path       as in an Entry
    kind       one letter and the permissions in octal: f644, d755, l777, c, b, p, s; only in layers: D755, a directory
               that hides what is below; w, a whiteout; i, a directory that is only known from what is in it
    owner      uid:gid
    detail     size of a file, target of a link, major:minor of a device, else empty
    digest     as in an Entry
    hardlink   as in an Entry
    xattrs     name=value in hex, separated by blanks, sorted
    mtime      in nanoseconds; the last, because it takes no part in fingerprints and is not compared by default
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.drift.model import Type

Record = tuple[str, str, str, str, str, str, str, str]

PATH, KIND, OWNER, DETAIL, DIGEST, HARDLINK, XATTRS, MTIME = range(8)
FIELDS = 8

MAX_PATH_BYTES = 1 << 16
"""A path may be longer than the kernel's limit for one call (4096), which programs reach step by step."""
MAX_XATTRS_CHARS = 1 << 18

EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of nothing."""

WHITEOUT = "w"
IMPLIED = "i"

_TYPES: Mapping[str, Type] = {
    "f": "file",
    "d": "directory",
    "D": "directory",
    "i": "directory",
    "l": "link",
    "c": "character",
    "b": "block",
    "p": "fifo",
    "s": "socket",
}
_LETTERS = {name: letter for letter, name in _TYPES.items() if letter.islower() and letter != "i"}
_KIND = re.compile(r"[fdDlcbps][0-7]{1,4}|i755|w")
_OWNER = re.compile(r"\d{1,10}:\d{1,10}")
_SIZE = re.compile(r"\d{1,19}")
_DEVICE = re.compile(r"\d{1,10}:\d{1,10}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MTIME = re.compile(r"-?\d{1,19}")
_XATTRS = re.compile(r"(?:[0-9a-f]{2})+=(?:[0-9a-f]{2})*(?: (?:[0-9a-f]{2})+=(?:[0-9a-f]{2})*)*")
# An empty name, ".", ".." or a slash at the end.
_BAD_NAME = re.compile(r"/\.{0,2}(?:/|\Z)")


class RecordError(ValueError):
    """A record that no honest producer makes."""


def order(path: str) -> str:
    """A key with the order of :func:`~pytest_envpar.drift.model.sort_key`, as one text: faster to compare."""
    return path.replace("/", "\0")


def record(entry: Entry) -> Record:
    """An entry as a record."""
    if entry.type == "file":
        detail = str(entry.size)
    elif entry.type == "link":
        detail = entry.target
    elif entry.device is not None:
        detail = f"{entry.device[0]}:{entry.device[1]}"
    else:
        detail = ""
    return (
        entry.path,
        f"{_LETTERS[entry.type]}{entry.mode:o}",
        f"{entry.uid}:{entry.gid}",
        detail,
        entry.digest,
        entry.hardlink,
        pack_xattrs(dict(entry.xattrs)),
        str(entry.mtime_ns),
    )


def entry(made: Record) -> Entry:
    """A record as an entry. ValueError for a whiteout, which is none."""
    path, kind, owner, detail, digest, hardlink, xattrs, mtime = made
    if kind == WHITEOUT:
        raise ValueError(f"{path}: a whiteout is no entry")
    uid, _, gid = owner.partition(":")
    letter = kind[0]
    return Entry(
        path=path,
        type=_TYPES[letter],
        mode=int(kind[1:], 8),
        uid=int(uid),
        gid=int(gid),
        size=int(detail) if letter == "f" else 0,
        digest=digest,
        target=detail if letter == "l" else "",
        device=_device(detail) if letter in "cb" else None,
        xattrs=unpack_xattrs(xattrs),
        hardlink=hardlink,
        mtime_ns=int(mtime),
    )


def pack_xattrs(xattrs: Mapping[str, bytes]) -> str:
    """Extended attributes as the text in a record."""
    if not xattrs:
        return ""
    return " ".join(
        f"{name.encode('utf-8', 'surrogateescape').hex()}={value.hex()}"
        for name, value in sorted(xattrs.items())
    )


def unpack_xattrs(text: str) -> tuple[tuple[str, bytes], ...]:
    """The opposite of :func:`pack_xattrs`."""
    if not text:
        return ()
    pairs = (item.partition("=") for item in text.split(" "))
    return tuple(
        (bytes.fromhex(name).decode("utf-8", "surrogateescape"), bytes.fromhex(value))
        for name, _, value in pairs
    )


class Checker:
    """Says of one record after the other whether it is well formed and follows the one before.

    Args:
        layer: Whether whiteouts and opaque directories may be in it.
        ordered: Whether they have to come in tree order, and the first name of a file first.
    """

    def __init__(self, *, layer: bool, ordered: bool = True) -> None:
        self._layer = layer
        self._ordered = ordered
        self._last = ""
        self._kinds: set[str] = set()
        self._owners: set[str] = set()

    def check(self, made: Record) -> None:
        """Raises RecordError if the record is not what an honest producer makes, or is out of order."""
        path, kind, owner, detail, digest, hardlink, xattrs, mtime = made
        if (path != "/" and (path[:1] != "/" or _BAD_NAME.search(path))) or len(path) > MAX_PATH_BYTES:
            raise RecordError(f"not a path: {path[:80]!r}")
        key = order(path)
        if self._ordered and key <= self._last:
            raise RecordError(f"out of order: {path[:80]!r}")
        self._last = key
        # There are few of them, and each is the same text again.
        if kind not in self._kinds:
            if not _KIND.fullmatch(kind) or (not self._layer and kind[0] in "wDi"):
                raise RecordError(f"not a kind: {kind[:80]!r}")
            if len(self._kinds) < 1000:
                self._kinds.add(kind)
        if owner not in self._owners:
            if not _OWNER.fullmatch(owner):
                raise RecordError(f"not an owner: {owner[:80]!r}")
            if len(self._owners) < 1000:
                self._owners.add(owner)
        letter = kind[0]
        if letter == "f":
            if not _SIZE.fullmatch(detail) or (digest and not _DIGEST.fullmatch(digest)):
                raise RecordError(f"not a file: {path[:80]!r}")
        elif digest or (letter in "cb" and not _DEVICE.fullmatch(detail)):
            raise RecordError(f"not what its kind says: {path[:80]!r}")
        elif letter == "l":
            if len(detail) > MAX_PATH_BYTES:
                raise RecordError(f"target too long: {path[:80]!r}")
        elif detail and letter not in "cb":
            raise RecordError(f"not what its kind says: {path[:80]!r}")
        if hardlink and (letter in "dDiw" or hardlink[0] != "/" or (self._ordered and order(hardlink) > key)):
            raise RecordError(f"not a hard link: {path[:80]!r}")
        if xattrs and (len(xattrs) > MAX_XATTRS_CHARS or not _XATTRS.fullmatch(xattrs)):
            raise RecordError(f"not extended attributes: {path[:80]!r}")
        if not _MTIME.fullmatch(mtime):
            raise RecordError(f"not a time: {mtime[:80]!r}")


def _device(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return int(major), int(minor)
