"""Which key of a stage an engine objected to when it refused to create or start a container."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pytest_envpar.errors import ConnectionLostError, EngineError, StageError

if TYPE_CHECKING:
    from pytest_envpar.config.model import Stage


class _Reason(NamedTuple):
    """A pattern for the message of Docker or Podman, the stage's key behind it, and what helps."""

    sign: str
    key: str
    hint: str | None = None


_REASONS = (
    _Reason(
        r"executable file .*not found|exec: .*no such file|stat .*no such file|exec: .*permission denied",
        "python",
        "set 'python' to the absolute path of a Python in the image",
    ),
    _Reason(
        r"exec format error|does not match the specified platform|image platform",
        "platform",
        "use an image for the engine's platform, or set up emulation",
    ),
    _Reason(
        r"(unknown|invalid) .{0,20}runtime|runtime .* not found|no such runtime",
        "runtime",
        "name a runtime that the engine is configured with",
    ),
    _Reason(
        r"unable to find (user|group)|no matching entries in (passwd|group)|bad user|invalid user",
        "user",
        "use a user of the image, or numbers such as 1000:1000",
    ),
    _Reason(
        r"network .*not found|unable to find network|no such network|invalid network",
        "network",
        "use 'none', 'bridge', 'host' or the name of a network of this engine",
    ),
    _Reason(
        r"memory.limit|minimum memory|memory\.max", "memory", "a container needs some megabytes to start"
    ),
    _Reason(r"range of cpus|nanocpus|cpu\.cfs|cpu\.max|cpus", "cpus", "the engine has no more than its own"),
    _Reason(r"pids", "pids", "the limit is a number of processes"),
    _Reason(r"ulimit|rlimit", "ulimits", "a limit cannot be above the engine's own"),
    _Reason(r"capabilit", "cap-drop", "capabilities are written as in CHOWN or ALL"),
    _Reason(r"shm", "shm-size"),
    _Reason(r"tmpfs", "tmpfs", "write '/path' or '/path:size=64m'"),
    _Reason(
        r"chdir|working.?dir|workdir|cwd|cannot mkdir|not a directory",
        "workdir",
        "it has to be an absolute path that is no file in the image",
    ),
    _Reason(r"volume|mount|bind source", "volumes"),
)


@contextlib.contextmanager
def stage_errors(stage: Stage, command: Sequence[str]) -> Iterator[None]:
    """Turn an engine's refusal inside the block into a StageError that names the stage's key."""
    try:
        yield
    except ConnectionLostError:
        raise
    except EngineError as error:
        _explain(stage, command, error)


def _explain(stage: Stage, command: Sequence[str], error: EngineError) -> NoReturn:
    said = " ".join((error.message, *error.detail))
    for reason in _REASONS:
        if not re.search(reason.sign, said, re.IGNORECASE):
            continue
        value = (
            (command or ("(its own command)",))[0] if reason.key == "python" else _value(stage, reason.key)
        )
        if value is not None:
            raise StageError(
                f"stage {stage.name!r}: its container cannot be started because of {reason.key} = {value!r}",
                hint=reason.hint,
                detail=(*error.message.splitlines(), *error.detail),
            ) from error
    raise error


def _value(stage: Stage, key: str) -> object | None:
    """What the stage says under ``key``; ``None`` if nothing, so that another key must be the cause."""
    attribute = {"memory": "memory_bytes", "shm-size": "shm_size_bytes"}.get(key, key.replace("-", "_"))
    value: object = getattr(stage, attribute)
    if isinstance(value, Mapping):
        value = dict(value)
    elif isinstance(value, tuple):
        value = list(value)
    elif isinstance(value, PurePosixPath):
        value = str(value)
    return value if value not in (None, [], {}) else None
