"""``--env-pollution`` in several stages, in several workers, and on the oldest Python that is tested inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rig.needs import module

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import os, pathlib, subprocess, sys
    def test_python(): pathlib.Path("/srv/python").write_text("1")
    def test_child(): subprocess.run(["sh", "-c", "echo > /srv/child && rm /etc/issue"], check=True)
    def test_clean(tmp_path): (tmp_path / "a").write_text("a")
    def test_reads(): assert open("/srv/child").read() == "x"
"""


def test_each_stage_for_itself(project: Project) -> None:
    project.configure("qa", "old")
    project.write("test_it.py", SUITE)
    result = project.run("--env=qa,old", "--env-pollution", "--junitxml=junit.xml").ended(1)
    assert sorted(line for line in result.section("pollution") if line.startswith("test_it")) == sorted(
        line
        for stage in ("qa", "old")
        for line in (
            f"test_it.py::test_python@{stage}: created 1 (+ /srv/python)",
            f"test_it.py::test_child@{stage}: created 1, deleted 1 (- /etc/issue, + /srv/child)",
            f"test_it.py::test_reads@{stage} failed and opened /srv/child, which test_it.py::test_child created",
        )
    )
    names = {
        name
        for name, case in project.junit().items()
        if any(each.get("name") == "envpar_pollution" for each in case.iter("property"))
    }
    assert {name.rpartition(".")[2] for name in names} == {
        f"test_{test}@{stage}" for test in ("python", "child") for stage in ("qa", "old")
    }


def test_each_worker_for_itself(project: Project) -> None:
    module("xdist")
    project.write("test_it.py", SUITE)
    project.write("test_other.py", 'def test_other(): open("/srv/other", "w").close()')
    result = project.run("--env=qa", "--env-pollution", "-n2", "--dist=loadfile", "-v").ended(1)
    lines = result.section("pollution")
    assert lines[0] == "3 tests left something on the file system; paths in all: 3 created, 1 deleted"
    assert "test_other.py::test_other: created 1" in lines
    assert "  + /srv/other" in lines
    assert (
        "test_it.py::test_reads failed and opened /srv/child, which test_it.py::test_child created" in lines
    )
    assert not any("not attributed" in line for line in lines)
    assert "---- envpar pollution ----" in result.out
