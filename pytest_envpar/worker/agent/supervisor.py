"""The first process of a stage's container: forks workers, passes frames on, tells how a worker died.

The supervisor owns the host's stream. A worker is a forked child that runs pytest; it writes frames to a pipe, and what
the tests write to descriptors 1 and 2 arrives in two more pipes, so that nothing a test prints can be mistaken for a
frame. Because the supervisor outlives its workers it can say what a dead one leaves unsaid (exit code or signal, the
cgroup's view of memory, the last output, the flight recorder) and start the next one in the same container at once.

Being PID 1 matters to tests, too: they are not, so that signals and orphans behave as on any machine.
"""

import fcntl
import os
import select
import signal
import sys
import time
from typing import Any, Dict, List, Optional

from . import limits, wire
from .cgroup import MemoryWatch
from .recorder import Recorder
from .terminal import Feed, Terminal, terminal_or_none
from .watch import Watch

TICK_S = 0.025
GRACE_S = 5.0
TAIL_BYTES = 1 << 16
PIECE = 1 << 18
PIPE_BYTES = 1 << 20
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class WorkerEnds:
    """What a freshly forked worker gets: descriptors and the recorder."""

    def __init__(self, control: int, frames: int, ack: int, stdin: int, recorder: Recorder) -> None:
        self.control = control
        self.frames = frames
        self.ack = ack
        self.stdin = stdin
        self.recorder = recorder
        self.terminal = -1
        self.mark = b""


class _Worker:
    """The supervisor's side of a running worker."""

    def __init__(
        self,
        pid: int,
        control: int,
        frames: int,
        ack: int,
        out: int,
        err: int,
        stdin: int,
        recorder: Recorder,
    ) -> None:
        self.pid = pid
        self.control = control
        self.frames = frames
        self.ack = ack
        self.out = out
        self.err = err
        self.stdin = stdin
        self.feed = Feed(stdin)
        self.booted = False
        self.recorder = recorder
        self.memory = MemoryWatch()
        self.limits = limits.Limits([])
        self.limits.begin()
        self.to_worker = bytearray()
        self.from_worker = bytearray()
        self.received = 0  # complete payloads
        self.forwarded = 0  # bytes of the recorder that were passed on ahead of their payload
        self.seen = (0, 0)  # the recorder's state at the last tick
        self.tail = bytearray()
        self.deadline: Optional[float] = None


