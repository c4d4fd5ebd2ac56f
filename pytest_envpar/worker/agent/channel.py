"""The worker's end of the wire: batched, bounded in time, invisible to the tests."""

import os
import select
import signal
import threading
import time
from typing import Callable, List

from . import wire
from .supervisor import WorkerEnds

FLUSH_S = 0.02


class Channel:
    """Sends and receives messages of one worker process. Forked children of tests are ignored."""

    def __init__(self, ends: WorkerEnds) -> None:
        self._control = ends.control
        self._frames = ends.frames
        self._ack = ends.ack
        self._recorder = ends.recorder
        self._decoder = wire.Decoder()
        self._received: List[wire.Message] = []
        # Kept on the instance: libraries that freeze time replace names of modules.
        self._clock = time.perf_counter
        self._getpid = os.getpid
        self._pid = os.getpid()
        self._last = 0.0
        self.live = False
        """What tests print is shown as it comes, so messages wait for a flush that keeps the order."""
        self.terminal = -1
        """The worker's terminal, if its output goes there; then ``mark`` tells what belongs before a message."""
        self.mark = b""
        self._pending = 0
        # Tests may call the host from any of their threads.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(threading.Lock())
        self._reading = False

    def send(self, message: wire.Message) -> None:
        """Queue a message; it leaves within about 50 ms."""
        self.send_encoded(wire.encode(message))

    def send_encoded(self, data: bytes) -> None:
        if self._getpid() != self._pid:
            return
        with self._lock:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if not self._recorder.append(data):
            self.flush()
            if not self._recorder.append(data):
                self._write(b"[" + data + b"]", 0)
                return
        self._pending += 1
        if not self.live and self._clock() - self._last > FLUSH_S:
            self.flush()

    def check(self) -> None:
        """Leave if the test that has just run closed our descriptors: it is the one to blame."""
        try:
            os.fstat(self._frames)
            os.fstat(self._control)
        except OSError:
            if self._getpid() == self._pid:
                self._cut_off()

    def _cut_off(self) -> None:
        try:
            os.write(2, b"pytest-envpar: the test closed file descriptors that are not its own\n")
        except OSError:
            pass
        os._exit(1)

    def flush(self, sync: bool = False, always: bool = False) -> None:
        """Send what waits now. With ``sync``, wait until the supervisor has passed it on, behind what was printed.

        Args:
            always: Also if nothing waits: what was printed is.
        """
        if not (self._pending or always) or self._getpid() != self._pid:
            return
        with self._lock:
            flags = wire.SYNC if sync else 0
            if sync and self.terminal >= 0:
                try:
                    os.write(self.terminal, self.mark)
                except OSError:
                    self._cut_off()
                flags |= wire.MARKED
            self._write(b"[" + self._recorder.waiting() + b"]", flags)
            if sync and not os.read(self._ack, 1):
                os._exit(1)

    @property
    def ours(self) -> bool:
        """Whether this is the worker's own process and not a child that a test has forked."""
        return self._getpid() == self._pid

    def receive(self) -> wire.Message:
        """Wait for the next message of the host. The process leaves if there will be none."""
        if self._getpid() != self._pid:
            os._exit(1)  # a child that a test forked and that ran on: what comes is not for it
        self.flush()
        return self.take(lambda message: not isinstance(message, wire.Answer))

    def take(self, wanted: Callable[[wire.Message], bool]) -> wire.Message:
        """Wait for the first message that is wanted; others stay for whoever wants them. For any thread."""
        with self._arrived:
            while True:
                for place, message in enumerate(self._received):
                    if wanted(message):
                        return self._received.pop(place)
                if self._reading:
                    self._arrived.wait()
                else:
                    self._read()

    def _read(self) -> None:
        """One thread reads for all, without the lock."""
        self._reading = True
        self._arrived.release()
        data = None
        try:
            data = os.read(self._control, 1 << 16)
            if not data:
                os._exit(1)
        finally:
            self._arrived.acquire()
            if data:
                self._received += self._decoder.feed(data)
            self._reading = False
            self._arrived.notify_all()

    def received(self) -> List[wire.Message]:
        """Messages that are there already; does not wait."""
        while select.select([self._control], [], [], 0)[0]:
            data = os.read(self._control, 1 << 16)
            if not data:
                break
            self._received += self._decoder.feed(data)
        messages, self._received = self._received, []
        return messages

    def finish(self) -> None:
        """Nothing more will be sent."""
        self.flush()
        if self._getpid() == self._pid:
            self._recorder.finish()

    def _write(self, payload: bytes, flags: int) -> None:
        # An interrupt between two parts of a frame would leave the stream unreadable.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for frame in wire.frames(payload, flags):
                view = memoryview(frame)
                while view:
                    view = view[os.write(self._frames, view) :]
            self._recorder.sent()
            self._pending = 0
            self._last = self._clock()
        except BrokenPipeError:
            os._exit(1)
        except OSError:
            self._cut_off()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
