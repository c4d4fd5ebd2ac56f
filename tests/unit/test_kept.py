"""The engine's own commands for what was kept: pointed at the engine where they would not go there by themselves, and
to where the suite ran."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_envpar.containers import kept
from pytest_envpar.containers.kept import tool
from pytest_envpar.engine.values.engine import EngineInfo
from pytest_envpar.session.keeping import StageKeeping
from pytest_envpar.worker.paths import PathMap

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


def test_each_container_of_a_stage_is_entered_where_the_suite_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "lines", lambda *_, workdir, **__: [f"enter {workdir}"])
    keeping = StageKeeping("always", {}, Path("/home/ada/shop/tests"))
    for inside in ("/home/ada/shop", "/src"):  # the second one on another engine, where it is copied
        site: Any = SimpleNamespace(
            container=SimpleNamespace(name="c1"),
            ground=SimpleNamespace(probe=SimpleNamespace(python=None)),
            paths=PathMap(Path("/home/ada/shop"), PurePosixPath(inside)),
            keep=lambda: None,
        )
        assert keeping.take(site)
    entries = [line for line in keeping.lines() if "enter" in line]
    assert entries == ["  enter /home/ada/shop/tests", "  enter /src/tests"]
