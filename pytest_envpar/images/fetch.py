"""Pulling one image for a stage, with an error for each reason why it cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine, Progress


def pull_reference(
    engine: Engine, stage: Stage, reference: str, progress: Progress | None, *, where: str | None = None
) -> None:
    """Pull ``reference`` for the platform of ``stage``, whatever the engine has already.

    Args:
        where: What starts the message of an error; by default the stage and the reference.

    Raises:
        ImageError: The registry refuses it, does not have it, or cannot be reached.
        ConnectionLostError: The engine went away.
    """
    if progress is not None:
        progress(f"pulling {reference}")
    try:
        engine.pull(reference, platform=stage.platform, progress=progress)
    except ConnectionLostError:
        raise
    except EngineError as error:
        from pytest_envpar.images.refusals import refusal

        where = where or f"stage {stage.name!r}: image {reference}"
        raise refusal(engine, where, reference, stage.platform, error) from error
