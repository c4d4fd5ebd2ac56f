"""The command ``envpar`` against a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig.engines import DOCKER

from pytest_envpar.containers.labels import Owner
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import NotFoundError

if TYPE_CHECKING:
    from .projects import Project

SOURCE = Path(__file__).parents[2]
pytestmark = pytest.mark.engine


def _envpar(project: Project, *args: str, code: int = 0, cwd: Path | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_envpar", *args, "--format=json"],
        cwd=cwd or project.root,
        env={**project.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("folder", "name"), [("", DOCKER), ("/", "docker socket")], ids=["configured", "auto"]
)
def test_doctor_finds_the_engine(project: Project, folder: str, name: str) -> None:
    answer = _envpar(project, "doctor", cwd=project.root / folder)
    engine = next(check for check in answer["checks"] if check["name"] == f"engine: {name}")
    assert engine["state"] == "ok"
    assert answer["state"] in ("ok", "warn")


def test_ps_and_prune_of_what_a_dead_run_left(project: Project) -> None:
    """A container whose process is gone is listed as dead and removed; one of a live process is neither."""
    child = (
        "from pathlib import Path; from pytest_envpar.containers.labels import Owner; import json, sys;"
        "print(json.dumps(dict(Owner.current(Path(sys.argv[1])).labels('run', 'qa'))))"
    )
    gone = subprocess.check_output(
        [sys.executable, "-c", child, str(project.root)], env={**project.environ, "PYTHONPATH": str(SOURCE)}
    )
    engine = project.engine
    made = {}
    for name, labels in (
        ("dead", json.loads(gone)),
        ("live", Owner.current(project.root).labels("run", "qa")),
    ):
        made[name] = engine.create_container(ContainerSpec(project.image, ("true",), labels, network="none"))
    try:
        # Any other run on this machine may have swept the dead one meanwhile; it cannot be listed as alive.
        listed = {each["id"]: each["state"] for each in _envpar(project, "ps")["objects"]}
        assert listed.get(made["dead"], "dead") == "dead"
        assert listed[made["live"]] == "live"
        (project.root / "sub").mkdir()
        assert (
            _envpar(
                project, "prune", "--project", "--engine", project.engine.info.url, cwd=project.root.parent
            )["removed"]
            == []
        )
        answer = _envpar(project, "prune", "--project", cwd=project.root / "sub")
        removed = {each["id"] for each in answer["removed"]}
        assert {each["project"] for each in answer["removed"]} <= {str(project.root)}
        assert made["live"] not in removed
        with pytest.raises(NotFoundError):
            engine.inspect_container(made["dead"])
        assert engine.inspect_container(made["live"]).id == made["live"]
    finally:
        for container in made.values():
            engine.remove_container(container)


def test_init_writes_what_a_run_uses(project: Project) -> None:
    (project.root / "envpar.toml").unlink()
    project.write("test_it.py", "import os\ndef test_a(): assert os.path.exists('/.envpar')\n")
    assert _envpar(project, "init", "--image", project.image, "--stage", "first")["stage"] == "first"
    project.run(stage="first").ok()


def test_run_gives_up_what_it_began_for_another_project(project: Project) -> None:
    # pytest finds its root by the path, and with it another configuration than the one of the working directory.
    project.write("sub/pytest.ini", "[pytest]\n")
    settings = (project.root / "envpar.toml").read_text(encoding="utf-8")
    project.write("sub/envpar.toml", settings + "env = { WHICH = 'sub' }\n")
    project.write("sub/test_it.py", "import os\ndef test_a(): assert os.environ['WHICH'] == 'sub'\n")
    result = project.run("sub", command="envpar run", cwd=project.root)
    # It was begun, is not what is wanted, and nothing of it is left (`run` has looked).
    result.refused("the working directory", "is outside of the project")
    result = project.run(".", command="envpar run", cwd=project.root / "sub").ok()
    assert "1 passed" in result.out
