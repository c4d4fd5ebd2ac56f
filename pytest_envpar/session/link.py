"""The conversation with the workers of one stage: one worker at a time, a fresh one after each death."""

from __future__ import annotations

import codecs
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from pytest_envpar.errors import WorkerDiedError
from pytest_envpar.session import crash
from pytest_envpar.session.names import shown
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.client import Client, Gone, init_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.session.console import Console
    from pytest_envpar.worker.paths import PathMap

MAX_RESTARTS = 10
CREDIT = 2000


class Place(Protocol):
    """A running container, as far as the session needs to know it."""

    client: Client
    paths: PathMap

    def autopsy(self) -> str | None:
        """Why the container is gone, if the engine can tell."""
        ...


class Launch(Protocol):
    """Makes places."""

    def place(self) -> Place:
        """The first container, which may have been started ahead. Raises EnvparError."""
        ...

    def serve(self, call: wire.Call, client: Client) -> None:
        """Answer what a test asks for, in time."""
        ...

    def worker_gone(self) -> None:
        """Remove what the tests of a dead worker were given."""
        ...

    def engine_gone(self) -> bool:
        """Whether the engine is lost, and another one can take over."""
        ...

    def another(self) -> Place:
        """A fresh container instead of the last one, which is removed. Raises EnvparError."""
        ...


class Briefing(Protocol):
    """What workers are told before they start; see :class:`~pytest_envpar.session.boot.Boot`."""

    def options(self, place: Place) -> Mapping[str, Any]:
        """All of it, for the first worker."""
        ...

    def of_place(self, place: Place) -> Mapping[str, Any]:
        """What depends on the container and its engine; the rest is of the run, and decided once. In any thread."""
        ...

    def pollution(self) -> Mapping[str, Any] | None:
        """What a worker has to know of earlier ones in its container, told once; None if nobody asked."""
        ...


@dataclasses.dataclass(frozen=True)
class Ended:
    """A worker that left before it had a session: a usage error, or an option that only prints."""

    status: int


