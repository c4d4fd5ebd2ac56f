"""The services of a stage: started beside its own container, awaited before the first test, listened to, removed.

Everything that happens to them arrives as an event in one queue: a line of a log, the end of a container, the answer of
a check. So an early end is noticed at once, whatever is being waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import re
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.containers import readiness
from pytest_envpar.containers.labels import SERVICE
from pytest_envpar.containers.lifecycle import container_name, create_owned, kept_name
from pytest_envpar.containers.networks import open_network
from pytest_envpar.containers.servicelog import ServiceLog
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import EngineError, EnvparError, NotFoundError, ServiceError, escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.model import Service, Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.containers.readiness import Vantage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.images.pinned import PinnedImage

_TAIL = 25
_LINE = 500
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_JOIN_S = 5.0
_START_S = 60.0
"""How long the engine may take to start a container."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Where the suite finds a service: its name on the network, and its port if that is known."""

    host: str
    port: int | None


@dataclasses.dataclass(frozen=True)
class End:
    """How a service ended.

    Args:
        time: When, in seconds since 1970 by the engine's clock.
        how: ``ended with exit code 1``.
    """

    time: float
    how: str


@dataclasses.dataclass(frozen=True)
class _Event:
    """Something that happened to a service.

    ``met`` is what a check met last; ``None`` with ``error`` and ``end`` also ``None`` means that it is ready.
    """

    service: str
    met: str | None = None
    end: End | None = None
    error: EnvparError | None = None


class RunningService:
    """One service. Mutable: ``end`` is set when its container has ended by itself or was ended from outside."""

    def __init__(self, service: Service, container: str) -> None:
        self.service = service
        self.container = container
        self.started = time.monotonic()
        self.log = ServiceLog()
        self.end: End | None = None
        self.ended = threading.Event()


