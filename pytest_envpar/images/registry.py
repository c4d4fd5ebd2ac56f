"""What a registry serves under a reference today, without pulling it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.engine.api import RemoteImage
from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError, NotYetError
from pytest_envpar.images.pinned import parse_reference, same_platform
from pytest_envpar.images.refusals import refusal

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine

__all__ = ["RemoteImage", "remote_digest"]


def remote_digest(engine: Engine, reference: str, platform: str | None = None) -> RemoteImage:
    """Ask the registry of ``reference`` for its digest; through the engine where that can ask (Docker), else over HTTPS
    from this machine. Credentials are those of the user's Docker configuration.

    Args:
        platform: ``os/arch[/variant]`` that has to be there; ``None`` asks for none.

    Raises:
        ImageError: The registry does not have it, refuses it, or cannot be reached; or it is of other platforms.
        EngineError: The engine failed.
    """
    where = f"image {reference}"
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise ImageError(f"{where} is not an image reference: {error}") from None
    if not parsed.name:
        raise ImageError(f"{where}: an image id names no registry")
    try:
        found = engine.remote_image(reference)
        if found is None:
            raise NotYetError(f"{where}: {engine.info.kind} cannot ask a registry without pulling")
    except ConnectionLostError:
        raise
    except EngineError as error:
        raise refusal(engine, where, reference, platform, error) from error
    if (
        platform is not None
        and found.platforms
        and not any(same_platform(platform, x) for x in found.platforms)
    ):
        raise ImageError(
            f"{where} does not exist for the platform {platform}",
            hint=f"change 'platform' of the stage; the registry has it for {', '.join(found.platforms)}",
        )
    return found
