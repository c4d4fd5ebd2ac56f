"""Images and root file systems in files: ``docker save``, OCI layouts (folder or tar), exports and any other tar.

Formats: https://github.com/opencontainers/image-spec/blob/main/image-layout.md and the ``manifest.json`` of
``docker save`` (https://github.com/moby/docker-image-spec/blob/main/spec.md). Nothing is extracted; a name in an
archive is a key of its index and never a path of this machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import re
import tempfile
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from pytest_envpar.drift import tar
from pytest_envpar.drift.tar import TarError
from pytest_envpar.engine.parse.images import platforms, run_config
from pytest_envpar.engine.parse.shapes import rows, table, texts
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_envpar.engine.values.images import RunConfig

_PIECE = 1 << 18
_MAX_JSON = 1 << 24
_MAX_MEMBERS = 100_000
_MAX_NESTED = 4
_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]{64,128})")


@dataclasses.dataclass(frozen=True)
class Archive:
    """What is in a file or folder.

    Args:
        path: The file or folder (host).
        tags: Names that the archive gives its image.
        config: ``None`` for a bare file system, which has none.
        image_id: Digest of the image's configuration; empty for a bare file system.
        diff_ids: Of the layers, the lowest first; empty for a bare file system.
        blobs: Where the layers are, in that order; of a bare file system itself.
    """

    path: Path
    tags: tuple[str, ...]
    config: RunConfig | None
    image_id: str
    diff_ids: tuple[str, ...]
    blobs: tuple[Blob, ...]

    def layer(self, number: int) -> Iterator[bytes]:
        """The tar of a layer, whose content is checked against its diff ID at the end. TarError if it is another."""
        wanted = self.diff_ids[number]
        made = hashlib.new(wanted.partition(":")[0])
        for piece in tar.plain(self.blobs[number].pieces()):
            made.update(piece)
            yield piece
        if made.hexdigest() != wanted.partition(":")[2]:
            raise TarError(f"{self.path}: layer {number + 1} is not what its diff ID {wanted[:19]} says")

    def tree(self) -> Iterator[bytes]:
        """The tar of a bare file system."""
        return self.blobs[0].pieces()


@dataclasses.dataclass(frozen=True)
class Blob:
    """A part of a file (host)."""

    file: Path | IO[bytes]
    offset: int = 0
    size: int | None = None

    def pieces(self) -> Iterator[bytes]:
        """Its content."""
        if not isinstance(self.file, Path):
            yield from self._of(self.file)
            return
        with self.file.open("rb") as opened:
            yield from self._of(opened)

    def read(self) -> bytes:
        """All of a small one. TarError if it is not small."""
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > _MAX_JSON:
                raise TarError("a description of more than 16 MiB, which no honest archive has")
        return bytes(data)

    def _of(self, opened: IO[bytes]) -> Iterator[bytes]:
        at, left = self.offset, self.size
        while left is None or left > 0:
            opened.seek(at)  # others may read the same file in between
            piece = opened.read(_PIECE if left is None else min(_PIECE, left))
            if not piece:
                return
            at += len(piece)
            left = None if left is None else left - len(piece)
            yield piece


class _Files(Protocol):
    def get(self, name: str) -> Blob | None: ...


def open_archive(path: Path, *, platform: str = "") -> Archive:
    """Find out what is in a file or folder.

    Args:
        path: The file, or the folder of an OCI layout (host).
        platform: ``os/arch`` to choose from an archive of several.

    Raises:
        UsageError: It cannot be read, is nothing of this kind, or has several images.
        TarError: It is broken.
    """
    try:
        if path.is_dir():
            if not (path / "index.json").is_file():
                raise UsageError(
                    f"{path} is a folder, and no OCI layout: it has no index.json",
                    hint="name a tar file, or the folder of an OCI layout",
                )
            return _oci(path, _Folder(path), platform)
        with path.open("rb") as opened:
            start = opened.read(4)
            index = _index(path, opened, compressed=tar.is_gzip(start))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = _image(path, index, platform)
    except BaseException:
        index.close()
        raise
    if found is not None:
        weakref.finalize(found, index.close)
        return found
    index.close()
    if not index.found:
        raise UsageError(f"{path} is an empty archive")
    return Archive(path, (), None, "", (), (Blob(path),))


def _image(path: Path, index: _Members, platform: str) -> Archive | None:
    if index.get("manifest.json") is not None:
        return _docker(path, index)
    if index.get("index.json") is not None and index.get("oci-layout") is not None:
        return _oci(path, index, platform)
    return None


class _Folder:
    """Files of a folder by their names, none of which leads out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str) -> Blob | None:
        path = self._root
        for part in name.split("/"):
            if part in ("", ".", ".."):
                return None
            path /= part
            if path.is_symlink():
                return None
        return Blob(path) if path.is_file() else None


class _Members:
    """Files of a tar by their names."""

    def __init__(self) -> None:
        self.found = False
        self.spool: IO[bytes] | None = None
        self._blobs: dict[str, Blob] = {}
        self._links: dict[str, str] = {}

    def close(self) -> None:
        if self.spool is not None:
            self.spool.close()

    def add(self, name: str, blob: Blob) -> None:
        self._blobs[name] = blob

    def link(self, name: str, target: str) -> None:
        self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))

    def get(self, name: str) -> Blob | None:
        # Older versions of `docker save` keep a layer once and link to it.
        for _ in range(_MAX_NESTED):
            if name in self._blobs:
                return self._blobs[name]
            name = self._links.get(name, "")
        return None


