"""Two contents of one file: alike but for noise, and how texts differ."""

from __future__ import annotations

import difflib
import struct
from typing import TYPE_CHECKING

from pytest_envpar.drift.bytecode import alike_but_for_filename

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_COMPARED = 64 << 20
"""Bytes of a file that is read for this."""
MAX_TEXT = 256 << 10
"""Bytes of a text that is shown as a diff: the time of one grows faster than its input."""
MAX_LINES = 4_000
_ELF_NOISE = (b".note.gnu.build-id", b".gnu_debuglink")
_SHADOW = ("/etc/shadow", "/etc/shadow-")


def alike_but_for_noise(path: str, before: bytes, after: bytes) -> bool:
    """Whether two contents differ only where every build writes something else.

    Exact: an ELF's build id and the name of its debug file, the header of a ``.pyc`` after its magic number (its time
    and the size of the source) and the name of the file that it was compiled from, the time in the header of a gzip
    file, the day of the last change in ``/etc/shadow``.
    """
    if len(before) != len(after) and not may_change_size(path):
        return False
    if path in _SHADOW:
        return _without_day(before) == _without_day(after)
    if before[:4] == after[:4] == b"\x7fELF":
        one, other = _masked(before), _masked(after)
        return one is not None and one == other
    if path.endswith(".pyc"):
        return alike_but_for_filename(before, after)
    if len(before) > 10 and before[:3] == after[:3] == b"\x1f\x8b\x08":
        return before[3] == after[3] and before[8:] == after[8:]
    return False


def may_change_size(path: str) -> bool:
    """Whether a file's noise can change its length."""
    return path in _SHADOW or path.endswith(".pyc")


def worth_reading(path: str, head: bytes) -> bool:
    """Whether :func:`alike_but_for_noise` could say so of a file that begins with ``head``."""
    return path in _SHADOW or path.endswith(".pyc") or head[:4] == b"\x7fELF" or head[:3] == b"\x1f\x8b\x08"


def _without_day(data: bytes) -> list[bytes]:
    found = []
    for line in data.split(b"\n"):
        fields = line.split(b":")
        found.append(b":".join((*fields[:2], b"", *fields[3:])) if len(fields) == 9 else line)
    return found


def _masked(data: bytes) -> bytes | None:
    """An ELF with its noise zeroed (System V ABI, "Sections"); None if its tables cannot be followed."""
    if len(data) < 64 or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    order, wide = "<" if data[5] == 1 else ">", data[4] == 2
    try:
        (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", data, 40 if wide else 32)
        size, count, names = struct.unpack_from(f"{order}HHH", data, 58 if wide else 46)
        sections = [_section(data, table + size * index, order, wide) for index in range(count)]
        _, strings, strings_size = sections[names]
        masked = bytearray(data)
        for name_at, offset, length in sections:
            end = data.find(b"\0", strings + name_at, strings + strings_size)
            if data[strings + name_at : end] in _ELF_NOISE and offset + length <= len(data):
                masked[offset : offset + length] = bytes(length)
    except (struct.error, IndexError, ValueError, OverflowError, MemoryError):
        return None
    return bytes(masked)


def _section(data: bytes, at: int, order: str, wide: bool) -> tuple[int, int, int]:
    """Place of the name, offset and size of one section."""
    if wide:
        name, _, _, _, offset, size = struct.unpack_from(f"{order}IIQQQQ", data, at)
    else:
        name, _, _, _, offset, size = struct.unpack_from(f"{order}IIIIII", data, at)
    return name, offset, size


def text_diff(before: bytes | None, after: bytes | None, limit: int = 40) -> list[str] | None:
    """The unified diff of two texts without its two header lines; None if one of them is no text.

    Args:
        before: A content, ``None`` for a file that is not there.
        limit: Lines; a last one tells that there are more.
    """
    sides = [_text(data) for data in (before or b"", after or b"")]
    if sides[0] is None or sides[1] is None:
        return None
    lines = list(_hunks(sides[0], sides[1], limit))
    return [*lines[:limit], "… more lines differ"] if len(lines) > limit else lines


def _hunks(before: list[str], after: list[str], limit: int) -> Iterator[str]:
    for index, line in enumerate(difflib.unified_diff(before, after, n=1, lineterm="")):
        if index >= 2:
            yield line
        if index > limit + 2:
            return


def _text(data: bytes) -> list[str] | None:
    if len(data) > MAX_TEXT or b"\0" in data:
        return None
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    if lines and not lines[-1]:
        lines.pop()
    return lines if len(lines) <= MAX_LINES else None
