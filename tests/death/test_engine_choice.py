"""Which engine a run talks to, and what it says when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from rig.needs import missing

if TYPE_CHECKING:
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine


@pytest.fixture
def nowhere(project: Project, tmp_path: Path) -> Project:
    """A project on a machine where no engine can be found."""
    project.write("test_it.py", "def test_a(): pass\n")
    project.environ |= {"PATH": str(tmp_path), "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return project


def test_nothing_answers_at_the_named_engine(nowhere: Project) -> None:
    for url in (
        "tcp://127.0.0.1:1",
        f"unix://{nowhere.root}/absent.sock",
        f"unix://{nowhere.root}/test_it.py",
    ):
        result = nowhere.run(f"--env-engine={url}")
        assert result.code == 4
        assert "[no-engine]" in result.text
        assert "hint: " in result.text
        assert result.text.count("[no-engine]") == 1


# In a mount namespace of its own the run finds none of this machine's sockets.
HIDDEN = (shutil.which("unshare") or "unshare", "--mount", "--propagation=private", "sh", "-c")
ENV = shutil.which("env") or "env"
HIDE = 'mount -t tmpfs none "$(readlink -f /var/run)" && exec "$@"'


@pytest.mark.parametrize("host", [None, "tcp://127.0.0.1:1"])
def test_no_engine_on_the_whole_machine(nowhere: Project, host: str | None) -> None:
    if subprocess.run([*HIDDEN, HIDE, "sh", "true"], check=False, capture_output=True).returncode:
        missing("a mount namespace cannot be made")
    nowhere.write("envpar.toml", f'[stages.qa]\nimage = "{nowhere.image}"\n')
    if host:
        nowhere.environ["DOCKER_HOST"] = host
    path = nowhere.environ["PATH"]  # has no podman
    under = (ENV, f"PATH={os.environ['PATH']}", *HIDDEN, HIDE, "sh", ENV, f"PATH={path}")
    for engine in ("auto", "docker", "podman"):
        result = nowhere.run(f"--env-engine={engine}", under=under)
        assert result.code == 4
        assert result.text.count("[no-engine]") == 1
        assert "hint: " in result.text
        if host and engine != "podman":
            assert host in result.text


@pytest.mark.parametrize(
    "url", ["ssh://a:b@host", "ftp://host", "nonsense", "unix://", "tcp://host:notaport"]
)
def test_what_is_not_an_engine(project: Project, url: str) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    result = project.run(f"--env-engine={url}")
    assert result.code == 4
    assert "ERROR: " in result.text


def test_a_named_socket_wins_over_the_configuration(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    text = (project.root / "envpar.toml").read_text(encoding="utf-8")
    url = text.split('engine = "')[1].split('"')[0]
    project.write("envpar.toml", text.replace(url, "tcp://127.0.0.1:1"))
    result = project.run(f"--env-engine={url}")
    assert result.code == 0
    assert result.counts == {"passed": 1}


def test_a_dead_engine_of_the_environment_is_told(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    project.write("envpar.toml", f'[stages.qa]\nimage = "{project.image}"\nnetwork = "none"\n')
    project.environ["DOCKER_HOST"] = f"unix://{project.root}/absent.sock"
    result = project.run()
    assert result.code == 0
    assert result.text.count("envpar: DOCKER_HOST (unix://") == 1
    assert "absent.sock) is of no use" in result.text


def test_without_any_daemon_podman_is_started_for_the_run(podman_project: Project, tmp_path: Path) -> None:
    project = podman_project
    project.write("test_it.py", "def test_a(): pass\n")
    project.write("envpar.toml", f'[stages.qa]\nimage = "{project.image}"\nnetwork = "none"\n')
    result = project.run("--env-engine=podman")
    assert result.code == 0
    assert "podman 4" in result.text or "podman 5" in result.text
