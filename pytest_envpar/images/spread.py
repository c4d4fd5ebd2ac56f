"""An image on all engines of a pool: the same bytes everywhere, whichever way they get there.

Where a registry has it each engine pulls it by its digest. What no registry has (built here, or imported) is streamed
from the engine that has it, once for each engine, and is tagged as a cache of ours there.
"""

from __future__ import annotations

import dataclasses
import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError
from pytest_envpar.images.pinned import repository, same_platform
from pytest_envpar.images.tags import COPIES
from pytest_envpar.images.turns import one_at_a_time

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.images.locking import Locked
    from pytest_envpar.images.pinned import PinnedImage


def bring_all(locked: Locked, source: Engine, target: Engine, progress: Progress | None = None) -> Locked:
    """What a stage resolved to on one engine, with all its images present on another; see :func:`bring`."""
    image = bring(locked.image, source, target, progress)
    services = {name: bring(each, source, target, progress) for name, each in locked.services.items()}
    return dataclasses.replace(locked, image=image, services=MappingProxyType(services))


def bring(
    image: PinnedImage, source: Engine, target: Engine, progress: Progress | None = None
) -> PinnedImage:
    """The same image on ``target``.

    Args:
        image: An image that ``source`` has.
        progress: Told how the image got there, if it was not there yet.

    Raises:
        ImageError: The two engines have no platform in common, or the target does not keep the image as it is.
        EngineError: One of the engines failed.
    """
    info = target.inspect_image(image.image_id)
    if info is None:
        with one_at_a_time(target, image.image_id, progress):
            info = target.inspect_image(image.image_id)
            if info is None:
                info = _pulled(image, target, progress) or _streamed(image, source, target, progress)
    return dataclasses.replace(image, info=info, image_id=info.id)


def _pulled(image: PinnedImage, target: Engine, progress: Progress | None) -> ImageInfo | None:
    """The image from its registry; ``None`` if it is in none that the engine can reach."""
    if image.digest is None:
        return None
    exact = f"{repository(image.reference)}@{image.digest}"
    try:
        target.pull(exact, platform=image.platform, progress=progress)
    except ConnectionLostError:
        raise
    except EngineError:
        return None
    info = target.inspect_image(exact)
    # One digest may name an index of several platforms.
    return info if info is not None and info.layers == image.layers else None


def _streamed(image: PinnedImage, source: Engine, target: Engine, progress: Progress | None) -> ImageInfo:
    if not same_platform(image.platform, f"{target.info.os}/{target.info.architecture}"):
        raise ImageError(
            f"{image.short()} is for {image.platform}, the engine at {target.info.url} for "
            f"{target.info.os}/{target.info.architecture}",
            hint="leave that engine out of the pool, or give the stage an image that its registry has for both",
        )
    began = time.monotonic()
    target.load_image(source.save_image(image.image_id))
    info = target.inspect_image(image.image_id)
    if info is None or info.layers != image.layers:
        raise ImageError(
            f"{image.short()}: the engine at {target.info.url} does not keep it under its id",
            hint="push the image to a registry that all engines reach, and name it by its digest",
        )
    target.tag_image(info.id, f"{COPIES}:{image.image_id.rpartition(':')[2][:20]}")
    if progress is not None:
        progress(f"copied {image.short()} to {target.info.url} in {time.monotonic() - began:.1f} s")
    return info
