"""Commands in a container, run to their end or talked to."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.containers.handle_base import Base
from pytest_envpar.containers.handle_paths import absolute
from pytest_envpar.containers.handle_process import Process, failure
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.containers.handle_paths import ContainerPath
    from pytest_envpar.engine.values.processes import ExecResult

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Commands(Base):
    """The commands of :class:`~pytest_envpar.containers.handle.Container`."""

    def exec(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess.run has
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: ContainerPath | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a command to its end.

        Args:
            args: The program and its arguments; no shell is between.
            input: Bytes for standard input; without any the command has none.
            env: Added to the container's environment.
            user: ``name``, ``uid`` or ``uid:gid``; the container's own by default.
            workdir: Container path; the container's own by default.
            timeout: Seconds until the command is killed with all that it has started.
            check: Whether another exit code than 0 is an error.

        Returns:
            ``exit_code``, ``stdout`` and ``stderr`` as bytes, and as text ``text`` and ``error_text``.

        Raises:
            CommandError: ``check`` was set and the command failed. It has the exit code and the output.
            CommandTimeoutError: The time was up; it is a TimeoutError, too.
        """
        process = self._run(args, env, user, workdir, stdin=input is not None, killable=timeout is not None)
        result = process.communicate(input, timeout)
        if check and result.exit_code:
            raise failure(process.args, result)
        return result

    def popen(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: ContainerPath | None = None,
    ) -> Process:
        """Start a command and return at once; see :meth:`exec` for the arguments.

        With ``with container.popen([...]) as process:`` it is killed at the end of the block at the latest.
        """
        return self._run(args, env, user, workdir, stdin=True, killable=True)

    def _run(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        user: str | None,
        workdir: ContainerPath | None,
        *,
        stdin: bool,
        killable: bool,
    ) -> Process:
        if isinstance(args, (str, bytes)) or not args:
            raise UsageError(
                f"exec takes a program and its arguments as a list, not {args!r}",
                hint="for a shell's line: ['sh', '-c', line]",
            )
        place = None if workdir is None else absolute(workdir)
        return Process(
            self._engine,
            self.id,
            [str(arg) for arg in args],
            env=env,
            user=user,
            workdir=place,
            stdin=stdin,
            killable=killable,
            most=self.most_held,
        )
