"""Tar streams as manifests: an engine's export, a layer of an image, any root file system."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_envpar.drift import manifest
from pytest_envpar.drift.inside import digests, files
from pytest_envpar.drift.records import EMPTY_DIGEST, WHITEOUT, pack_xattrs
from pytest_envpar.drift.sorting import Sorter
from pytest_envpar.drift.tar import (
    BLOCK,
    Member,
    Segments,
    Source,
    TarError,
    members,
    padded,
    text,
    tree_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_envpar.drift.manifest import Manifest
    from pytest_envpar.drift.records import Record

_MAX_HOLES = 1 << 36
"""Zeros that holes of sparse files stand for, in all of an archive: they cost time and no bytes."""
_ZEROS = bytes(1 << 20)
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_KINDS = {b"3": "c", b"4": "b", b"6": "p"}


def tar_manifest(
    pieces: Iterable[bytes],
    *,
    layer: bool = False,
    max_entries: int = manifest.MAX_ENTRIES,
    skip: Callable[[str], bool] | None = None,
) -> Manifest:
    """Everything in an archive.

    Args:
        pieces: The stream. It is read to its end.
        layer: Whether ``.wh.`` names are the marks of an image layer.
        max_entries: See :data:`~pytest_envpar.drift.manifest.MAX_ENTRIES`.
        skip: Whether a path is left out; its content is not digested either.

    Raises:
        TarError: It is no archive, is cut off, names a path with ``..``, or claims too much.
        ManifestError: It has too many entries.
    """
    sorter = Sorter(layer=layer, max_entries=max_entries)
    source = Source(pieces)
    opaque: set[str] = set()
    for member in members(source):
        path = tree_path(member.name)
        if skip is not None and skip(path):
            source.skip(padded(member.stored))
            continue
        if layer:
            folder, _, name = path.rpartition("/")
            folder = folder or "/"
            if name == _OPAQUE:
                opaque.add(folder)
                sorter.imply(folder)
                source.skip(padded(member.stored))
                continue
            if name.startswith(_WHITEOUT):
                source.skip(padded(member.stored))
                hidden = name[len(_WHITEOUT) :]
                if not hidden.startswith(_WHITEOUT) and hidden not in ("", ".", ".."):
                    _whiteout(sorter, f"{folder.rstrip('/')}/{hidden}", opaque)
                continue
        _take(sorter, source, member, path, opaque)
    source.drain()
    for folder in sorted(opaque):
        made = sorter.get(folder)
        if made is not None and made[1][0] in "di":
            sorter.add((folder, f"D{made[1][1:]}", *made[2:]))
    return sorter.finish()


def first_record(pieces: Iterable[bytes], path: str) -> Record | None:
    """The record of the first member of an archive, under another path; the rest is not read.

    Raises:
        TarError: It is no archive.
    """
    stream = iter(pieces)
    source = Source(stream)
    member = next(members(source), None)
    made = None
    if member is not None and member.kind != b"1":
        sorter = Sorter(layer=False, max_entries=10)
        _take(sorter, source, member, "/it", set())
        made = sorter.get("/it")
    close = getattr(stream, "close", None)
    if close is not None:
        close()
    return None if made is None else (path, *made[1:])


def _whiteout(sorter: Sorter, path: str, opaque: set[str]) -> None:
    made = sorter.get(path)
    if made is None:
        sorter.imply(path[: path.rfind("/")] or "/")
        sorter.add((path, WHITEOUT, "0:0", "", "", "", "", "0"))
    elif made[1][0] in "di":
        # Removed and made again in one layer: the mark is for what was below.
        opaque.add(path)


def _take(sorter: Sorter, source: Source, member: Member, path: str, opaque: set[str]) -> None:
    if path != "/":
        sorter.imply(path[: path.rfind("/")] or "/")
    if member.kind == b"1":
        source.skip(padded(member.stored))
        target = tree_path(member.target)
        if not sorter.link(path, target):
            sorter.add((path, f"f{member.mode:o}", f"{member.uid}:{member.gid}", "0", "", "", "", "0"))
            sorter.note(path, "it is a hard link to what is not in the archive")
        return
    detail = digest = ""
    kind = f"{_KINDS.get(member.kind, 'f')}{member.mode:o}"
    if member.kind == b"5":
        kind = f"d{member.mode:o}"
        earlier = sorter.get(path) if path != "/" else None
        if earlier is not None and earlier[1] == WHITEOUT:
            opaque.add(path)
    elif member.kind == b"2":
        kind, detail = "l777", text(member.target)
    elif member.kind in (b"3", b"4"):
        detail = f"{member.major}:{member.minor}"
    elif member.kind != b"6":
        detail, digest = str(member.size), _digest(source, member)
        member.stored = 0
    source.skip(padded(member.stored))
    xattrs = {name: value for name, value in member.xattrs.items() if files.is_compared(name)}
    sorter.add(
        (
            path,
            kind,
            f"{member.uid}:{member.gid}",
            detail,
            digest,
            "",
            pack_xattrs(xattrs) if xattrs else "",
            str(member.mtime_ns),
        )
    )


def _digest(source: Source, member: Member) -> str:
    """The digest of a member's content, which is taken from the stream."""
    if member.segments is None and member.size <= BLOCK * 256:
        # Nearly all: in one piece.
        data = source.read(member.size)
        source.skip(-member.size % BLOCK)
        return hashlib.sha256(data).hexdigest() if data else EMPTY_DIGEST
    segments = [(0, member.size)] if member.segments is None else member.segments
    if (segments and sum(segments[-1]) > member.size) or sum(size for _, size in segments) > member.stored:
        raise TarError("the archive is broken: a sparse file is longer than it says")
    if member.size < digests.SPARSE_FROM:
        made = hashlib.sha256()
        at = 0
        for start, size in segments:
            _holes(made.update, start - at, source)
            for piece in source.take(size):
                made.update(piece)
            at = start + size
        _holes(made.update, member.size - at, source)
        digest = made.hexdigest()
    else:
        digest = _sparse_digest(source, member.size, segments)
    source.skip(padded(member.stored) - sum(size for _, size in segments))
    return digest


def _holes(update: Callable[[bytes], object], size: int, source: Source) -> None:
    source.holes += size
    if source.holes > _MAX_HOLES:
        raise TarError(f"holes of more than {_MAX_HOLES >> 30} GiB in one archive: that is not read")
    while size > 0:
        update(_ZEROS[:size])
        size -= len(_ZEROS)


def _sparse_digest(source: Source, size: int, segments: Segments) -> str:
    """As :class:`~pytest_envpar.drift.inside.digests.SparseDigest` has it: holes cost nothing."""
    made = digests.SparseDigest(size)
    block, number = bytearray(), -1
    unit = digests.SPARSE_BLOCK

    def end() -> None:
        if block:
            start = number * unit
            made.add(start, bytes(block).ljust(min(unit, size - start), b"\0"))
            block.clear()

    for start, length in segments:
        at = start
        for piece in source.take(length):
            rest = piece
            while rest:
                if at // unit != number:
                    end()
                    number = at // unit
                block.extend(bytes(at % unit - len(block)))
                part = rest[: unit - at % unit]
                block += part
                at += len(part)
                rest = rest[len(part) :]
    end()
    return made.hexdigest()
