"""One command in a short-lived container of an image: no network, nothing left behind."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.processes import ExecResult as Result
from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.create import ContainerSpec

_MAX_OUTPUT_BYTES = 1 << 20


class NotStartedError(EngineError):
    """The container exists, and the engine could not start its command."""


def run(
    engine: Engine,
    spec: ContainerSpec,
    *,
    timeout_s: float,
    before_start: Callable[[str], None] | None = None,
) -> Result:
    """Create, start, read to the end, remove.

    Args:
        spec: What to run; its main process has to end by itself.
        timeout_s: Seconds until the container is removed unfinished.
        before_start: Called with the container's id once it exists.

    Returns:
        Exit code and output. Output beyond a mebibyte is dropped: what an image prints is not trusted.

    Raises:
        NotStartedError: The command could not be started.
        EngineError: The engine failed, or the command did not end in time.
    """
    late = f"A container of image {spec.image} did not end within {timeout_s:.0f} s."
    container = engine.create_container(spec)
    try:
        if before_start is not None:
            before_start(container)
        output = {1: bytearray(), 2: bytearray()}
        deadline = time.monotonic() + timeout_s
        with _starting():
            # Podman's runtime prepares the process when it is attached to, so a missing program shows here.
            stream = engine.attach(container)
        try:
            with _starting():
                engine.start(container)
            while True:
                piece = stream.read(max(0.0, deadline - time.monotonic()))
                if piece is None:
                    raise EngineError(late)
                descriptor, data = piece
                if not descriptor:
                    break
                if descriptor in output and len(output[descriptor]) < _MAX_OUTPUT_BYTES:
                    output[descriptor] += data
        finally:
            stream.close()
        try:
            exit_code = engine.wait(container, timeout_s=max(1.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise EngineError(late) from error
        return Result(exit_code, bytes(output[1]), bytes(output[2]))
    finally:
        engine.remove_container(container)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except ConnectionLostError:
        raise
    except EngineError as error:
        raise NotStartedError(error.message, hint=error.hint, detail=error.detail) from error
