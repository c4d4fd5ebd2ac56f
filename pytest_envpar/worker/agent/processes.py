"""Commands that run in a container of a test inside; see ``pytest_envpar.containers.handle_process``."""

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from .calls import Caller
from .values import ExecResult

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors


class Process:
    def __init__(self, caller: Caller, key: str, args: Sequence[str]) -> None:
        self.args = tuple(args)
        self._caller = caller
        self._key = key
        self._code: Optional[int] = None

    def write(self, data: bytes) -> None:
        self._caller.call("process.write", self._key, data)

    def close_stdin(self) -> None:
        self._caller.call("process.close_stdin", self._key)

    def read(self, timeout: Optional[float] = None) -> Optional[Tuple[int, bytes]]:
        told, data = self._caller.call("process.read", self._key, timeout=timeout)
        return None if told.get("stream") is None else (int(told["stream"]), data)

    def poll(self) -> Optional[int]:
        if self._code is None:
            self._code = self._caller.call("process.poll", self._key)[0].get("exit_code")
        return self._code

    def wait(self, timeout: Optional[float] = None) -> int:
        self._code = int(self._caller.call("process.wait", self._key, timeout=timeout)[0]["exit_code"])
        return self._code

    def communicate(self, data: Optional[bytes] = None, timeout: Optional[float] = None) -> ExecResult:
        told, out = self._caller.call(
            "process.communicate", self._key, data or b"", timeout=timeout, given=data is not None
        )
        self._code = int(told["exit_code"])
        return result_of(told, out)

    def kill(self) -> bool:
        return bool(self._caller.call("process.kill", self._key)[0].get("killed"))

    def close(self) -> None:
        self._caller.call("process.close", self._key)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def result_of(told: Dict[str, Any], out: bytes) -> ExecResult:
    split = int(told["split"])
    return ExecResult(int(told["exit_code"]), out[:split], out[split:])


def words(args: Sequence[str]) -> List[str]:
    if isinstance(args, (str, bytes)) or not args:
        raise errors.UsageError(
            "exec takes a program and its arguments as a list, not %r" % (args,),
            hint="for a shell's line: ['sh', '-c', line]",
        )
    return [str(arg) for arg in args]
