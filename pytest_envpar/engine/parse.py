"""Engine JSON to our values and back, in one place.

Unknown keys are ignored and missing ones have a default: Podman leaves out what Docker always sends, and
every version adds something.
"""

from __future__ import annotations

import base64
import calendar
import contextlib
import hashlib
import json
import os
import socket
import stat
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.engine.api import (
    ContainerInfo,
    ContainerSpec,
    EngineInfo,
    HistoryEntry,
    ImageInfo,
    LayerFolders,
    Listed,
    PathChange,
    PathStat,
    RemoteImage,
    RunConfig,
    Stats,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}
_CHANGE_KINDS: Mapping[int, Literal["added", "removed", "modified"]] = {
    0: "modified",
    1: "added",
    2: "removed",
}
_GO_TYPES = (
    (1 << 31, stat.S_IFDIR),
    (1 << 27, stat.S_IFLNK),
    (1 << 21, stat.S_IFCHR),
    (1 << 26, stat.S_IFBLK),
    (1 << 25, stat.S_IFIFO),
    (1 << 24, stat.S_IFSOCK),
)
_GO_FLAGS = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))
_LOOPBACK = "127.0.0.1"
_OVERLAY_DRIVERS = ("overlay2", "overlayfs")
_VIRTUAL_MACHINES = ("docker desktop", "docker-desktop", "rancher desktop", "colima", "lima", "orbstack")


