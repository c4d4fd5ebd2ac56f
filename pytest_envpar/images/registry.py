"""What a registry serves under a reference today, without pulling it."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.origins import RemoteImage
from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError
from pytest_envpar.images.pinned import parse_reference, same_platform
from pytest_envpar.images.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.retry import Backoff

__all__ = ["RemoteImage", "ask_directly", "remote_digest"]


def remote_digest(
    engine: Engine | None, reference: str, platform: str | None = None, *, progress: Progress | None = None
) -> RemoteImage:
    """Ask the registry of ``reference`` for its digest; through the engine where that can ask (Docker), else over HTTPS
    from this machine. Credentials are those of the user's Docker configuration.

    Args:
        engine: The engine; ``None`` asks from this machine.
        platform: ``os/arch[/variant]`` that has to be there; ``None`` asks for none.
        progress: Told when something is tried again.

    Raises:
        ImageError: The registry does not have it, refuses it, or cannot be reached; it is of other platforms; or the
            user's Docker configuration is broken.
        EngineError: The engine failed.
    """
    where = f"image {reference}"
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise ImageError(f"{where} is not an image reference: {error}") from None
    if not parsed.name:
        raise ImageError(f"{where}: an image id names no registry")
    found: RemoteImage | None = None
    if engine is not None:
        try:
            found = engine.remote_image(reference)
        except ConnectionLostError:
            raise
        except EngineError as error:
            raise refusal(engine, where, reference, platform, error) from error
    if found is None:
        found = ask_directly(reference, os.environ, engine=engine, progress=progress)
    served = found.platforms
    if platform is not None and served and not any(same_platform(platform, each) for each in served):
        raise ImageError(
            f"{where} does not exist for the platform {platform}",
            hint=f"change 'platform' of the stage; the registry has it for {', '.join(served)}",
        )
    return found


def ask_directly(
    reference: str,
    environ: Mapping[str, str],
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    backoff: Backoff | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> RemoteImage:
    """As :func:`remote_digest`, always from this machine; ``reference`` is a valid one with a name.

    Args:
        environ: The host's environment: where credentials and certificates are.
        engine: Only for what an error can advise.
        backoff: How often and how long is waited for a registry that does not answer as it should.
        wait: Waits for seconds.
    """
    from pytest_envpar.engine.registry_auth import credentials_for, docker_folder, podman_files
    from pytest_envpar.images.registry_client import RegistryClient, RegistryError, Trust

    credentials = credentials_for(reference, docker_folder(environ), podman_files(environ))
    parsed = parse_reference(reference)
    host, _, name = parsed.name.partition("/")
    try:
        client = RegistryClient(
            host, name, credentials, trust=Trust.of(environ), backoff=backoff, progress=progress, wait=wait
        )
        with contextlib.closing(client):
            return client.describe(reference, parsed.tag, parsed.digest)
    except RegistryError as error:
        failure = error
    told = EngineError(failure.text)
    raise refusal(engine, f"image {reference}", reference, None, told, cause=failure.cause, direct=True)
