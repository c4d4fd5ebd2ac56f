"""The engine's own commands for what was kept: pointed at the engine where they would not go there by themselves."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.kept import tool
from pytest_envpar.engine.api import EngineInfo

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "unix:///var/run/docker.sock"
DOCKER = EngineInfo("docker", "20.10", "1.41", SOCKET, True, False, True, 1, "linux", "amd64", "x")
PODMAN = dataclasses.replace(
    DOCKER, kind="podman", url="unix:///run/podman/podman.sock", rootless=os.geteuid() != 0
)


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (SOCKET, {}, ["docker"]),
        ("tcp://build:2375", {}, ["docker", "--host", "tcp://build:2375"]),
        ("tcp://build:2375", {"DOCKER_HOST": "tcp://build:2375"}, ["docker"]),
        (SOCKET, {"DOCKER_HOST": "tcp://build:2375"}, ["docker", "--host", SOCKET]),
        (SOCKET, {"DOCKER_CONTEXT": "far"}, ["docker", "--host", SOCKET]),
        (SOCKET, {"DOCKER_CONTEXT": "default"}, ["docker"]),
    ],
)
def test_docker(url: str, environ: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    info = dataclasses.replace(DOCKER, url=url)
    assert tool(info, {"DOCKER_CONFIG": str(tmp_path), **environ}) == expected


def test_podman() -> None:
    assert tool(PODMAN, {}) == ["podman"]
    other = dataclasses.replace(PODMAN, rootless=not PODMAN.rootless)
    assert tool(other, {}) == ["podman", "--url", PODMAN.url]
    far = dataclasses.replace(PODMAN, local=False, url="tcp://build:8080")
    assert tool(far, {}) == ["podman", "--url", "tcp://build:8080"]