def table(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one (``null`` and missing are common)."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Any]:
    """``value`` if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a single string counts as one."""
    return (value,) if isinstance(value, str) else tuple(str(item) for item in rows(value))


def labels(value: Any) -> Mapping[str, str]:
    """Labels, or an empty mapping."""
    return {str(key): str(item) for key, item in table(value).items()}


def image_id(value: Any) -> str:
    """An image id as ``sha256:…``; Podman leaves the algorithm out in places."""
    text = str(value or "")
    return text if not text or ":" in text else f"sha256:{text}"


def engine_info(answer: Any, headers: Mapping[str, str], url: str, *, unix: bool) -> EngineInfo:
    """``GET /info``; the API version and the kind of engine stand in the headers of every answer.

    Args:
        unix: Whether the engine was reached through a unix socket.
    """
    data = table(answer)
    kind: Literal["docker", "podman"] = "podman" if "libpod-api-version" in headers else "docker"
    rootless = bool(data.get("Rootless")) or any(
        "rootless" in item for item in texts(data.get("SecurityOptions"))
    )
    local = unix and _same_machine(data)
    system = str(data.get("OSType") or headers.get("ostype") or "linux")
    architecture = str(data.get("Architecture") or "")
    identity = str(data.get("ID") or "")
    if kind == "podman":
        # Podman makes up a new ID for every answer.
        place = f"{data.get('Name')}\0{data.get('DockerRootDir')}\0{rootless}"
        identity = "podman-" + hashlib.sha256(place.encode()).hexdigest()[:32]
    return EngineInfo(
        kind=kind,
        version=str(data.get("ServerVersion") or ""),
        api_version=headers.get("api-version", ""),
        url=url,
        local=local,
        rootless=rootless,
        native_overlay=kind == "docker"
        and local
        and system == "linux"
        and not rootless
        and data.get("Driver") in _OVERLAY_DRIVERS,
        cgroup_version=2 if str(data.get("CgroupVersion")) == "2" else 1,
        os=system,
        architecture=_ARCHITECTURES.get(architecture, architecture),
        id=identity,
    )


def own_service_info(headers: Mapping[str, str], url: str) -> EngineInfo:
    """A Podman service that we started: what its headers leave out is known of this machine and this user."""
    machine = os.uname()
    rootless = os.geteuid() != 0
    place = f"{machine.nodename}\0{os.geteuid()}"
    return EngineInfo(
        kind="podman",
        version=headers.get("server", "").partition("/")[2].partition(" ")[0],
        api_version=headers.get("api-version", ""),
        url=url,
        local=True,
        rootless=rootless,
        native_overlay=False,
        cgroup_version=2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,  # noqa: PTH110 - 1 ms
        os="linux",
        architecture=_ARCHITECTURES.get(machine.machine, machine.machine),
        id="podman-" + hashlib.sha256(place.encode()).hexdigest()[:32],
    )


def _same_machine(data: Mapping[str, Any]) -> bool:
    """Whether host paths mean the same to the engine. A virtual machine has a kernel of its own; a container
    that was given the engine's socket has the same kernel and another host name."""
    told = f"{data.get('OperatingSystem')} {data.get('Name')}".lower()
    if any(name in told for name in _VIRTUAL_MACHINES):
        return False
    kernel, name = data.get("KernelVersion"), data.get("Name")
    return (not kernel or kernel == os.uname().release) and (not name or name == socket.gethostname())


def image_info(answer: Any) -> ImageInfo:
    """``GET /images/{name}/json``."""
    data = table(answer)
    told = dict(table(data.get("Config") or data.get("ContainerConfig")))
    # Podman has it beside the configuration.
    told["Healthcheck"] = table(told.get("Healthcheck") or data.get("HealthCheck"))
    config = run_config(told)
    return ImageInfo(
        id=image_id(data.get("Id")),
        tags=tuple(tag for tag in texts(data.get("RepoTags")) if tag != "<none>:<none>"),
        digests=tuple(digest for digest in texts(data.get("RepoDigests")) if not digest.startswith("<none>")),
        layers=texts(table(data.get("RootFS")).get("Layers")),
        os=str(data.get("Os") or ""),
        architecture=str(data.get("Architecture") or ""),
        variant=str(data.get("Variant") or ""),
        env=config.env,
        user=config.user,
        workdir=config.workdir,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes,
        labels=config.labels,
        config=config,
        created=str(data.get("Created") or ""),
        size_bytes=data["Size"] if isinstance(data.get("Size"), int) else None,
        ports=config.ports,
        health_check=_health_check(told["Healthcheck"]),
    )


def run_config(answer: Any) -> RunConfig:
    """``Config`` of an image or a container, in an engine's answer or in an image's own JSON
    (https://github.com/opencontainers/image-spec/blob/main/config.md)."""
    data = table(answer)
    env: dict[str, str] = {}
    for entry in texts(data.get("Env")):
        name, _, value = entry.partition("=")
        env[name] = value
    check = {
        str(name): " ".join(texts(value)) if isinstance(value, list) else str(value)
        for name, value in table(data.get("Healthcheck")).items()
    }
    return RunConfig(
        env=env,
        user=str(data.get("User") or ""),
        workdir=str(data.get("WorkingDir") or ""),
        entrypoint=texts(data.get("Entrypoint")),
        cmd=texts(data.get("Cmd")),
        volumes=tuple(sorted(table(data.get("Volumes")))),
        labels=labels(data.get("Labels")),
        ports=tuple(sorted(table(data.get("ExposedPorts")))),
        healthcheck=check,
        stop_signal=str(data.get("StopSignal") or ""),
        shell=texts(data.get("Shell")),
        on_build=texts(data.get("OnBuild")),
    )


def image_history(answer: Any) -> tuple[HistoryEntry, ...]:
    """``GET /images/{name}/history``, which has the last step first."""
    return tuple(
        HistoryEntry(
            created_by=str(each.get("CreatedBy") or ""),
            size_bytes=int(each.get("Size") or 0),
            image_id="" if each.get("Id") in (None, "", "<missing>") else image_id(each.get("Id")),
            comment=str(each.get("Comment") or ""),
        )
        for each in map(table, reversed(rows(answer)))
    )


def _health_check(data: Mapping[str, Any]) -> tuple[str, ...]:
    test = texts(data.get("Test"))
    return () if test[:1] in ((), ("NONE",)) else test


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


def path_stat(header: str) -> PathStat | None:
    """The header ``X-Docker-Container-Path-Stat`` of the archive calls: JSON in base64.

    Its mode is that of Go's ``os.FileMode``, whose type and set-id bits have places of their own.
    """
    try:
        data = table(json.loads(base64.b64decode(header)))
    except ValueError:
        return None
    told = int(data.get("mode") or 0)
    mode = told & 0o777
    mode |= next((ours for bit, ours in _GO_TYPES if told & bit), stat.S_IFREG)
    mode |= sum(ours for bit, ours in _GO_FLAGS if told & bit)
    return PathStat(mode, int(data.get("size") or 0), str(data.get("linkTarget") or ""))


def unix_time(stamp: str) -> float:
    """Seconds of an RFC 3339 time with any number of digits behind the point; 0 for what is none."""
    day, _, rest = stamp.partition("T")
    clock, offset = rest, 0
    for sign in ("Z", "+", "-"):
        head, found, zone = rest.partition(sign)
        if found:
            clock = head
            with contextlib.suppress(ValueError):
                hours, _, minutes = zone.partition(":")
                offset = (int(hours) * 60 + int(minutes)) * (-60 if sign == "-" else 60) if zone else 0
            break
    whole, _, fraction = clock.partition(".")
    try:
        seconds = calendar.timegm(time.strptime(f"{day}T{whole}", "%Y-%m-%dT%H:%M:%S"))
        return seconds - offset + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)
    except ValueError:
        return 0.0


