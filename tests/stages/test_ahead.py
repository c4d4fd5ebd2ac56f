"""Containers of fixtures are started while the test before still runs, whatever the scope and on both sides."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.labels import KIND, PROJECT

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

LIMIT_S = 90.0
FIRST = """
    import os, time

    def test_one(envpar_containers):
        envpar_containers.start("qa")

    def test_two(envpar_containers, qa_container_module, qa_container):
        envpar_containers.start("qa")
        while not os.path.exists("go"):
            time.sleep(0.02)
"""
SECOND = """
    def test_three(envpar_containers, qa_container_module, qa_container):
        assert envpar_containers.start("qa").exec(["true"]).ok
        assert qa_container_module.exec(["true"]).ok and qa_container.exec(["true"]).ok
"""


@pytest.mark.parametrize("stage", ["", "qa"], ids=["host", "inside"])
def test_the_next_ones_are_there_before_they_are_asked_for(project: Project, stage: str) -> None:
    project.stage(top='source = "mount"')
    project.write("test_a.py", FIRST)
    project.write("test_b.py", SECOND)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *([f"--env={stage}"] if stage else [])],
        cwd=project.root,
        env=project.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        # Of the module, the test and the factory: the one in use, and the next one; inside, the stage's own.
        expected = 6 + bool(stage)
        deadline = time.monotonic() + LIMIT_S
        while (found := _running(project)) != expected:
            assert time.monotonic() < deadline, found
            assert process.poll() is None
            time.sleep(0.05)
        (project.root / "go").touch()
        out, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, out.decode()
        assert b"3 passed" in out
    finally:
        (project.root / "go").touch()
        process.communicate(timeout=LIMIT_S)
    assert _running(project) == 0


def _running(project: Project) -> int:
    labels = {KIND: "run", PROJECT: str(project.root)}
    return sum(each.status == "running" for each in project.engine.list_containers(labels))
