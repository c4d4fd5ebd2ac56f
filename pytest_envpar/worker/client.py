"""The host's end of the wire: messages out, messages in, and what the container said on standard error."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import EngineError
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.engine.api import Stream

_TAIL_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Gone:
    """The stream ended: the container, the engine or the agent is gone. ``tail`` is the last standard error."""

    tail: str
    reason: str | None = None


class Client:
    """Talks to the agent over one attached stream. Any thread may send; one receives.

    Args:
        stream: The container's stream, attached once.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = wire.Decoder()
        self._queue: deque[wire.Message] = deque()
        self._tail = bytearray()
        self._gone: Gone | None = None
        # Answers to tests come from threads of their own.
        self._sending = threading.Lock()

    def send(self, message: wire.Message) -> None:
        """Send a message. If the other side is gone, the next ``receive`` says so."""
        try:
            with self._sending:
                self._stream.write(wire.pack(message))
        except (EngineError, OSError):
            # Whoever reads next learns why; what the agent said before it went must not be lost.
            pass

    def receive(self, timeout_s: float | None = None) -> wire.Message | Gone | None:
        """Wait for the next message.

        Args:
            timeout_s: Seconds to wait; ``None`` waits for ever.

        Returns:
            A message, :class:`Gone` at the end of the stream (again at each further call), or ``None`` if the time
            is up.
        """
        queue = self._queue
        while not queue:
            if self._gone is not None:
                return self._gone
            try:
                piece = self._stream.read(timeout_s)
            except (EngineError, OSError) as error:
                self._gone = Gone(self.tail(), str(error))
                continue
            if piece is None:
                return None
            stream, data = piece
            if stream == 2:
                self._tail += data
                del self._tail[:-_TAIL_BYTES]
            elif stream == 0:
                self._gone = Gone(self.tail())
            else:
                try:
                    queue.extend(self._decoder.feed(data))
                except wire.WireError as error:
                    self._gone = Gone(self.tail(), f"the agent sent something unreadable: {error}")
        return queue.popleft()

    def tail(self) -> str:
        """The last of what the container wrote to its own standard error."""
        return bytes(self._tail).decode("utf-8", "replace")

    def close(self) -> None:
        self._stream.close()


def init_message(options: Mapping[str, Any]) -> wire.Init:
    """The first message to a worker; see :class:`wire.Init` for the options."""
    return wire.Init(wire.PROTOCOL, dict(options))