def _index(path: Path, opened: IO[bytes], *, compressed: bool) -> _Members:
    """The members of an archive of an image. Of another archive only so many as it takes to see that."""
    file: Path | IO[bytes] = path
    found = _Members()
    if compressed:
        if not _is_image(Blob(opened)):
            found.found = True
            return found
        found.spool = file = opened = tempfile.TemporaryFile()  # noqa: SIM115 - read again for every layer
        for piece in tar.plain(Blob(Path(path)).pieces()):
            file.write(piece)
    source = tar.Source(Blob(opened).pieces())
    for number, member in enumerate(tar.members(source)):
        found.found = True
        name = member.name.decode("utf-8", "surrogateescape").removeprefix("./").rstrip("/")
        if not _belongs(name) or number > _MAX_MEMBERS:
            break
        if member.kind == b"0" and member.segments is None:
            found.add(name, Blob(file, source.position, member.stored))
        elif member.kind in (b"1", b"2"):
            found.link(name, member.target.decode("utf-8", "surrogateescape"))
        source.skip(member.stored + -member.stored % 512 if member.kind == b"0" else 0)
    return found


def _is_image(blob: Blob) -> bool:
    source = tar.Source(blob.pieces())
    member = next(tar.members(source), None)
    return member is not None and _belongs(member.name.decode("utf-8", "surrogateescape").removeprefix("./"))


def _belongs(name: str) -> bool:
    """Whether an archive of an image has such a member, which a root file system has not."""
    first, _, rest = name.rstrip("/").partition("/")
    if first in ("manifest.json", "index.json", "oci-layout", "repositories") or re.fullmatch(
        r"[0-9a-f]{64}(\.json|\.tar)?", first
    ):
        return True
    return first == "blobs" and re.fullmatch(r"(sha256|sha512)(/[0-9a-f]+)?|", rest) is not None


def _docker(path: Path, files: _Files) -> Archive:
    images = rows(_json(path, files, "manifest.json"))
    if len(images) != 1:
        names = [name for image in images for name in texts(table(image).get("RepoTags"))]
        raise UsageError(
            f"{path} has {len(images)} images{': ' if names else ''}{', '.join(names)}",
            hint="save one image alone: docker save -o FILE IMAGE",
        )
    image = table(images[0])
    return _archive(
        path,
        files,
        texts(image.get("RepoTags")),
        str(image.get("Config") or ""),
        texts(image.get("Layers")),
    )


def _oci(path: Path, files: _Files, platform: str) -> Archive:
    described = table(_json(path, files, "index.json"))
    tags: tuple[str, ...] = ()
    for _ in range(_MAX_NESTED):
        chosen = _choose(path, rows(described.get("manifests")), platform)
        note = table(chosen.get("annotations")).get("org.opencontainers.image.ref.name")
        tags = tags or ((str(note),) if note else ())
        described = table(_json(path, files, _blob_name(path, chosen.get("digest"))))
        if "layers" in described:
            layers = [_blob_name(path, table(each).get("digest")) for each in rows(described["layers"])]
            config = _blob_name(path, table(described.get("config")).get("digest"))
            return _archive(path, files, tags, config, layers)
    raise UsageError(f"{path}: its index leads to no image")


def _choose(path: Path, listed: Sequence[Any], platform: str) -> dict[str, Any]:
    found = []
    for each in map(table, listed):
        made = platforms([each.get("platform")]) if each.get("platform") else ("",)
        if made and (not platform or not made[0] or made[0].startswith(platform)):
            found.append((made[0], dict(each)))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found if name)
        raise UsageError(
            f"{path} has {len(found)} images{' for ' + platform if platform else ''}{': ' + names if names else ''}",
            hint="name a file with one image",
        )
    return found[0][1]


def _archive(path: Path, files: _Files, tags: Sequence[str], config: str, layers: Sequence[str]) -> Archive:
    blob = files.get(config)
    if blob is None:
        raise TarError(f"{path}: the image's configuration {config[:80]!r} is missing")
    data = blob.read()
    described = table(_parsed(path, config, data))
    diff_ids = texts(table(described.get("rootfs")).get("diff_ids"))
    blobs = [files.get(name) for name in layers]
    if len(diff_ids) != len(blobs) or not all(_DIGEST.fullmatch(each) for each in diff_ids):
        raise TarError(f"{path}: it names {len(blobs)} layers, and its configuration {len(diff_ids)}")
    missing = [name for name, found in zip(layers, blobs, strict=True) if found is None]
    if missing:
        raise TarError(f"{path}: layer {missing[0][:80]!r} is missing")
    return Archive(
        path,
        tuple(tags),
        run_config(described.get("config")),
        f"sha256:{hashlib.sha256(data).hexdigest()}",
        diff_ids,
        tuple(found for found in blobs if found is not None),
    )


def _blob_name(path: Path, digest: Any) -> str:
    found = _DIGEST.fullmatch(str(digest))
    if found is None:
        raise TarError(f"{path}: {str(digest)[:80]!r} is not a digest")
    return f"blobs/{found[1]}/{found[2]}"


def _json(path: Path, files: _Files, name: str) -> Any:
    blob = files.get(name)
    if blob is None:
        raise TarError(f"{path}: {name[:100]} is missing")
    return _parsed(path, name, blob.read())


def _parsed(path: Path, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TarError(f"{path}: {name[:100]} is not JSON") from error