class Services:
    """The services of one run of a stage, and their network. Mutable; owns both until ``close``.

    Args:
        images: By service, present on the engine.

    Raises:
        ServiceError: The stage's ``network`` or the services' names do not go together.
        EngineError: The network could not be created; then nothing is left.
    """

    def __init__(self, engine: Engine, stage: Stage, images: Mapping[str, PinnedImage], owner: Owner) -> None:
        self._engine = engine
        self._stage = stage
        self._images = images
        self._owner = owner
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._running: dict[str, RunningService] = {}
        self._met: dict[str, str] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._settled: list[threading.Event] = []
        """One for each start: whether it is over, in one way or the other."""
        self._containers: list[contextlib.ExitStack] = []
        self.facts: Mapping[str, Facts] = MappingProxyType(
            {
                name: Facts(name, readiness.port_of(service.ready, images[name].info))
                for name, service in stage.services.items()
            }
        )
        self.env: Mapping[str, str] = MappingProxyType(variables(stage, self.facts))
        for name, service in stage.services.items():
            readiness.command_of(stage.name, service, images[name].info)
        with contextlib.ExitStack() as stack:
            self.network = open_network(engine, stage, owner, stack)
            self._stack = stack.pop_all()

    # --- start -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to start all of them, each in a thread of its own; returns at once."""
        for service in self._stage.services.values():
            settled = threading.Event()
            self._settled.append(settled)
            self._spawn(self._run, service, settled)

    def _spawn(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="envpar-service", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _run(self, service: Service, settled: threading.Event) -> None:
        """The life of one service, seen from here."""
        try:
            try:
                running = self._start(service)
            finally:
                settled.set()
            ready = service.ready
            if ready is None:
                self._events.put(_Event(service.name))
            hearing = threading.Thread(target=self._hear, args=(running,), name="envpar-log", daemon=True)
            hearing.start()
            command = readiness.command_of(self._stage.name, service, self._images[service.name].info)
            if command:
                self._spawn(self._try, running, command)
            self._engine.wait(running.container)
            hearing.join(_JOIN_S)
            if not self._closing.is_set():
                running.end = self._how_it_ended(running)
                self._events.put(_Event(service.name, end=running.end))
            running.ended.set()
        except EnvparError as error:
            if not self._closing.is_set():
                self._events.put(_Event(service.name, error=error))

    def _start(self, service: Service) -> RunningService:
        stage, owner = self._stage, self._owner
        name = container_name(owner, f"{stage.name}-{service.name}")
        spec = ContainerSpec(
            image=self._images[service.name].image_id,
            command=service.command,
            labels={**owner.labels("run", stage.name), SERVICE: service.name},
            name=name,
            env=service.env,
            hostname=service.name,
            network=self.network,
            aliases=(service.name,),
            log="readable",
        )
        with contextlib.ExitStack() as stack:
            try:
                container = create_owned(self._engine, spec, name, stack)
                self._engine.start(container)
            except EngineError as error:
                if self._closing.is_set():
                    raise
                raise self._error(service, f"could not be started: {error.message}", error.detail) from error
            running = RunningService(service, container)
            with self._lock:
                if self._closing.is_set():
                    return running  # and it goes with this stack
                self._running[service.name] = running
                self._containers.append(stack.pop_all())
        return running

    def _hear(self, running: RunningService) -> None:
        ready = running.service.ready
        pattern = re.compile(ready.log) if ready is not None and ready.log is not None else None
        try:
            for line in self._engine.follow_logs(running.container):
                running.log.add(line)
                if pattern is not None and pattern.search(line.text.decode("utf-8", "replace")):
                    pattern = None
                    self._events.put(_Event(running.service.name))
        except EnvparError as error:
            if pattern is not None and not self._closing.is_set():
                self._events.put(_Event(running.service.name, error=error))

    def _try(self, running: RunningService, command: tuple[str, ...]) -> None:
        """Run the command until it ends with 0, the container ends, or nobody waits any more."""
        ready = running.service.ready
        assert ready is not None
        for number in range(1 << 30):
            try:
                result = self._engine.exec(running.container, command, timeout_s=ready.timeout_s)
            except TimeoutError:
                met = "the command did not end"
            except EnvparError as error:
                # The container may be starting or ending; the latter is an event of its own.
                met = error.message
            else:
                if result.exit_code == 0:
                    self._events.put(_Event(running.service.name))
                    return
                said = (result.stderr or result.stdout).decode("utf-8", "replace").strip().splitlines()
                met = f"exit code {result.exit_code}" + (f": {escaped(said[-1][:_LINE])}" if said else "")
            self._events.put(_Event(running.service.name, met=met))
            if running.ended.wait(_PAUSES_S[min(number, len(_PAUSES_S) - 1)]) or self._closing.is_set():
                return

    # --- readiness -----------------------------------------------------------------------------------------------

    def wait_ready(self, vantage: Vantage) -> None:
        """Wait until all services are ready.

        Args:
            vantage: The stage's own container, started and on the network.

        Raises:
            ServiceError: One could not be started, ended, or was not ready in time; the message says what was waited
                for, and ``detail`` has the end of its log.
        """
        services = self._stage.services
        checks = [
            check
            for name, service in services.items()
            if service.ready is not None
            and (check := readiness.network_check(name, service.ready)) is not None
        ]
        begun = time.monotonic()
        waiting = dict(services)
        if checks:
            longest = max(
                service.ready.timeout_s for service in services.values() if service.ready is not None
            )
            self._spawn(self._ask, vantage, checks, longest)
        while waiting:
            ends = {name: self._deadline(service, begun) for name, service in waiting.items()}
            first = min(ends, key=lambda name: ends[name])
            try:
                event = self._events.get(timeout=max(0.0, ends[first] - time.monotonic()))
            except queue.Empty:
                raise self._late(waiting[first]) from None
            if event.error is not None:
                raise event.error
            if event.end is not None:
                raise self._early(services[event.service], event.end, ready=event.service not in waiting)
            if event.met is None:
                waiting.pop(event.service, None)
            else:
                self._met[event.service] = event.met

    def _deadline(self, service: Service, begun: float) -> float:
        running = self._running.get(service.name)
        timeout_s = service.ready.timeout_s if service.ready is not None else _START_S
        # Neither is it late before somebody can ask.
        return (begun if running is None else max(begun, running.started)) + timeout_s

    def _ask(self, vantage: Vantage, checks: list[readiness.NetworkCheck], stop_s: float) -> None:
        def told(name: str, met: str | None) -> None:
            self._events.put(_Event(name, met=met))

        try:
            readiness.watch(vantage, checks, told, stop_s)
        except EnvparError as error:
            if not self._closing.is_set():
                self._events.put(_Event(checks[0].name, error=error))

    def _late(self, service: Service) -> ServiceError:
        ready = service.ready
        if ready is None:
            return self._error(service, "was not started in time")
        met = self._met.get(service.name)
        text = f"was not ready within {ready.timeout_s:g} s: waited for {readiness.described(ready)}"
        return self._error(
            service, text + (f" ({met})" if met else ""), self._tail(service.name), self._hint(met)
        )

    def _hint(self, met: str | None) -> str | None:
        if self._engine.info.kind != "podman":
            return None
        if met == "timed out" and self._stage.network == "none":
            return (
                "Podman lets nothing pass between containers of an internal network where another program's firewall "
                'rules drop what is forwarded, as Docker\'s do on the same machine: remove network = "none"'
            )
        if met == "the name is not known":
            return (
                "Podman needs aardvark-dns (netavark) or its dnsname plugin for names on networks: install it"
            )
        return None

    def _early(self, service: Service, end: End, *, ready: bool) -> ServiceError:
        when = "before the first test" if ready or service.ready is None else "before it was ready"
        what = "" if ready or service.ready is None else f": waited for {readiness.described(service.ready)}"
        return self._error(service, f"{end.how} {when}{what}", self._tail(service.name))

    def _error(
        self, service: Service, text: str, detail: tuple[str, ...] = (), hint: str | None = None
    ) -> ServiceError:
        return ServiceError(
            f"stage {self._stage.name!r}: service {service.name!r} {text}", detail=detail, hint=hint
        )

    def _tail(self, name: str) -> tuple[str, ...]:
        running = self._running.get(name)
        if running is None:
            return ()
        try:
            said = self._engine.logs(running.container, tail=_TAIL).decode("utf-8", "replace")
        except EngineError:
            return ()
        lines = said.splitlines()[-_TAIL:]
        return (
            (f"the last lines of {name}:", *(f"  {escaped(line[:_LINE])}" for line in lines))
            if lines
            else (f"{name} said nothing",)
        )

    # --- while the suite runs ------------------------------------------------------------------------------------

    @property
    def running(self) -> tuple[RunningService, ...]:
        """Those that were started, in the order of the configuration."""
        return tuple(self._running[name] for name in self._stage.services if name in self._running)

    def _how_it_ended(self, running: RunningService) -> End:
        try:
            info = self._engine.inspect_container(running.container)
        except NotFoundError:
            return End(time.time(), "was removed from outside")
        except EngineError as error:
            return End(time.time(), f"ended, and the engine does not say how ({error.message})")
        return End(info.finished_at or time.time(), how_it_ended(info))

    def keep(self) -> tuple[str, ...]:
        """Give up ownership: containers and network stay. Returns the names that the containers have from now on.

        Raises:
            EngineError: One could not be renamed; what was not stays owned.
        """
        self._closing.set()
        names = []
        for running in self.running:
            name = kept_name(self._engine.inspect_container(running.container).name)
            self._engine.rename(running.container, name)
            names.append(name)
        with self._lock:
            for stack in (*self._containers, self._stack):
                stack.pop_all()
            self._containers = []
        self._threads = []  # they listen until the engine is let go of
        return tuple(names)

    def close(self) -> None:
        """Remove the containers and the network. Safe to repeat."""
        self._closing.set()
        for settled in self._settled:
            settled.wait(_START_S)
        with self._lock:
            containers, self._containers = self._containers, []
        removals = [threading.Thread(target=stack.close, name="envpar-removal") for stack in containers]
        for removal in removals:
            removal.start()
        for removal in removals:
            removal.join()
        self._stack.close()
        for thread in self._threads:
            thread.join(_JOIN_S)


def how_it_ended(info: ContainerInfo) -> str:
    """``ended with exit code 1``, or what killed it."""
    code = info.exit_code
    if info.oom_killed:
        return "was killed: out of memory"
    if code is None:
        return "ended, and the engine does not say how"
    if code > 128:
        return f"was killed (exit code {code}, signal {code - 128})"
    return f"ended with exit code {code}" + (f": {info.error}" if info.error else "")


def variables(stage: Stage, facts: Mapping[str, Facts]) -> dict[str, str]:
    """``ENVPAR_DB_HOST`` and ``ENVPAR_DB_PORT`` of each service; what the stage's own ``env`` sets stays.

    Raises:
        ServiceError: Two services have the same variables.
    """
    found: dict[str, str] = {}
    by_word: dict[str, str] = {}
    for name, each in facts.items():
        word = name.upper().replace("-", "_")
        other = by_word.setdefault(word, name)
        if other != name:
            raise ServiceError(
                f"stage {stage.name!r}: services {other!r} and {name!r} would both be ENVPAR_{word}_HOST",
                hint="rename one of the two",
            )
        found[f"ENVPAR_{word}_HOST"] = each.host
        if each.port is not None:
            found[f"ENVPAR_{word}_PORT"] = str(each.port)
    return {name: value for name, value in found.items() if name not in stage.env}