class Supervisor:
    """Runs until the host says so or goes away. ``run`` returns only in a forked worker.

    Args:
        watch: Of a container that may wait for a run.
        terminal: A worker will probably be asked to have a terminal, which has to be there before it is forked.
    """

    def __init__(self, watch: Optional[Watch] = None, *, terminal: bool = False) -> None:
        self._watch = watch
        self._in = os.dup(0)
        self._out = os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.close(null)
        self._decoder = wire.Decoder()
        self._worker: Optional[_Worker] = None
        self._ended = False
        self._stays = False
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        self._wake_write = wake_write
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _ignore)
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._terminal: Optional[Terminal] = terminal_or_none() if terminal else None

    def run(self) -> WorkerEnds:
        """Serve. Returns in each forked worker; the supervisor itself leaves through ``os._exit``."""
        ends = self._fork()
        if ends is not None:
            return ends
        while True:
            worker = self._worker
            for fd, _ in self._poll.poll(None if worker is None else TICK_S * 1000):
                if fd == self._in:
                    ends = self._from_host()
                    if ends is not None:
                        return ends
                elif fd == self._wake_read:
                    self._signals()
                elif worker is not None and worker is self._worker:
                    self._from_worker(worker, fd)
            if self._worker is not None:
                self._tick(self._worker)
            elif self._ended:
                self._leave()

    # --- the host ------------------------------------------------------------------------------------------------

    def _from_host(self) -> Optional[WorkerEnds]:
        data = os.read(self._in, PIECE)
        if not data:
            self._poll.unregister(self._in)
            if self._stays:
                return None
            self._ended = True
            if self._worker is None:
                self._leave()
            else:
                self._interrupt(self._worker)
                self._worker.deadline = time.monotonic() + GRACE_S
            return None
        for message in self._decoder.feed(data):
            if isinstance(message, wire.Shutdown):
                self._leave()
            elif isinstance(message, wire.Look):
                self._look()
            elif isinstance(message, wire.Stay):
                self._stay()
            elif isinstance(message, wire.Interrupt):
                if self._worker is not None:
                    self._interrupt(self._worker)
            elif isinstance(message, wire.Dump):
                if self._worker is not None:
                    _kill(self._worker.pid, signal.SIGABRT)
                    self._worker.deadline = time.monotonic() + 1.0
            elif isinstance(message, wire.Stdin):
                if self._worker is not None:
                    self._worker.feed.add(message.data.encode("latin-1", "replace"))
                    self._supply(self._worker)
            elif isinstance(message, wire.Resize):
                if self._terminal is not None:
                    self._terminal.resize(message.rows, message.columns)
            elif isinstance(message, (wire.Init, wire.Plan, wire.Run, wire.Credit, wire.Answer)):
                if isinstance(message, wire.Init):
                    ends = self._for_init(message)
                    if ends is not None:
                        return ends
                if self._worker is not None:
                    self._worker.to_worker += wire.pack(message)
                    self._push(self._worker)
        return None

    def _look(self) -> None:
        worker = [self._worker.pid] if self._worker is not None else []
        changed = ["it was not watched"] if self._watch is None else self._watch.changed(worker)
        self._say(wire.Seen({"changed": changed}))

    def _stay(self) -> None:
        self._say(wire.Seen({}))
        self._stays = True
        if self._worker is not None:
            _kill(-self._worker.pid, signal.SIGKILL)
            _kill(self._worker.pid, signal.SIGKILL)

    def _for_init(self, message: wire.Init) -> Optional[WorkerEnds]:
        """Have a worker for it, with the standard input that is asked for."""
        asked = message.options.get("input") or {}
        wants = bool(asked.get("terminal"))
        if wants and self._terminal is None and self._worker is not None and not self._worker.booted:
            self._terminal = terminal_or_none()
            if self._terminal is not None:  # which is for those that are forked from now on
                _kill(self._worker.pid, signal.SIGKILL)
                os.waitpid(self._worker.pid, 0)
                self._let_go(self._worker)
        if self._worker is None:
            ends = self._fork()
            if ends is not None:
                return ends
        assert self._worker is not None
        self._worker.booted = True
        if wants and self._terminal is not None:
            self._terminal.resize(int(asked.get("rows", 24)), int(asked.get("columns", 80)))
            self._worker.feed = Feed(self._terminal.master)
        return None

    def _supply(self, worker: _Worker) -> None:
        """Pass standard input on, as fast as it is taken."""
        feed = worker.feed
        done = feed.push()
        if self._terminal is not None and feed.descriptor == self._terminal.master:
            self._poll.modify(feed.descriptor, select.POLLIN if done else select.POLLIN | select.POLLOUT)
        elif not done:
            self._poll.register(feed.descriptor, select.POLLOUT)
        elif worker.stdin >= 0:
            self._forget(worker.stdin)
            if feed.ended:
                os.close(worker.stdin)
                worker.stdin = -1
            else:
                self._say(wire.Listen(True))

    def _interrupt(self, worker: _Worker) -> None:
        _kill(worker.pid, signal.SIGINT)

    def _push(self, worker: _Worker) -> None:
        try:
            while worker.to_worker:
                sent = os.write(worker.control, worker.to_worker)
                del worker.to_worker[:sent]
        except BlockingIOError:
            self._poll.register(worker.control, select.POLLOUT)
            return
        except BrokenPipeError:
            worker.to_worker.clear()
        self._forget(worker.control)

    def _send(self, data: bytes) -> None:
        if self._stays:
            return  # nobody listens any more
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._out, view) :]
            except BrokenPipeError:
                self._ended = True
                return

    def _say(self, message: wire.Message) -> None:
        self._send(wire.pack(message))

    # --- workers -------------------------------------------------------------------------------------------------

    def _fork(self) -> Optional[WorkerEnds]:
        recorder = Recorder()
        control_read, control_write = os.pipe()
        frames_read, frames_write = os.pipe()
        ack_read, ack_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        stdin_read, stdin_write = os.pipe()
        _enlarge(frames_read)
        terminal = self._terminal
        if terminal is not None:
            terminal.reset()
        pid = os.fork()
        if pid == 0:
            self._become_worker(out_write, err_write)
            kept = [move_up(fd) for fd in (control_read, frames_write, ack_read, stdin_read)]
            for fd in (control_write, frames_read, ack_write, out_read, err_read, stdin_write):
                os.close(fd)
            ends = WorkerEnds(kept[0], kept[1], kept[2], kept[3], recorder)
            if terminal is not None:
                os.close(terminal.master)
                ends.terminal, ends.mark = move_up(terminal.slave), terminal.mark
            return ends
        for fd in (control_read, frames_write, ack_read, out_write, err_write, stdin_read):
            os.close(fd)
        for fd in (frames_read, out_read, err_read, control_write, stdin_write):
            os.set_blocking(fd, False)
        worker = _Worker(
            pid, control_write, frames_read, ack_write, out_read, err_read, stdin_write, recorder
        )
        for fd in (frames_read, out_read, err_read):
            self._poll.register(fd, select.POLLIN)
        if terminal is not None:
            self._poll.register(terminal.master, select.POLLIN)
        self._worker = worker
        return None

    def _become_worker(self, out_write: int, err_write: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        for fd in (self._in, self._out, self._wake_read, self._wake_write, out_write, err_write):
            os.close(fd)
        try:
            # If memory runs out, the test goes and the supervisor stays to tell.
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("500")
        except OSError:
            pass

    def _from_worker(self, worker: _Worker, fd: int) -> None:
        if fd == worker.frames:
            self._relay(worker)
        elif fd == worker.control:
            self._push(worker)
        elif fd == worker.stdin:
            self._supply(worker)
        elif self._terminal is not None and fd == self._terminal.master:
            self._shown(worker, self._terminal.read())
            if worker.feed.descriptor == fd:
                self._supply(worker)
        else:
            self._output(worker, fd)

    def _shown(self, worker: _Worker, data: bytes) -> None:
        """Pass on what was written to the terminal."""
        if data:
            worker.tail += data
            del worker.tail[:-TAIL_BYTES]
            self._say(wire.Output(0, data.decode("latin-1")))

    def _output(self, worker: _Worker, fd: int, everything: bool = False) -> None:
        # "Everything" is what was there when it was asked for; somebody may write without end.
        left = PIPE_BYTES
        while left > 0:
            data = _read(fd)
            if not data:
                if data is not None:
                    self._forget(fd)
                return
            worker.tail += data
            del worker.tail[:-TAIL_BYTES]
            self._say(wire.Output(1 if fd == worker.out else 2, data.decode("latin-1")))
            left -= len(data)
            if not everything:
                return

    def _relay(self, worker: _Worker) -> bool:
        data = _read(worker.frames)
        if not data:
            if data is not None:
                self._forget(worker.frames)
            return False
        buffer = worker.from_worker
        buffer += data
        position = 0
        whole = bytearray()
        while len(buffer) - position >= wire.HEADER.size:
            flags, length = wire.HEADER.unpack_from(buffer, position)
            end = position + wire.HEADER.size + length
            if len(buffer) < end:
                break
            frame = bytes(buffer[position:end])
            position = end
            if worker.forwarded:
                frame = _without(frame, worker.forwarded)
                worker.forwarded = 0
            if not flags & wire.MORE:
                worker.received += 1
            if flags & wire.SYNC:
                # The worker waits. What it printed before it sent this frame belongs before it.
                self._send(bytes(whole))
                whole.clear()
                self._output(worker, worker.out, everything=True)
                self._output(worker, worker.err, everything=True)
                if flags & wire.MARKED and self._terminal is not None:
                    self._shown(worker, self._terminal.until_mark())
                self._send(wire.HEADER.pack(flags & ~wire.MARKED, len(frame) - wire.HEADER.size))
                self._send(frame[wire.HEADER.size :])
                os.write(worker.ack, b"+")
            else:
                whole += frame
        del buffer[:position]
        if whole:
            self._send(bytes(whole))
        return True

    def _tick(self, worker: _Worker) -> None:
        sent, length, _ = worker.recorder.state()
        # Only what has not moved since the last tick is passed on ahead of time: by then the bytes are certainly
        # visible to this process, and a busy worker sends them itself.
        if (sent, length) == worker.seen and sent == worker.received and length > worker.forwarded:
            # What was printed before belongs before it, as with a frame that the worker waits for.
            self._output(worker, worker.out, everything=True)
            self._output(worker, worker.err, everything=True)
            data = worker.recorder.steady(worker.forwarded, sent, length)
            if data is not None:
                self._forward(worker, data, length)
        worker.seen = (sent, length)
        if worker.deadline is not None and time.monotonic() > worker.deadline:
            worker.deadline = None
            _kill(worker.pid, signal.SIGKILL)

    def _forward(self, worker: _Worker, data: bytes, length: int) -> None:
        worker.forwarded = length
        self._send(b"".join(wire.frames(b"[" + data + b"]")))

    def _signals(self) -> None:
        numbers = _read(self._wake_read) or b""
        if signal.SIGTERM in numbers or signal.SIGHUP in numbers:
            self._ended = True
            if self._worker is not None:
                _kill(self._worker.pid, signal.SIGTERM)
                self._worker.deadline = time.monotonic() + GRACE_S
        if signal.SIGINT in numbers and self._worker is not None:
            self._interrupt(self._worker)
        while True:
            try:
                # What a process has used is known until it is reaped.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PID, found.si_pid, os.WSTOPPED | os.WNOHANG)
                if self._worker is not None and found.si_pid == self._worker.pid:
                    self._stopped(self._worker, found.si_status)
                continue
            used_s = limits.used(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            if self._worker is not None and found.si_pid == self._worker.pid:
                self._bury(self._worker, status, used_s)

    def _stopped(self, worker: _Worker, number: int) -> None:
        """The worker, or a child of it, reads from the terminal or wants it set up for that."""
        terminal = self._terminal
        if terminal is None or number not in (signal.SIGTTIN, signal.SIGTTOU):
            return
        self._output(worker, worker.out, everything=True)
        self._output(worker, worker.err, everything=True)
        self._shown(worker, terminal.read())
        if terminal.lend(worker.pid):
            self._say(wire.Listen(True))

    def _bury(self, worker: _Worker, status: int, used_s: float) -> None:
        while self._relay(worker):
            pass
        sent, length, finished = worker.recorder.state()
        # A payload that arrived whole but was not marked as sent yet is still in the recorder: not again.
        if sent == worker.received and length > worker.forwarded:
            self._forward(worker, worker.recorder.read(worker.forwarded, length), length)
        self._output(worker, worker.out, everything=True)
        self._output(worker, worker.err, everything=True)
        if self._terminal is not None:
            self._shown(worker, self._terminal.rest())
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        facts: Dict[str, Any] = {
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": number,
            "ulimit": None if number is None else limits.of_signal(number, used_s),
            "limits": [] if finished else worker.limits.bitten(None),
            "finished": finished,
            "leaving": self._ended,
            "tail": bytes(worker.tail).decode("utf-8", "replace"),
        }
        facts.update(worker.memory.facts())
        self._let_go(worker)
        if not finished and os.getpid() == 1 and not self._stays:
            # What the dead worker started must not disturb the next one. Only in a PID namespace of our own.
            _kill(-1, signal.SIGKILL)
        self._say(wire.Died(facts))

    def _let_go(self, worker: _Worker) -> None:
        owned = [worker.frames, worker.out, worker.err, worker.control]
        if worker.stdin >= 0:
            owned.append(worker.stdin)
        for fd in owned if self._terminal is None else [*owned, self._terminal.master]:
            self._forget(fd)
        for fd in (*owned, worker.ack):
            os.close(fd)
        worker.recorder.close()
        self._worker = None

    def _forget(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass

    def _leave(self) -> None:
        if self._worker is not None:
            _kill(-self._worker.pid, signal.SIGKILL)
            _kill(self._worker.pid, signal.SIGKILL)
        os._exit(0)


def _ignore(number: int, frame: object) -> None:
    """Signals are read from the wake-up pipe."""


def _read(fd: int) -> Optional[bytes]:
    """What can be read now; empty at the end, None if there is nothing yet."""
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return None


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _without(frame: bytes, forwarded: int) -> bytes:
    """A frame whose first ``forwarded`` bytes of messages have been passed on already."""
    rest = frame[wire.HEADER.size + 1 + forwarded : -1]
    payload = b"[" + (rest[1:] if rest[:1] == b"," else rest) + b"]"
    flags, _ = wire.HEADER.unpack_from(frame, 0)
    return wire.HEADER.pack(flags, len(payload)) + payload


def move_up(fd: int) -> int:
    """Out of the way of tests that count descriptors or close the low ones."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 230)
    except OSError:
        return fd
    os.close(fd)
    return high


def _enlarge(fd: int) -> None:
    """A larger pipe means fewer wake-ups. Linux 2.6.35 and newer; a limit for users may forbid it."""
    try:
        fcntl.fcntl(fd, 1031, 1 << 20)  # F_SETPIPE_SZ, named in fcntl from Python 3.10
    except OSError:
        pass


def main(argv: List[str]) -> None:
    """Entry of the container's main process.

    ``argv``: folders for the end and the start of ``sys.path``, or empty, and ``watch`` for a container that may wait
    or ``terminal`` for one whose worker will have one.
    """
    ends = Supervisor(Watch() if "watch" in argv[2:] else None, terminal="terminal" in argv[2:]).run()
    from .runner import run

    sys.exit(run(ends, argv[0], argv[1]))
