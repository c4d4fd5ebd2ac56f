"""What is sent to create a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_envpar.engine.values.create import ContainerSpec

_LOOPBACK = "127.0.0.1"
_LOGS = {"readable": "json-file", "none": "none"}


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
        "LogConfig": {} if spec.log is None else {"Type": _LOGS[spec.log]},
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
