"""What newer engines answered, recorded from real ones on cgroup v2, and read by the same code as live answers.

The files hold answers of Docker 28.5 as root and without, and of Podman 5.8 without, from the machine that
``fixtures/virtual_engine.py`` runs: a Debian image, a container that changed three paths, one killed at 64 MiB,
one with a mounted image, and its control group's files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_envpar.engine.layers import podman_changes
from pytest_envpar.engine.parse.containers import container_info, stats
from pytest_envpar.engine.parse.engines import engine_info
from pytest_envpar.engine.parse.files import image_folders, layer_folders, path_changes
from pytest_envpar.engine.parse.images import image_info
from pytest_envpar.engine.parse.listings import listed_container
from pytest_envpar.worker.agent import cgroup, limits

FOLDER = Path(__file__).parent / "data" / "answers"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


@pytest.fixture(params=NAMES)
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The answers of one engine."""
    answers: dict[str, Any] = json.loads((FOLDER / f"{request.param}.json").read_bytes())
    return {"name": request.param, **answers}


def test_there_are_answers() -> None:
    assert NAMES == ["docker-28", "docker-28-rootless", "podman-5-rootless"]


def test_what_the_engine_is(told: dict[str, Any]) -> None:
    info = engine_info(told["info"], told["headers"], "tcp://10.0.0.1:2375", unix=False)
    kind, major, *_ = told["name"].split("-")
    assert (info.kind, info.version.partition(".")[0]) == (kind, major)
    assert info.rootless == told["name"].endswith("rootless")
    assert (info.cgroup_version, info.os, info.architecture) == (2, "linux", "amd64")
    assert not info.local
    assert not info.native_overlay
    assert info.api_version == ("1.51" if kind == "docker" else "1.44")
    assert info.image_mounts == (kind == "docker")
    assert not dataclasses.replace(info, api_version="1.47").image_mounts
    assert not dataclasses.replace(info, api_version="").image_mounts


def test_an_engine_with_a_kernel_of_its_own_is_not_this_machine(told: dict[str, Any]) -> None:
    info = engine_info(told["info"], told["headers"], "unix:///run/engine.sock", unix=True)
    assert not info.local
    assert not info.native_overlay


def test_an_image(told: dict[str, Any]) -> None:
    image = image_info(told["image"])
    assert image.id.startswith("sha256:")
    assert len(image.layers) == 1
    assert [tag.rpartition("/")[2] for tag in image.tags] == ["envpar-base:py3.11"]
    assert image.env["LANG"] == "C.UTF-8"
    assert image.cmd == ("python3",)
    assert image_folders(told["image"]) is None  # there are none on this machine


def test_a_running_container(told: dict[str, Any]) -> None:
    info = container_info(told["container"])
    assert info.running
    assert info.exit_code is None
    assert info.mounts == {"/scratch": "tmpfs"}
    assert info.own_processes
    assert info.image_id == image_info(told["image"]).id
    assert layer_folders(told["container"]) is None
    listed = listed_container(told["listed"][0])
    assert (listed.id, listed.name, listed.status) == (info.id, info.name, "running")


def test_a_container_that_was_killed_at_its_limit(told: dict[str, Any]) -> None:
    info = container_info(told["oom_container"])
    assert (info.exit_code, info.oom_killed, info.running) == (137, True, False)
    assert info.finished_at > 0


def test_a_mounted_image_is_known_as_such(told: dict[str, Any]) -> None:
    kind = "image" if told["name"].startswith("docker") else "bind"  # Podman's own word
    assert container_info(told["image_mount_container"]).mounts == {"/other": kind}


def test_changes(told: dict[str, Any]) -> None:
    found = {str(change.path): change.kind for change in path_changes(told["changes"])}
    assert found["/opt/new"] == "added"
    assert found["/etc/issue"] == "modified"
    assert found["/etc/debian_version"] == "removed"


def test_stats_of_cgroup_2(told: dict[str, Any]) -> None:
    found = stats(told["stats"])
    assert 0 < found.memory_bytes < 64 << 20
    assert found.memory_limit_bytes == 128 << 20
    assert found.cpu_s > 0
    assert found.pids == 2


@pytest.fixture
def control_group(told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the container's control group, and no cgroup v1 beside it."""
    for name, text in told["cgroup"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(cgroup, "_V1", f"{tmp_path}/memory/")
    monkeypatch.setattr(cgroup, "_V2", f"{tmp_path}/")
    monkeypatch.setattr(limits, "_PIDS", (f"{tmp_path}/pids/pids.%s", f"{tmp_path}/pids.%s"))
    return tmp_path


def test_the_memory_of_a_control_group(control_group: Path) -> None:
    watch = cgroup.MemoryWatch()
    facts = watch.facts()
    assert facts["oom"] is False
    assert facts["limit"] == 64 << 20
    assert 0 < (facts["peak"] or 0) < 64 << 20
    events = control_group / "memory.events"
    events.write_text(events.read_text().replace("oom_kill 0", "oom_kill 1"))
    assert watch.facts()["oom"] is True


def test_the_pids_of_a_control_group(control_group: Path) -> None:
    watch = limits.Limits([])
    watch.begin()
    assert watch.bitten(None) == []
    (control_group / "pids.events").write_text("max 3\n")
    assert watch.bitten(None) == ["pids limit 50 reached"]


def test_a_layer_on_podman_is_told_the_signal_of_its_image() -> None:
    def lines(config: dict[str, str], version: str = "5.8.0") -> list[str]:
        image = image_info({"Id": "sha256:" + "0" * 64, "Config": config})
        return podman_changes(image, {}, version).splitlines()

    without = lines({})
    for signal in ("SIGINT", "9", "SIGRTMIN+3"):
        assert lines({"StopSignal": signal}) == [*without, f"STOPSIGNAL {signal}"]
        assert lines({"StopSignal": signal}, "4.3.1") == without
    for text in ("SIGTERM\nUSER root", "SIGTERM\n", "SIGTERM \\", "9\r", "${X}"):
        assert lines({"StopSignal": text}) == without
