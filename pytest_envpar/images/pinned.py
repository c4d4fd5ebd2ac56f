"""An image by its exact bytes, and the grammar of references."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.engine.values.images import ImageInfo

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*\Z")
_HOST = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9][A-Za-z0-9-]*)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?\Z"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
    "i686": "386",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A parsed image reference; ``name`` is complete (``docker.io/library/python``).

    An image id (``sha256:…``) has an empty name.
    """

    name: str
    tag: str | None
    digest: str | None


def parse_reference(text: str) -> Reference:
    """Parse ``[host[:port]/]name[:tag][@sha256:…]`` or an image id.

    Raises:
        ValueError: ``text`` is no reference; the message says which part.
    """
    if _DIGEST.match(text):
        return Reference("", None, text)
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.match(digest):
        raise ValueError(f"the digest {digest!r} is not 'sha256:' and 64 lower-case hexadecimal digits")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.match(tag):
        raise ValueError(f"the tag {tag!r} is not valid")
    path = f"{head}{slash}{last}"
    first, slash, remainder = path.partition("/")
    is_host = bool(slash) and (first == "localhost" or any(sign in first for sign in ".:["))
    host, name = (first, remainder) if is_host else ("docker.io", path)
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    if host == "docker.io" and "/" not in name:
        name = f"library/{name}"
    if not _HOST.match(host) or not _NAME.match(name):
        raise ValueError(f"the name {path!r} is not valid (lower-case letters, digits, '.', '_', '-', '/')")
    return Reference(f"{host}/{name}", tag or (None if digest else "latest"), digest or None)


def repository(text: str) -> str:
    """A reference without its tag and digest, as it was written."""
    head, slash, last = text.partition("@")[0].rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def normal_platform(text: str) -> tuple[str, str, str]:
    """``os/arch[/variant]`` (or only an architecture) in the engines' spelling; the variant may be empty."""
    os_name, slash, rest = text.strip().lower().partition("/")
    if not slash:
        os_name, rest = ("", "") if os_name == "linux" else ("linux", os_name)
        os_name = os_name or "linux"
    arch, _, variant = rest.partition("/")
    arch, _, implied = _ARCHITECTURES.get(arch, arch).partition("/")
    variant = variant or implied
    if arch == "arm64" and variant == "v8":
        variant = ""
    return os_name, arch, variant


def same_platform(asked: str, has: str) -> bool:
    """Whether an image of platform ``has`` serves a request for ``asked``; missing parts match anything."""
    return all(
        not a or not h or a == h for a, h in zip(normal_platform(asked), normal_platform(has), strict=True)
    )


@dataclasses.dataclass(frozen=True)
class PinnedImage:
    """An image that the engine has, named by its exact bytes.

    Args:
        reference: What the user wrote, or the tag of a built image.
        digest: ``sha256:…`` of the registry's manifest; ``None`` for an image that no registry gave.
        image_id: ``sha256:…`` of the image's configuration.
        layers: The diff IDs of its layers, bottom first.
        platform: ``os/arch`` or ``os/arch/variant``.
        info: The image as the engine tells it.
    """

    reference: str
    digest: str | None
    image_id: str
    layers: tuple[str, ...]
    platform: str
    info: ImageInfo

    @property
    def local(self) -> bool:
        """Whether no registry digest is known, so that only this engine can name it."""
        return self.digest is None

    def short(self) -> str:
        """For one line: ``python:3.12-slim@sha256:0123456789ab`` or ``base:bookworm (local
        sha256:1ec0b872584d)``."""
        name = self.reference.partition("@")[0]
        if self.digest is not None:
            return f"{name}@{self.digest[: len('sha256:') + 12]}"
        pinned = self.image_id if self.image_id.startswith("sha256:") else f"sha256:{self.image_id}"
        pinned = pinned[: len("sha256:") + 12]
        return f"local {pinned}" if name.startswith("sha256:") else f"{name} (local {pinned})"


def pin(reference: str, info: ImageInfo) -> PinnedImage:
    """``info`` pinned under the reference it was asked by."""
    platform = "/".join(part for part in (info.os, info.architecture, info.variant) if part)
    return PinnedImage(
        reference=reference,
        digest=_registry_digest(reference, info),
        image_id=info.id,
        layers=info.layers,
        platform=platform,
        info=info,
    )


def _registry_digest(reference: str, info: ImageInfo) -> str | None:
    """The digest under which the reference's own repository serves the image.

    An engine lists one per repository the image came from or went to. One of another repository would name
    the same bytes, but ``reference@digest`` could not be pulled.
    """
    try:
        asked = parse_reference(reference)
    except ValueError:
        return None
    if asked.name and asked.digest:
        return asked.digest
    for candidate in info.digests:
        try:
            parsed = parse_reference(candidate)
        except ValueError:
            continue
        if parsed.digest and (parsed.name == asked.name):
            return parsed.digest
    return None
