"""The errors of pytest-envpar.

    EnvparError                 everything of ours; carries a code, a hint and renders itself
    ├── UsageError              the user asked for something that cannot be: exit 4 (pytest), 2 (envpar)
    │   ├── ConfigError         a key, a value or the shape of the configuration
    │   ├── NotYetError         a documented feature that this version refuses
    │   ├── ImageError          an image that cannot be found, pulled or built
    │   ├── LockError           the lock file is broken, or is not what the configuration asks for
    │   ├── NoEngineError       no engine answers
    │   └── StageError          an image in which a suite cannot run (no usable Python, ...)
    │       └── ServiceError    a service of the stage that did not get ready
    ├── CommandError            a command in a container failed, and `check=True` was asked for
    │   └── CommandTimeoutError it did not end in time and was killed
    └── EngineError             the engine failed or went away: exit 3
        ├── NotFoundError       the engine does not have this object
        ├── ConflictError       the object exists or is in use
        ├── ConnectionLostError the engine stopped answering
        └── WorkerDiedError     the agent inside died before it could tell anything

Every error says what was wrong, where, and what to do next. The edge decides how it is shown.
"""

from __future__ import annotations

from typing import Any


def escaped(line: str) -> str:
    """Without control characters: what comes from a container does not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)


class EnvparError(Exception):
    """Base of all errors of pytest-envpar.

    Args:
        message: What was wrong and where, one or more sentences.
        hint: What the user can do next; ``None`` if there is nothing to do.
        detail: Lines of evidence (the tail of a build, the answer of an engine), shown below the message.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None, detail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.detail)

    def lines(self) -> list[str]:
        """The error as lines of text, without a final newline: message, detail, hint, code.

        What an engine, a far machine or a container said is among them: control characters become visible.
        """
        first, *rest = self.message.split("\n")
        shown = [f"{first} [{self.code}]", *rest]
        shown += [f"  | {line}" for line in self.detail]
        if self.hint:
            shown.append(f"hint: {self.hint}")
        return ["\n".join(map(escaped, line.split("\n"))) for line in shown]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _rebuild(cls: type[EnvparError], message: str, hint: str | None, detail: tuple[str, ...]) -> EnvparError:
    return cls(message, hint=hint, detail=detail)


class UsageError(EnvparError):
    """The user asked for something that cannot be done as asked."""

    code = "usage"


class ConfigError(UsageError):
    """A key or a value of the configuration is wrong."""

    code = "config"


class NotYetError(UsageError):
    """A documented option or command that this version refuses instead of ignoring it."""

    code = "not-yet"


class ImageError(UsageError):
    """An image cannot be found, pulled or built."""

    code = "image"


class LockError(UsageError):
    """The lock file cannot be read or written, or a stage is not in it as the configuration asks."""

    code = "lock"


class NoEngineError(UsageError):
    """No container engine answers."""

    code = "no-engine"


class StageError(UsageError):
    """The suite cannot run in this stage's image."""

    code = "stage"


class ServiceError(StageError):
    """A service of a stage could not be started, ended early, or was not ready in time."""

    code = "service"


class CommandError(EnvparError):
    """A command in a container did not end as it had to.

    Args:
        exit_code: Its exit code; ``None`` if it was killed because its time was up.
        stdout: What it wrote (bytes), as far as it got.
        stderr: The same of standard error.
    """

    code = "command"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        detail: tuple[str, ...] = (),
        exit_code: int | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    def __reduce__(self) -> tuple[Any, ...]:
        told = (self.message, self.hint, self.detail, self.exit_code, self.stdout, self.stderr)
        return _rebuild_command, (type(self), *told)


def _rebuild_command(
    cls: type[CommandError],
    message: str,
    hint: str | None,
    detail: tuple[str, ...],
    exit_code: int | None,
    stdout: bytes,
    stderr: bytes,
) -> CommandError:
    return cls(message, hint=hint, detail=detail, exit_code=exit_code, stdout=stdout, stderr=stderr)


class CommandTimeoutError(CommandError, TimeoutError):
    """A command in a container did not end in time. It was killed with all that it had started."""

    code = "command-timeout"


class EngineError(EnvparError):
    """The engine refused a request or failed while it did the work."""

    code = "engine"


class NotFoundError(EngineError):
    """The engine does not know the image, container, volume or network."""

    code = "not-found"


class ConflictError(EngineError):
    """The object already exists, is in use, or is in the wrong state."""

    code = "conflict"


class ConnectionLostError(EngineError):
    """The engine stopped answering."""

    code = "connection-lost"


class WorkerDiedError(EngineError):
    """The agent inside died before it could tell anything."""

    code = "worker-died"
