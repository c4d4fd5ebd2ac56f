"""Bringing files that were written inside back to the host.

The archive comes from a container and is hostile: it is read as a stream, its names only ever select files
below the project root, and nothing is extracted by its own path, type or mode.
"""

from __future__ import annotations

import contextlib
import filecmp
import io
import os
import re
import secrets
import shutil
import stat
import tarfile
from typing import IO, TYPE_CHECKING

from pytest_envpar.errors import EngineError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path, PurePosixPath

    from pytest_envpar.engine.api import Engine

_PIECE = 256 * 1024


def collect(
    engine: Engine,
    container_id: str,
    root_in_container: PurePosixPath,
    patterns: Sequence[str],
    host_root: Path,
) -> list[Path]:
    """Bring files below the project root inside that match a pattern to the same place on the host.

    Works on running and on ended containers, except that Podman drops an overlay when its container ends: collect
    before that. Directories, symbolic links, devices and names that leave the
    root are never brought back; a hard link comes as the file it names, if that came too.

    Args:
        root_in_container: The project root inside.
        patterns: The ``artifacts`` globs, relative to the project root: ``**`` crosses folders.
        host_root: The project root on the host.

    Returns:
        The files written (host paths), sorted.

    Raises:
        UsageError: A file cannot be written on the host.
        EngineError: The engine failed.
    """
    written: set[Path] = set()
    for start, group in _starts(patterns).items():
        matches = [re.compile(_regex(pattern), re.DOTALL) for pattern in group]
        with contextlib.suppress(NotFoundError):
            chunks = engine.get_archive(container_id, root_in_container / start)
            written |= _receive(chunks, start, matches, host_root)
    return sorted(written)


def _starts(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Patterns by the folder or file before their first wildcard, so that only these parts are fetched.

    A pattern whose start lies below another's joins that one: nothing is fetched twice.
    """
    split: list[tuple[str, str]] = []
    for pattern in patterns:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            continue
        fixed = []
        for part in parts:
            if re.search(r"[*?\[]", part):
                break
            fixed.append(part)
        split.append(("/".join(fixed), "/".join(parts)))
    starts: dict[str, list[str]] = {}
    for start, pattern in sorted(split):
        above = next((s for s in starts if s == start or not s or start.startswith(s + "/")), None)
        starts.setdefault(start if above is None else above, []).append(pattern)
    return starts


def _regex(pattern: str) -> str:
    """``*`` and ``?`` stay within a name, ``**`` crosses folders; a match of a folder takes all below it."""
    made = []
    for part in pattern.split("/"):
        if part == "**":
            made.append("(?:[^/]+/)*")
            continue
        piece = ""
        for found in re.finditer(r"\[!?[^\]]+\]|.", part, re.DOTALL):
            sign = found.group()
            if sign == "*":
                piece += "[^/]*"
            elif sign == "?":
                piece += "[^/]"
            elif len(sign) > 1:
                inner = sign[1:-1].replace("\\", "\\\\")
                piece += f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
            else:
                piece += re.escape(sign)
        made.append(piece + "/")
    return "".join(made) + (".*" if not pattern.endswith("**") else ".+")


def _receive(
    chunks: Iterable[bytes], start: str, matches: Sequence[re.Pattern[str]], host_root: Path
) -> set[Path]:
    """Write the matching files of an archive of ``start`` below ``host_root``."""
    # An engine names the members below the last part of the path that was asked for.
    above = start.rpartition("/")[0] if start else None
    seen: dict[str, Path] = {}
    written: set[Path] = set()
    try:
        with tarfile.open(fileobj=ChunkReader(chunks), mode="r|", bufsize=_PIECE) as archive:
            for member in archive:
                relative = _safe_name(member.name, above)
                if relative is None or not any(match.fullmatch(relative + "/") for match in matches):
                    continue
                target = host_root / relative
                if member.isreg():
                    source = archive.extractfile(member)
                    if source is not None:
                        if _write(target, host_root, source, member.mtime):
                            written.add(target)
                        seen[relative] = target
                elif member.islnk():
                    first = seen.get(_safe_name(member.linkname, above) or "")
                    if first is not None:
                        with first.open("rb") as source:
                            if _write(target, host_root, source, member.mtime):
                                written.add(target)
    except tarfile.TarError as error:
        raise EngineError(
            f"artifacts: the engine's archive of {start or 'the project'} ends early: {error}"
        ) from error
    return written


def _same(target: Path, beside: Path) -> bool:
    """Whether the host has a regular file with this content. Times do not tell: engines round them in archives."""
    try:
        regular = stat.S_ISREG(target.lstat().st_mode)
    except OSError:
        return False
    return regular and filecmp.cmp(target, beside, shallow=False)


def _safe_name(name: str, above: str | None) -> str | None:
    """A member's path relative to the project root; ``None`` if it is none below it."""
    if name.startswith("/") or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return None
    if above is None:
        parts = parts[1:]  # the project root's own name
    elif above:
        parts = [*above.split("/"), *parts]
    return "/".join(parts) or None


def _write(target: Path, host_root: Path, source: IO[bytes], mtime: float) -> bool:
    """Write beside the target and rename, through no symbolic link below the root; False if it is there already."""
    try:
        folder = host_root
        for part in target.relative_to(host_root).parts[:-1]:
            folder /= part
            if folder.is_symlink():
                raise UsageError(
                    f"artifacts: {target} is not written: {folder} is a symbolic link",
                    hint="remove the link, or choose another folder for the artifacts",
                )
            folder.mkdir(exist_ok=True)
        clamped = max(0.0, min(mtime, 2.0**40))  # the time is as hostile as the rest
        beside = folder / f".envpar-{secrets.token_hex(6)}"
        try:
            with beside.open("xb") as file:
                shutil.copyfileobj(source, file, _PIECE)
            if _same(target, beside):
                return False
            os.utime(beside, (clamped, clamped))
            beside.replace(target)
            return True
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"artifacts: {target} cannot be written: {error}",
            hint="a file may be in the place of a folder, or the project is not writable for you",
        ) from error


class ChunkReader(io.RawIOBase):
    """A stream of chunks as the file that tarfile reads from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            if self._at == len(self._chunk):
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._chunk, self._at = chunk, 0
            part = self._chunk[self._at : self._at + missing] if missing > 0 else self._chunk[self._at :]
            self._at += len(part)
            missing -= len(part) if missing > 0 else 0
            parts.append(part)
        return b"".join(parts)
