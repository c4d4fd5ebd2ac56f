"""Two compiled Python modules that differ only in the name of the file that they were compiled from.

Both are walked through side by side, byte by byte, in the format of ``marshal``; nothing is ever loaded. What is the
name of a file is known by its place in a code object, which is another in each version of Python: the format is that of
``Python/marshal.c`` (``w_object`` and ``r_object``), of the versions whose magic number is known here. Anything else is
told to differ.
"""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = 16
"""Bytes before the code: magic number, flags, and time and size or a hash of the source (PEP 552)."""
# Six numbers; code, constants, names, variables, free and cell variables; file, name, first line, table of lines.
_TO_310 = "llllllooooooFolo"
# Five numbers; code, constants, names, all variables, their kinds; file, name, qualified name, first line, two tables.
_FROM_311 = "llllloooooFooloo"
_LAYOUTS: Mapping[int, str] = MappingProxyType(
    {
        3413: _TO_310,
        3425: _TO_310,
        3439: _TO_310,
        3495: _FROM_311,
        3531: _FROM_311,
        3571: _FROM_311,
    }
)
"""By magic number: Python 3.8 to 3.13. ``l`` is a number of four bytes, ``o`` an object, ``F`` the name of the file."""
_MAX_DEPTH = 200
_REF = 0x80
_PLAIN = frozenset(b"NTFS.0")
"""Types without content: None, True, False, StopIteration, Ellipsis, the end of a dictionary."""
_FIXED: Mapping[int, int] = MappingProxyType({ord("i"): 4, ord("g"): 8, ord("y"): 16})
_TEXTS = frozenset(b"suatA")
"""Types with a length of four bytes and so many bytes: bytes and texts."""
_SHORT_TEXTS = frozenset(b"zZ")
_SEQUENCES = frozenset(b"([<>")


class _DiffersError(Exception):
    """They are not alike, or not what they have to be."""


def alike_but_for_filename(before: bytes, after: bytes) -> bool:
    """Whether two ``.pyc`` files have the same code but for the name of its file."""
    if before[:4] != after[:4] or len(before) < HEADER or len(after) < HEADER:
        return False
    if before[HEADER:] == after[HEADER:]:
        return len(before) > HEADER
    layout = _LAYOUTS.get(struct.unpack_from("<H", before)[0])
    if layout is None:
        return False
    walk = _Walk(before, after, layout)
    try:
        walk.object(0)
    except (_DiffersError, struct.error, IndexError):
        return False
    return walk.at_end()


class _Walk:
    """Both files at the same place of their structure. Mutable.

    Args:
        layout: The fields of a code object.
    """

    def __init__(self, before: bytes, after: bytes, layout: str) -> None:
        self._data = (before, after)
        self._at = [HEADER, HEADER]
        self._layout = layout
        self._refs = 0
        self._names: dict[int, bool] = {}
        """Objects that are names of files: their number as a reference, and whether they are the same."""

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return all(at == len(data) for at, data in zip(self._at, self._data, strict=True))

    def object(self, depth: int, *, filename: bool = False) -> None:
        """Pass over an object on both sides."""
        if depth > _MAX_DEPTH:
            raise _DiffersError
        flagged = self._same(1)[0]
        kind = flagged & ~_REF
        number = self._refs
        if flagged & _REF:
            self._refs += 1
        if filename and (kind in _TEXTS or kind in _SHORT_TEXTS):
            same = self._texts(kind)
            if flagged & _REF:
                self._names[number] = same
        elif kind == ord("r"):
            (number,) = struct.unpack("<I", self._same(4))
            # What is the name of a file elsewhere is a value here.
            if not (filename or self._names.get(number, True)):
                raise _DiffersError
        elif kind in _PLAIN:
            pass
        elif kind in _FIXED:
            self._same(_FIXED[kind])
        elif kind in _TEXTS:
            self._same(self._number())
        elif kind in _SHORT_TEXTS:
            self._same(self._same(1)[0])
        elif kind == ord("l"):
            (digits,) = struct.unpack("<i", self._same(4))
            self._same(2 * abs(digits))
        elif kind == ord(")"):
            self._several(self._same(1)[0], depth)
        elif kind in _SEQUENCES:
            self._several(self._number(), depth)
        elif kind == ord("c"):
            self._code(depth)
        else:
            # Dictionaries, complex numbers as text and what else no compiler writes.
            raise _DiffersError

    def _code(self, depth: int) -> None:
        for field in self._layout:
            if field == "l":
                self._same(4)
            else:
                self.object(depth + 1, filename=field == "F")

    def _several(self, count: int, depth: int) -> None:
        for _ in range(count):
            self.object(depth + 1)

    def _texts(self, kind: int) -> bool:
        """Pass over a text that may be another on each side; whether it is the same."""
        found = []
        for side, data in enumerate(self._data):
            width = 1 if kind in _SHORT_TEXTS else 4
            size = int.from_bytes(data[self._at[side] : self._at[side] + width], "little")
            self._at[side] += width + size
            if self._at[side] > len(data):
                raise _DiffersError
            found.append(data[self._at[side] - size : self._at[side]])
        return found[0] == found[1]

    def _number(self) -> int:
        (number,) = struct.unpack("<I", self._same(4))
        return int(number)

    def _same(self, size: int) -> bytes:
        """The next bytes, which are the same on both sides."""
        one, two = (data[at : at + size] for at, data in zip(self._at, self._data, strict=True))
        if one != two or len(one) != size:
            raise _DiffersError
        self._at = [at + size for at in self._at]
        return one
