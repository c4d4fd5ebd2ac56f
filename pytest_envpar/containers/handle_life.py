"""The life of a container: whether it is ready, where it is reached, what it writes and uses, and how it ends."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_envpar.containers.handle_base import Base
from pytest_envpar.containers.handle_process import tail as last_lines
from pytest_envpar.errors import EngineError, UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from pytest_envpar.engine.values.containers import Stats

_POLL_S = 0.02
_READY_S = 60.0


class Address(NamedTuple):
    """Where a published port is reached; fits ``socket.create_connection``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Life(Base):
    """The life of :class:`~pytest_envpar.containers.handle.Container`."""

    def logs(self, *, since: float | None = None, tail: int | None = None) -> str:
        """What the main process wrote on both streams, as UTF-8.

        Args:
            since: Only what was written after this time (``time.time()``).
            tail: Only the last lines.
        """
        return self._engine.logs(self.id, since=since, tail=tail).decode("utf-8", "replace")

    def port(self, container_port: int, protocol: str = "tcp") -> Address:
        """Where a published port is reached: always an address of the loopback interface.

        Raises:
            UsageError: The port is not published.
        """
        ports = self.inspect().ports
        places = ports.get(f"{container_port}/{protocol}", ())
        if not places:
            raise UsageError(
                f"{self.name}: port {container_port}/{protocol} is not published"
                + (f" (published: {', '.join(sorted(ports))})" if ports else ""),
                hint=f"ask for it: envpar_containers.start(..., ports=[{container_port}])",
            )
        host, port = places[0]
        return Address(host if host not in ("", "0.0.0.0") else "127.0.0.1", port)

    def ip(self, network: str | None = None) -> IPv4Address | IPv6Address:
        """Its address on a network; on its only one by default.

        Raises:
            UsageError: It is not on that network, or on none.
        """
        addresses = self.inspect().ip_addresses
        text = addresses.get(network) if network is not None else next(iter(addresses.values()), None)
        if not text:
            where = f"on the network {network!r}" if network is not None else "on any network"
            raise UsageError(f"{self.name} is not {where}", hint="see the stage's key 'network'")
        return ipaddress.ip_address(text)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until it runs and, where its image has a health check, until that is content.

        Args:
            timeout: Seconds; 60 by default.

        Raises:
            EngineError: It ended meanwhile, or is unhealthy; the end of its log is part of the error.
            TimeoutError: The time is up.
        """
        limit = _READY_S if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            info = self.inspect()
            if info.running and info.health in ("", "healthy"):
                return
            if info.exit_code is not None or info.health == "unhealthy":
                what = "is unhealthy" if info.running else f"ended with exit code {info.exit_code}"
                raise EngineError(
                    f"{self.name} {what} and is not ready",
                    detail=last_lines(self._engine.logs(self.id, tail=20), b""),
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} was not ready within {limit:g} s")
            time.sleep(_POLL_S)

    def stats(self) -> Stats:
        """What it uses now: processor, memory, processes, network."""
        return self._engine.stats(self.id)

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal to its main process."""
        self._engine.kill(self.id, signal)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask the main process to end, and kill it after ``timeout`` (whole seconds)."""
        self._engine.stop(self.id, timeout_s=timeout)

    def restart(self) -> None:
        """Stop and start it again; files stay, tmpfs is emptied, published ports may change."""
        self._engine.restart(self.id)

    def pause(self) -> None:
        """Freeze all of its processes."""
        self._engine.pause(self.id)

    def unpause(self) -> None:
        """Let its processes go on."""
        self._engine.unpause(self.id)

    def remove(self) -> None:
        """Kill and remove it with its volumes. Safe to repeat; whoever started it does so in any case."""
        self.running.remove()
