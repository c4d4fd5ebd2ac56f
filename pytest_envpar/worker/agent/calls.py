"""Calls that tests inside make to the host: one question, one answer, errors as the host raised them."""

import base64
import io
import itertools
from typing import IO, TYPE_CHECKING, Any, Dict, Iterable, Iterator, Optional, Tuple, Union

from . import wire
from .channel import Channel

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors

PIECE = 256 * 1024
"""Bytes in one message."""


class Caller:
    """Calls over the worker's channel, from any thread; each waits for its own answer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)

    def call(
        self, verb: str, target: str = "", data: Union[bytes, Iterable[bytes]] = b"", **fields: Any
    ) -> Tuple[Dict[str, Any], bytes]:
        """Ask, and return the fields of the answer and its bytes.

        Raises:
            EnvparError: As the host raised it; also FileNotFoundError, IsADirectoryError and TimeoutError.
        """
        sink = io.BytesIO()
        __tracebackhide__ = True
        told = self.stream(sink, verb, target, data, **fields)
        return told, sink.getvalue()

    def stream(
        self,
        sink: IO[bytes],
        verb: str,
        target: str = "",
        data: Union[bytes, Iterable[bytes]] = b"",
        **fields: Any,
    ) -> Dict[str, Any]:
        """The same; the bytes of the answer go to ``sink`` as they come."""
        __tracebackhide__ = True
        channel = self._channel
        if not channel.ours:
            raise errors.UsageError(
                "a forked child cannot use the containers of its parent",
                hint="use them in the test's own process",
            )
        number = next(self._numbers)
        waiting: Optional[bytes] = None
        for piece in _pieces(data):
            if waiting is not None:
                self._send(wire.Call(number, verb, target, {}, _text(waiting), True))
            waiting = piece
        self._send(wire.Call(number, verb, target, fields, _text(waiting or b""), False))
        while True:
            answer = channel.take(lambda each: isinstance(each, wire.Answer) and each.number == number)
            assert isinstance(answer, wire.Answer)
            sink.write(base64.b64decode(answer.data))
            if answer.more:
                continue
            if answer.error:
                content = getattr(sink, "getvalue", bytes)()
                raise _error(answer.error, content)
            return answer.fields

    def _send(self, message: wire.Call) -> None:
        self._channel.send(message)
        self._channel.flush()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _pieces(data: Union[bytes, Iterable[bytes]]) -> Iterator[bytes]:
    for chunk in [data] if isinstance(data, bytes) else data:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]


def _error(told: Dict[str, Any], content: bytes) -> Exception:
    kind, message = str(told.get("kind")), str(told.get("message"))
    if kind in ("FileNotFoundError", "IsADirectoryError", "TimeoutError"):
        plain = {
            "FileNotFoundError": FileNotFoundError,
            "IsADirectoryError": IsADirectoryError,
            "TimeoutError": TimeoutError,
        }
        return plain[kind](message)
    cls = getattr(errors, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, errors.EnvparError)):
        cls = errors.EnvparError
    more: Dict[str, Any] = {}
    if issubclass(cls, errors.CommandError):
        split = int(told.get("split") or 0)
        more = {"exit_code": told.get("exit_code"), "stdout": content[:split], "stderr": content[split:]}
    detail = tuple(str(line) for line in told.get("detail") or ())
    error = cls(message, hint=told.get("hint"), detail=detail, **more)
    error.__dict__["skip"] = bool(told.get("skip"))
    return error
