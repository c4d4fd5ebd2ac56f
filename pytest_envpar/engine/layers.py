"""How engines are asked for an image that is another one plus one layer, its configuration unchanged.

Docker merges the configuration of the container into the committed image, but for what the request says. Podman looks
at nothing in the request but Dockerfile lines (``changes``), and has no line that takes a variable away, so that there
the container must not have one too many from the start.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.engine.values.create import ContainerSpec, Mount
    from pytest_envpar.engine.values.images import ImageInfo

_PODMANS_OWN = ("container", "PATH", "TERM")
"""Variables that Podman gives every container."""
_KEEPS_SIGNAL = ("3.", "4.")
"""Versions of Podman that keep the stop signal by themselves, and make a number of one that they are told."""
_SIGNAL = re.compile(r"[A-Za-z0-9+-]+")


def docker_body(image: ImageInfo, spec: ContainerSpec) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    from pytest_envpar.engine.parse.create import create_body

    # With an entrypoint of its own a container does not get the image's command, and an empty one is merged in later.
    return {**create_body(spec), "Cmd": list(image.cmd)}


def docker_config(image: ImageInfo, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of ``POST /commit``."""
    return {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Env": [f"{name}={value}" for name, value in image.env.items()],
        "User": image.user,
        "WorkingDir": image.workdir,
        "Labels": dict(labels),
        # A container has neither, so that nothing would be merged in.
        "OnBuild": list(image.config.on_build),
        "Shell": list(image.config.shell),
    }


def podman_body(image: ImageInfo, spec: ContainerSpec) -> dict[str, Any]:
    """The body of ``POST /libpod/containers/create``, whose format is the SpecGenerator of
    https://docs.podman.io/en/v4.3/_static/api.html#tag/containers/operation/ContainerCreateLibpod."""
    body: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "entrypoint": list(spec.entrypoint),
        "command": list(image.cmd),
        "labels": dict(spec.labels),
        "stdin": spec.stdin,
        "no_new_privileges": spec.no_new_privileges,
        "unsetenv": [name for name in _PODMANS_OWN if name not in image.env],
        "mounts": [_bind(mount) for mount in spec.mounts if mount.kind == "bind"],
        "volumes": [
            {"Name": mount.source, "Dest": str(mount.target), "Options": ["ro" if mount.read_only else "rw"]}
            for mount in spec.mounts
            if mount.kind == "volume"
        ],
        "runtime": spec.runtime,
    }
    if spec.network in ("none", "host", "bridge"):
        body["netns"] = {"nsmode": spec.network}
    elif spec.network is not None:
        body |= {"netns": {"nsmode": "bridge"}, "networks": {spec.network: {}}}
    return {key: value for key, value in body.items() if value not in (None, [], {})}


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "ro" if mount.read_only else "rw"]
    return {"type": "bind", "source": mount.source, "destination": str(mount.target), "options": options}


def podman_changes(image: ImageInfo, labels: Mapping[str, str], version: str) -> str:
    """The query parameter ``changes`` of ``POST /commit``: Dockerfile lines for this version of Podman."""
    lines = [f"ENTRYPOINT {json.dumps(list(image.entrypoint))}", f"CMD {json.dumps(list(image.cmd))}"]
    if not version.startswith(_KEEPS_SIGNAL) and _SIGNAL.fullmatch(image.config.stop_signal):
        # Podman 5 as root drops it. An image may say anything there, another line, too.
        lines.append(f"STOPSIGNAL {image.config.stop_signal}")
    # It does not read escapes; what could end the line or the word goes.
    lines += [
        f'LABEL {key}="{" ".join(value.split()).replace(chr(34), "")}"' for key, value in labels.items()
    ]
    return "\n".join(lines)
