"""What an engine says of itself."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.engine.parse.shapes import table, texts
from pytest_envpar.engine.values.engine import EngineInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}
_OVERLAY_DRIVERS = ("overlay2", "overlayfs")
_VIRTUAL_MACHINES = ("docker desktop", "docker-desktop", "rancher desktop", "colima", "lima", "orbstack")


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