class Link:
    """Owns the client of the current worker and everything that has to be known when it dies.

    It changes as messages arrive: ``running`` is the index of the test that has started and not finished,
    ``collecting`` the file that was being imported.
    """

    def __init__(
        self,
        launch: Launch,
        stage: str,
        briefing: Briefing,
        console: Console | None = None,
    ) -> None:
        self.stage = stage
        self.restarts = 0
        self.running: int | None = None
        self.collecting: str | None = None
        self.finished: wire.Finished | None = None
        self.exited = False
        self.stop: wire.Stop | None = None
        self.ready: wire.Ready | None = None
        self.early: list[wire.Message] = []
        """What was told before there was a session: warnings of its configuration."""
        self.measured: Callable[[wire.Coverage], object] = lambda _: None
        """Takes what coverage.py has measured inside."""
        self._launch = launch
        self._briefing = briefing
        self._said: dict[str, Any] = {}
        """What the first worker was told, and what has become of the run since."""
        self._console = console
        self._place: Place | None = None
        self._translate: list[int] | None = None
        self._back: dict[int, int] | None = None
        self._started = 0
        self._credit = self._window = 0
        self.held: list[tuple[int, str]] | None = []
        self._decoders = {
            number: codecs.getincrementaldecoder("utf-8")("surrogateescape") for number in (0, 1, 2)
        }

    @property
    def place(self) -> Place:
        """The current container. Raises EnvparError if it could not be started."""
        if self._place is None:
            self._place = self._launch.place()
        return self._place

    # --- start ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Tell the first worker what to do. Raises EnvparError if the container could not be started."""
        place = self.place
        self._said = dict(self._briefing.options(place))
        self._credit = self._window = int(self._said["credit"])
        place.client.send(init_message(self._said))

    def begin(self) -> wire.Ready | Ended:
        """Wait until the booted worker has a session.

        Returns:
            What the worker says of itself, or that it left before (its output is in ``held``).

        Raises:
            WorkerDiedError: The worker died before it said anything.
        """
        while True:
            message = self.receive()
            if isinstance(message, wire.Ready):
                self.ready = message
                return message
            if isinstance(message, (wire.Warned, wire.Text)):
                self.early.append(message)
            if isinstance(message, crash.Death):
                if self.finished is not None:
                    return Ended(self.finished.status)
                if message.engine_gone:
                    self.reboot()
                    continue
                raise WorkerDiedError(
                    f"the worker of stage {self.stage!r} died before it had a session: {message.cause}",
                    detail=tuple(message.tail.strip().splitlines()[-20:]),
                )

    def reboot(self) -> None:
        """Begin once more, elsewhere: the engine was lost before there was anything to go on with."""
        self._launch.worker_gone()
        self._place = self._launch.another()
        self.exited = False
        self.collecting = None
        self.boot()

    def receive(self, timeout_s: float | None = None) -> wire.Message | crash.Death | None:
        """The next message that matters to the caller; output is passed on or held on the way.

        Returns:
            A message, a :class:`~crash.Death` when the worker's process or its container is gone (also after it has
            finished), or ``None`` if the time is up.
        """
        message = self._receive(timeout_s)
        if self._console is not None and message is not None:
            if isinstance(message, (crash.Death, wire.Finished)):
                self._console.take_back()
            self._console.showing()
        return message

    def _receive(self, timeout_s: float | None) -> wire.Message | crash.Death | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._console is not None:
                self._console.waiting()
            message = self.place.client.receive(rest)
            if isinstance(message, wire.Output):
                self._output(message)
                continue
            if isinstance(message, wire.Listen):
                self._listen(wanted=message.wanted)
                continue
            if isinstance(message, wire.Call):
                self._launch.serve(message, self.place.client)
                continue
            if isinstance(message, wire.Coverage):
                self.measured(message)
                continue
            if isinstance(message, Gone):
                return self._gone(message)
            if isinstance(message, wire.Died):
                self.exited = True
                return crash.from_facts(message.facts)
            if isinstance(message, wire.Start):
                message.index = self._known(message.index)
                self.running = message.index
                self._replenish()
            elif isinstance(message, wire.Finish):
                message.index = self._known(message.index)
                self.running = None
            elif isinstance(message, (wire.Passed, wire.Report, wire.Pollution)):
                message.index = self._known(message.index)
            elif isinstance(message, wire.Collecting):
                self.collecting = message.nodeid
            elif isinstance(message, wire.Collected):
                self.collecting = None
            elif isinstance(message, wire.Stop):
                self.stop = message
            elif isinstance(message, wire.Finished):
                self.finished = message
            return message

    def run(self, index: int, following: int | None) -> bool:
        """Have one test run, see :class:`wire.Run`; False if a fresh worker did not collect it again."""
        if self._back is not None:
            if index not in self._back:
                return False
            index = self._back[index]
            following = self._back.get(following) if following not in (None, wire.UNKNOWN) else following
        self.place.client.send(wire.Run(index, following))
        return True

    def _known(self, index: int) -> int:
        if self._translate is None or index < 0:
            return index
        return self._translate[index] if 0 <= index < len(self._translate) else -1

    def _replenish(self) -> None:
        self._started += 1
        if self._credit and self._credit - self._started < self._window // 2:
            self._credit = self._started + self._window
            self.place.client.send(wire.Credit(self._credit))

    def _gone(self, gone: Gone) -> crash.Death:
        self.exited = True
        why = self.place.autopsy() or "the container is gone"
        if gone.reason and gone.reason not in why:
            why += f" ({gone.reason})"
        return crash.Death(why, gone.tail, container_gone=True, engine_gone=self._launch.engine_gone())

    # --- input and output ----------------------------------------------------------------------------------------

    def _listen(self, *, wanted: bool) -> None:
        if self._console is not None:
            if wanted and self._console.is_terminal:
                self.release()  # whoever is asked something has to see what
            self._console.listen(self.place.client, wanted=wanted)

    def _output(self, message: wire.Output) -> None:
        decoder = self._decoders.get(message.stream)
        if decoder is None:
            return
        text = decoder.decode(message.data.encode("latin-1", "replace"))
        if self.held is not None:
            self.held.append((message.stream, text))
        else:
            self._show(message.stream, text)

    def _show(self, stream: int, text: str) -> None:
        if stream:
            _write(stream, text)
        elif self._console is not None:
            self._console.write(text, _write)

    def release(self) -> None:
        """Write what was held, and everything that follows, to the host's own streams."""
        held, self.held = self.held or [], None
        for stream, text in held:
            self._show(stream, text)

    def hold(self) -> None:
        """Keep output from now on."""
        self.held = self.held or []

    # --- after a death -------------------------------------------------------------------------------------------

    def restart(
        self, death: crash.Death, remaining: list[int], nodeids: list[str], failed: int = 0
    ) -> list[int]:
        """Go on in a fresh worker.

        Args:
            death: How the last one ended.
            remaining: Indices (of the first collection) that have not run.
            nodeids: Node ids of the first collection, by index.
            failed: How many tests have failed so far; the new worker counts on from there.

        Returns:
            Indices that the new worker did not collect.

        Raises:
            EnvparError: There is no worker to be had.
        """
        self.restarts += 1
        self._launch.worker_gone()
        if death.container_gone:
            self._place = self._launch.another()
        self._said["failed_before"] = failed
        self._greet(self.place, self._briefing.pollution())
        return self._resume(remaining, nodeids, failed)

    def move(self, place: Place, remaining: list[int], nodeids: list[str], failed: int) -> list[int]:
        """Go on in another container, whose worker was greeted already; see :meth:`restart`."""
        self._place = place
        self.finished = None
        held, self.held = self.held, []
        try:
            return self._resume(remaining, nodeids, failed)
        finally:
            self.held = held  # what is printed while files are imported was to be seen once

    def greet(self, place: Place) -> None:
        """Tell the first worker of a further container what to do; it collects and waits. Any thread may call this."""
        told = self._said.get("pollution")
        # Nothing that was left elsewhere is there, and nobody has died in it.
        self._greet(place, None if told is None else {**told, "left": [], "died": ""})

    def _greet(self, place: Place, pollution: Any) -> None:
        here = self._briefing.of_place(place)
        options = {**self._said, **here, "autostart": False, "cache": {}, "pollution": pollution}
        if options.get("coverage"):
            options["coverage"] = {**options["coverage"], "first": False}
        place.client.send(init_message(options))

    def _resume(self, remaining: list[int], nodeids: list[str], failed: int) -> list[int]:
        self.stop = self._translate = None
        self._await()
        moves = 0
        while True:
            message = self.receive()
            if isinstance(message, wire.Collected):
                break
            if isinstance(message, crash.Death):
                if message.engine_gone and moves < MAX_RESTARTS:
                    moves += 1
                    self._launch.worker_gone()
                    self._place = self._launch.another()
                    self.greet(self._place)
                    self._await()
                    continue
                raise WorkerDiedError(
                    f"a fresh worker of stage {self.stage!r} died before it had collected: {message.cause}",
                    detail=tuple(message.tail.strip().splitlines()[-20:]),
                )
        rows, collected = message.nodes, message.items[: len(message.items) - message.deselected]
        places: dict[str, list[int]] = {}
        for index, row in enumerate(collected):
            places.setdefault(_nodeid(row, rows), []).append(index)
        known: dict[str, list[int]] = {}
        for index, nodeid in enumerate(nodeids):
            known.setdefault(nodeid, []).append(index)
        self._translate = [-1] * len(collected)
        for nodeid, indices in places.items():
            for new, old in zip(indices, known.get(nodeid, []), strict=False):
                self._translate[new] = old
        back = {old: new for new, old in enumerate(self._translate) if old >= 0}
        plan = [back[index] for index in remaining if index in back]
        self._back = back
        self._started = 0
        self._credit = self._window
        if self._said["crew"] is None:
            self.place.client.send(wire.Plan(plan, failed))
        return [index for index in remaining if index not in back]

    def _await(self) -> None:
        self.running = self.collecting = None
        self.exited = False


def _nodeid(row: list[Any], nodes: list[Any]) -> str:
    parent, _, name, nodeid = row[:4]
    return shown(str(nodeid) if nodeid is not None else f"{nodes[parent][3] if parent >= 0 else ''}::{name}")


def _write(stream: int, text: str) -> None:
    """Write what came from inside, byte for byte where that is possible."""
    file = sys.stdout if stream == 1 else sys.stderr
    binary = getattr(file, "buffer", None)
    if binary is not None and codecs.lookup(file.encoding or "ascii").name == "utf-8":
        file.flush()
        binary.write(text.encode("utf-8", "surrogateescape"))
    else:
        try:
            file.write(text)
        except UnicodeEncodeError:
            file.write(text.encode("unicode-escape").decode("ascii"))
    file.flush()