def listed_container(item: Any) -> Listed:
    """One of ``GET /containers/json``."""
    data = table(item)
    names = texts(data.get("Names"))
    return Listed(
        id=str(data.get("Id") or ""),
        name=names[0].lstrip("/") if names else "",
        labels=labels(data.get("Labels")),
        status=str(data.get("State") or data.get("Status") or ""),
    )


def listed_image(item: Any) -> Listed:
    """One of ``GET /images/json``; the name is its first tag, or empty."""
    data = table(item)
    tags = [tag for tag in texts(data.get("RepoTags")) if tag != "<none>:<none>"]
    return Listed(
        id=image_id(data.get("Id")), name=tags[0] if tags else "", labels=labels(data.get("Labels"))
    )


def listed_named(item: Any) -> Listed:
    """A volume or a network; a volume has no id but its name."""
    data = table(item)
    name = str(data.get("Name") or "")
    return Listed(id=str(data.get("Id") or name), name=name, labels=labels(data.get("Labels")))


def path_changes(answer: Any) -> tuple[PathChange, ...]:
    """``GET /containers/{id}/changes``, which is ``null`` without any."""
    found = [
        PathChange(
            PurePosixPath(str(table(item).get("Path"))),
            _CHANGE_KINDS.get(table(item).get("Kind", 0), "modified"),
        )
        for item in rows(answer)
    ]
    return tuple(sorted(found, key=lambda change: str(change.path)))


def layer_folders(answer: Any) -> LayerFolders | None:
    """``GraphDriver`` of ``GET /containers/{id}/json``: those folders of an overlay
    that this process may enter."""
    data = table(table(table(answer).get("GraphDriver")).get("Data"))
    upper, lower = data.get("UpperDir"), data.get("LowerDir")
    if not isinstance(upper, str) or not isinstance(lower, str):
        return None
    folders = LayerFolders(Path(upper), tuple(Path(folder) for folder in lower.split(":") if folder))
    if not all(os.access(folder, os.R_OK | os.X_OK) for folder in (folders.upper, *folders.lower)):
        return None
    return folders


