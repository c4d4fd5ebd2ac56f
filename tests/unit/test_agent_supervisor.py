"""The supervisor and the worker's channel as plain local processes, with workers made for the test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.worker.agent import recorder, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOOT = """
import os, signal, sys, time
from pytest_envpar.worker.agent import supervisor, wire
supervisor.GRACE_S = 0.5
ends = supervisor.Supervisor().run()
from pytest_envpar.worker.agent.channel import Channel
channel = Channel(ends)
options = channel.receive().options
exec(options["code"])
"""


class Talk:
    """A running supervisor, seen from the host."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._decoder = wire.Decoder()

    def send(self, *messages: wire.Message) -> None:
        """Send from the host."""
        assert self.process.stdin is not None
        self.process.stdin.write(wire.pack(*messages))
        self.process.stdin.flush()

    def run(self, code: str) -> None:
        """Let a worker run ``code``."""
        self.send(wire.Init(wire.PROTOCOL, {"code": textwrap.dedent(code)}))

    def until(self, kind: type[wire.Message]) -> list[wire.Message]:
        """All messages up to the first of ``kind``."""
        assert self.process.stdout is not None
        received: list[wire.Message] = []
        while not any(isinstance(message, kind) for message in received):
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"the supervisor left after {received}"
            received += self._decoder.feed(data)
        return received

    def death(self, code: str) -> tuple[list[wire.Message], dict[str, object]]:
        """Run ``code`` to its end: what it said, and the facts of its death."""
        self.run(code)
        *said, died = self.until(wire.Died)
        assert isinstance(died, wire.Died)
        return said, died.facts

    def close(self) -> None:
        """End it."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.close()


def starts(messages: list[wire.Message]) -> list[int]:
    """Indices of the tests that started."""
    return [message.index for message in messages if isinstance(message, wire.Start)]


def test_messages_arrive_once_and_in_order(talk: Talk) -> None:
    said, facts = talk.death(
        "for i in range(30000): channel.send(wire.Start(i))\nchannel.finish()\nos._exit(0)"
    )
    assert starts(said) == list(range(30000))
    assert facts["finished"] is True
    assert (facts["code"], facts["signal"]) == (0, None)


def test_what_was_not_sent_yet_is_read_from_the_recorder(talk: Talk) -> None:
    said, facts = talk.death(
        "channel.send(wire.Start(0))\nchannel.send(wire.Start(1))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert starts(said) == [0, 1]
    assert (facts["code"], facts["signal"], facts["finished"]) == (None, 9, False)


def test_what_was_passed_on_ahead_of_time_comes_once(talk: Talk) -> None:
    said, _ = talk.death(
        """
        for i in range(0, 40, 4):
            channel.send(wire.Start(i))
            channel.send(wire.Start(i + 1))
            time.sleep(0.12)
            channel.send(wire.Start(i + 2))
            channel.flush()
            channel.send(wire.Start(i + 3))
        os._exit(0)
        """
    )
    assert starts(said) == list(range(40))


def test_ahead_of_time_means_while_the_test_runs(talk: Talk) -> None:
    talk.run("channel.send(wire.Start(0))\nchannel.send(wire.Start(1))\nchannel.receive()")
    seen: list[int] = []
    while 1 not in seen:
        seen += starts(talk.until(wire.Start))
    assert seen == [0, 1]
    talk.send(wire.Credit(5))
    assert starts(talk.until(wire.Died)) == []


def test_output_before_a_synchronous_message_arrives_before_it(talk: Talk) -> None:
    said, _ = talk.death(
        """
        channel.live = True
        for i in range(50):
            os.write(1, b"out %d\\n" % i)
            os.write(2, b"err %d\\n" % i)
            channel.send(wire.Start(i))
            channel.flush(sync=True)
        os._exit(0)
        """
    )
    out = ""
    for message in said:
        if isinstance(message, wire.Output) and message.stream == 1:
            out += message.data
        elif isinstance(message, wire.Start):
            assert out.endswith(f"out {message.index}\n")


def test_large_messages_are_cut_and_joined(talk: Talk) -> None:
    said, _ = talk.death(
        """
        channel.send(wire.Start(0))
        for size in (300_000, 1 << 20, (1 << 20) - 30, 5_000_000):
            channel.send(wire.Text("live", "\\u00fc" * size))
            channel.send(wire.Start(size))
        channel.finish()
        os._exit(0)
        """
    )
    assert starts(said) == [0, 300_000, 1 << 20, (1 << 20) - 30, 5_000_000]
    sizes = [len(message.text) for message in said if isinstance(message, wire.Text)]
    assert sizes == starts(said)[1:]


@pytest.mark.parametrize(
    "torn",
    [
        "os.write(ends.frames, wire.HEADER.pack(0, 1000) + b'[[')",
        "os.write(ends.frames, b'\\0\\0')",
        "os.write(ends.frames, next(iter(wire.frames(b'[' + wire.encode(wire.Text('live', 'x' * 3_000_000)) + b']'))))",
    ],
)
def test_a_worker_that_dies_within_a_frame_harms_nobody(talk: Talk, torn: str) -> None:
    said, facts = talk.death(f"channel.send(wire.Start(0))\n{torn}\nos.kill(os.getpid(), 9)")
    assert starts(said) == [0]
    assert facts["signal"] == 9
    said, facts = talk.death("channel.send(wire.Start(1))\nchannel.finish()\nos._exit(4)")
    assert starts(said) == [1]
    assert facts["code"] == 4


def test_children_of_tests_do_not_speak(talk: Talk) -> None:
    said, facts = talk.death(
        """
        channel.send(wire.Start(0))
        if os.fork() == 0:
            channel.send(wire.Start(99))
            channel.flush()
            channel.check()
            channel.finish()
            os._exit(0)
        os.wait()
        if os.fork() == 0:
            channel.receive()
        _, status = os.wait()
        channel.send(wire.Start(os.WEXITSTATUS(status)))
        os._exit(0)
        """
    )
    assert starts(said) == [0, 1]
    assert facts["finished"] is False


def test_the_host_is_gone(talk: Talk) -> None:
    talk.run("os.write(1, b'x')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    os._exit(0)")
    talk.until(wire.Output)
    assert talk.process.stdin is not None
    at = time.monotonic()
    talk.process.stdin.close()
    assert talk.process.wait(10) == 0
    assert time.monotonic() - at < 3


def test_the_host_is_gone_and_the_worker_does_not_care(talk: Talk) -> None:
    talk.run("signal.signal(2, signal.SIG_IGN)\nos.write(1, str(os.getpid()).encode())\ntime.sleep(60)")
    output = talk.until(wire.Output)[-1]
    assert isinstance(output, wire.Output)
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    assert talk.process.wait(10) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(output.data), 0)


@pytest.mark.parametrize(("ask", "number"), [(wire.Interrupt, 2), (wire.Dump, 6)], ids=["interrupt", "dump"])
def test_asked_to_end(talk: Talk, ask: Callable[[], wire.Message], number: int) -> None:
    talk.run("signal.signal(2, signal.SIG_DFL)\nos.write(1, b'x')\ntime.sleep(60)")
    talk.until(wire.Output)
    talk.send(ask())
    died = talk.until(wire.Died)[-1]
    assert isinstance(died, wire.Died)
    assert died.facts["signal"] == number


def test_shutdown_takes_the_worker_along(talk: Talk) -> None:
    talk.run("os.write(1, b'x')\ntime.sleep(60)")
    talk.until(wire.Output)
    talk.send(wire.Shutdown())
    assert talk.process.wait(10) == 0


def test_closed_descriptors_are_told(talk: Talk) -> None:
    said, facts = talk.death(
        "channel.send(wire.Start(0))\nos.closerange(3, 4096)\nchannel.check()\nos._exit(0)"
    )
    assert starts(said) == [0]
    assert facts["code"] == 1
    assert "closed file descriptors" in str(facts["tail"])


def test_the_tail_is_bounded_and_is_the_last(talk: Talk) -> None:
    _, facts = talk.death("os.write(1, b'a' * 50_000)\nos.write(2, b'\\xff' * 50_000 + b'end')\nos._exit(0)")
    tail = str(facts["tail"])
    assert tail.endswith("end")
    assert len(tail) <= 1 << 16


def test_a_recorder_holds_what_fits() -> None:
    made = recorder.Recorder()
    assert made.append(b"[1]")
    assert made.append(b"[2]")
    assert made.waiting() == b"[1],[2]"
    assert made.state() == (0, 7, False)
    assert made.read(0, 7) == b"[1],[2]"
    assert made.read(3, 7) == b"[2]"
    assert not made.append(b"x" * recorder.CAPACITY)
    made.sent()
    assert made.state() == (1, 0, False)
    assert made.append(b"x" * recorder.CAPACITY)
    made.finish()
    assert made.state() == (1, recorder.CAPACITY, True)
    made.close()


@pytest.mark.parametrize("again", [False, True], ids=["sent", "sent and begun again"])
def test_what_a_busy_worker_writes_over_is_not_passed_on(again: bool) -> None:
    """It goes on between the supervisor's look at how much is waiting and its look at what."""

    class Overtaken(recorder.Recorder):
        def read(self, start: int, end: int) -> bytes:
            self.sent()
            if again:
                assert self.append(b'["start",80]')
            return super().read(start, end)

    for made, expected in ((recorder.Recorder(), b'["start",79]'), (Overtaken(), None)):
        assert made.append(b'["start",79]')
        sent, length, _ = made.state()
        assert made.steady(0, sent, length) == expected
        made.close()
