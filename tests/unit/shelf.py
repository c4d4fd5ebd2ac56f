"""An engine with images and a registry behind it, for tests of what is asked of both."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.engine import EngineInfo, Listed
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.errors import EngineError, NotFoundError

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Progress


def sha(sign: str) -> str:
    return "sha256:" + sign * 64


def info(
    sign: str, *layers: str, tags: tuple[str, ...] = (), digests: tuple[str, ...] = (), arch: str = "amd64"
) -> ImageInfo:
    nothing: MappingProxyType[str, str] = MappingProxyType({})
    diffs = tuple(sha(layer) for layer in layers or (sign,))
    return ImageInfo(sha(sign), tags, digests, diffs, "linux", arch, "", nothing, "", "", (), (), (), nothing)


class Shelf:
    """An engine with images by every name they have, and a registry behind it; it counts what it is asked."""

    info = EngineInfo("docker", "1", "1.41", "unix:///e", True, False, True, 1, "linux", "amd64", "id")

    def __init__(self) -> None:
        self.has: dict[str, ImageInfo] = {}
        self.registry: dict[str, ImageInfo] = {}
        self.asked: list[str] = []
        self.pulled: list[str] = []

    def put(self, image: ImageInfo) -> None:
        """Have an image under its id, tags and digests."""
        for name in (image.id, *image.tags, *image.digests):
            self.has[name] = image

    def inspect_image(self, reference: str) -> ImageInfo | None:
        self.asked.append(reference)
        return self.has.get(reference)

    def pull(self, reference: str, *, platform: str | None = None, progress: Progress | None = None) -> None:
        assert platform is None
        assert progress is None or callable(progress)
        self.pulled.append(reference)
        if reference not in self.registry:
            raise NotFoundError(f"manifest for {reference} not found")
        self.put(self.registry[reference])
        self.has[reference] = self.registry[reference]

    def list_images(self, _labels: object) -> tuple[Listed, ...]:
        return ()

    def image_folders(self, _image: str) -> None:
        return None

    def create_container(self, _spec: object) -> str:
        raise EngineError("its images have no files")

    def close(self) -> None:
        pass
