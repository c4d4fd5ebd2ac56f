"""Containers and what they use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.parse.images import run_config
from pytest_envpar.engine.parse.shapes import image_id, labels, rows, table, texts, unix_time
from pytest_envpar.engine.values.containers import ContainerInfo, Stats

if TYPE_CHECKING:
    from collections.abc import Mapping


def container_info(answer: Any) -> ContainerInfo:
    """``GET /containers/{id}/json``."""
    data = table(answer)
    state = table(data.get("State"))
    status = str(state.get("Status") or "")
    running = bool(state.get("Running"))
    ended = not running and (status in ("exited", "dead", "stopped", "removing") or bool(state.get("Dead")))
    networks = table(table(data.get("NetworkSettings")).get("Networks"))
    addresses = {name: str(table(network).get("IPAddress") or "") for name, network in networks.items()}
    return ContainerInfo(
        id=str(data.get("Id") or ""),
        name=str(data.get("Name") or "").lstrip("/"),
        image_id=image_id(data.get("Image")),
        running=running,
        status=status,
        exit_code=int(state.get("ExitCode") or 0) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        created_at=unix_time(str(data.get("Created") or "")),
        finished_at=unix_time(str(state.get("FinishedAt") or "")) if ended else 0.0,
        labels=labels(table(data.get("Config")).get("Labels")),
        ip_addresses={name: address for name, address in addresses.items() if address},
        ports=_ports(table(data.get("NetworkSettings")).get("Ports")),
        # Podman writes the name that Docker has had before, too.
        health=_health(table(state.get("Health") or state.get("Healthcheck"))),
        config=run_config(data.get("Config")),
        mounts=_mounts(data),
        cap_drop=texts(table(data.get("HostConfig")).get("CapDrop")),
        own_processes=table(data.get("HostConfig")).get("PidMode") in (None, "", "private"),
    )


def _mounts(data: Mapping[str, Any]) -> Mapping[str, str]:
    """What is mounted in a container; a tmpfs stands among the mounts or only in what was asked for."""
    found = {str(path): "tmpfs" for path in table(table(data.get("HostConfig")).get("Tmpfs"))}
    for mount in map(table, rows(data.get("Mounts"))):
        target = str(mount.get("Destination") or "")
        if target:
            found[target.rstrip("/") or "/"] = str(mount.get("Type") or "mount")
    return found


def _ports(value: Any) -> dict[str, tuple[tuple[str, int], ...]]:
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, places in table(value).items():
        rows_ = [
            (str(table(row).get("HostIp") or ""), str(table(row).get("HostPort"))) for row in rows(places)
        ]
        published = tuple((host, int(port)) for host, port in rows_ if port.isdigit())
        if published:
            found[str(name)] = published
    return found


def _health(data: Mapping[str, Any]) -> str:
    status = str(data.get("Status") or "")
    return status if status in ("starting", "healthy", "unhealthy") else ""


def stats(answer: Any) -> Stats:
    """``GET /containers/{id}/stats``."""
    data = table(answer)
    memory, cpu = table(data.get("memory_stats")), table(table(data.get("cpu_stats")).get("cpu_usage"))
    cache = table(memory.get("stats"))
    # What the kernel can take back at once is no use of the container's: as `docker stats` has it.
    inactive = int(cache.get("total_inactive_file") or cache.get("inactive_file") or 0)
    networks = [table(network) for network in table(data.get("networks")).values()]
    return Stats(
        cpu_s=int(cpu.get("total_usage") or 0) / 1e9,
        memory_bytes=max(0, int(memory.get("usage") or 0) - inactive),
        memory_limit_bytes=int(memory.get("limit") or 0),
        pids=int(table(data.get("pids_stats")).get("current") or 0),
        received_bytes=sum(int(network.get("rx_bytes") or 0) for network in networks),
        sent_bytes=sum(int(network.get("tx_bytes") or 0) for network in networks),
    )
