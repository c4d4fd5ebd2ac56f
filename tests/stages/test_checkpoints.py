"""Checkpoints over several runs: what the ledger knows of them, who restores them, and what is left."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

TAKE = """
    def test_take(envpar_containers):
        one = envpar_containers.start("qa")
        one.write("/rows", "1")
        rows = one.checkpoint("rows")
        with one.restore(rows) as other:
            other.write("/more", "2")
            other.checkpoint("more")
            # In use while its name is taken over, and so are its layers: "more" stands on it.
            one.write("/rows", "new")
            free = one.checkpoint("free")
            with one.restore(free) as user:
                one.checkpoint("free")
"""
FIND = """
    def test_find(envpar_containers):
        assert envpar_containers.restore("rows").read_text("/rows") == "1"
        more = envpar_containers.checkpoint("more")
        assert more.parent_id == envpar_containers.checkpoint("rows").image_id
        found = envpar_containers.restore(more)
        assert (found.read_text("/rows"), found.read_text("/more"), found.stage) == ("1", "2", "qa")
"""


@pytest.fixture
def with_ledger(project: Project, tmp_path: Path) -> Iterator[Path]:
    """The ledger's file, for a project whose checkpoints are removed after the test."""
    project.environ["ENVPAR_LEDGER"] = str(tmp_path / "ledger.sqlite3")
    yield tmp_path / "ledger.sqlite3"
    for each in _images(project):  # what stands on another one first
        project.engine.remove_image(each, force=True)


@pytest.mark.parametrize(
    ("take", "find"), [("", "qa"), pytest.param("qa", "", marks=pytest.mark.slow)], ids=["host", "inside"]
)
def test_lineage_is_kept_and_nothing_without_a_name(
    project: Project, with_ledger: Path, take: str, find: str
) -> None:
    project.suite(TAKE, stage=take).ok()
    base = project.engine.inspect_image(project.image)
    assert base is not None
    with Ledger(with_ledger) as ledger:
        rows, more, free = (
            ledger.checkpoints.get(str(project.root), name) for name in ("rows", "more", "free")
        )
        assert rows is not None
        assert more is not None
        assert free is not None
        assert (rows.parent_id, more.parent_id) == (base.id, rows.image_id)
        assert ledger.checkpoints.lineage(more.image_id) == (more, rows)
        assert {each.name for each in ledger.checkpoints.of_project(str(project.root))} == {
            "rows",
            "more",
            "free",
        }
    # All that is left has a name.
    assert len(_images(project)) == 3
    assert all(_images(project))

    # Another run, on the other side: the containers they were taken of are long gone.
    project.suite(FIND, stage=find).ok()

    drawn = _graph(project)
    images = {each["references"][0]: each for each in drawn["images"]}
    assert images["checkpoint rows"]["checkpoint_of"] == base.id
    assert images["checkpoint more"]["checkpoint_of"] == rows.image_id
    assert images["checkpoint more"]["layers"][:-1] == images["checkpoint rows"]["layers"]
    told = {layer["diff_id"]: layer["instruction"] for layer in drawn["layers"]}
    assert told[images["checkpoint more"]["layers"][-1]] == "checkpoint more"

    project.engine.remove_image(more.image_id, force=True)
    assert {"checkpoint more"} == {
        each["references"][0] for each in _graph(project)["images"] if each["source"] == "ledger"
    }


def _graph(project: Project) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_envpar", "graph", "--format=json"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _images(project: Project) -> list[str]:
    """The names of the project's images; empty for one without."""
    return sorted(
        each.name
        for each in list_ours(project.engine)
        if each.type == "image" and each.project == str(project.root)
    )