def image_folders(answer: Any) -> tuple[Path, ...] | None:
    """``GraphDriver`` of ``GET /images/{name}/json``: the layers of an overlay that this process may enter, the lowest
    first. Only if there is one for each diff ID does it say which is which."""
    data = table(answer)
    driver = table(table(data.get("GraphDriver")).get("Data"))
    upper, lower = driver.get("UpperDir"), driver.get("LowerDir")
    if not isinstance(upper, str):
        return None
    below = [folder for folder in lower.split(":") if folder] if isinstance(lower, str) else []
    folders = tuple(Path(folder) for folder in reversed([upper, *below]))
    if len(folders) != len(rows(table(data.get("RootFS")).get("Layers"))):
        return None
    return folders if all(os.access(folder, os.R_OK | os.X_OK) for folder in folders) else None


def create_body(spec: ContainerSpec) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    host: dict[str, Any] = {
        "NetworkMode": spec.network,
        "ReadonlyRootfs": spec.read_only,
        "Memory": spec.memory_bytes,
        # Equal to the memory: no swap on top, so that the limit is the limit.
        "MemorySwap": spec.memory_bytes,
        "NanoCpus": spec.nano_cpus,
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_size_bytes,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in spec.ulimits.items()],
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "PidMode": f"container:{spec.processes_of}" if spec.processes_of else None,
        "Runtime": spec.runtime,
        "Tmpfs": dict(spec.tmpfs),
        "Init": spec.init or None,
        "SecurityOpt": ["no-new-privileges"] if spec.no_new_privileges else [],
        "LogConfig": {"Type": "json-file"} if spec.readable_log else {},
    }
    mounts: list[dict[str, Any]] = []
    binds: list[str] = []
    for mount in spec.mounts:
        if mount.kind == "overlay":
            binds.append(f"{mount.source}:{mount.target}:O")
            continue
        made: dict[str, Any] = {"Type": mount.kind, "Target": str(mount.target), "ReadOnly": mount.read_only}
        if mount.source is not None:
            made["Source"] = mount.source
        if mount.kind == "volume":
            made["VolumeOptions"] = {"NoCopy": mount.no_copy}
        mounts.append(made)
    host["Mounts"] = mounts
    host["Binds"] = binds
    # An empty port lets the engine choose.
    host["PortBindings"] = {port: [{"HostIp": _LOOPBACK, "HostPort": ""}] for port in spec.ports}
    body: dict[str, Any] = {
        "Image": spec.image,
        "NetworkingConfig": {"EndpointsConfig": {spec.network: {"Aliases": list(spec.aliases)}}}
        if spec.network and spec.aliases
        else None,
        "Cmd": list(spec.command) if spec.command or spec.entrypoint else None,
        "Entrypoint": list(spec.entrypoint) or None,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": dict(spec.labels),
        "User": spec.user,
        "WorkingDir": None if spec.workdir is None else str(spec.workdir),
        "Hostname": spec.hostname,
        "Tty": False,
        "OpenStdin": spec.stdin,
        "AttachStdin": spec.stdin,
        # The end of the attached client is the end of the input: a host that dies is noticed inside.
        "StdinOnce": spec.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "ExposedPorts": {port: {} for port in spec.ports} or None,
        "HostConfig": {key: value for key, value in host.items() if value not in (None, [], {})},
    }
    return {key: value for key, value in body.items() if value is not None}


def remote_image(reference: str, answer: Any) -> RemoteImage:
    """``GET /distribution/NAME/json``."""
    data = table(answer)
    digest = str(
        table(data.get("Descriptor")).get("digest") or table(data.get("Descriptor")).get("Digest") or ""
    )
    return RemoteImage(reference, digest, platforms(rows(data.get("Platforms"))))


def platforms(described: Iterable[Any]) -> tuple[str, ...]:
    """``os/arch[/variant]`` of each; ``unknown`` ones are attestations and no images."""
    found = []
    for each in map(table, described):
        parts = [str(each.get(key) or "") for key in ("os", "architecture", "variant")]
        if parts[0] and parts[1] and "unknown" not in parts[:2]:
            found.append("/".join(part for part in parts if part))
    return tuple(dict.fromkeys(found))
