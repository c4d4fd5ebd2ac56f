"""One suite of everything that a container handle does, run on the host and inside a stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = Path(__file__).with_name("contract_handle.py")


@pytest.fixture
def both(project: Project) -> Iterator[Project]:
    """A project with the suite; its checkpoints are removed in the end."""
    project.stage('env = { APP = "shelf" }', 'memory = "256m"', 'network = "bridge"', 'tmpfs = ["/scratch"]')
    project.write("test_handle.py", SUITE.read_text(encoding="utf-8"))
    yield project
    for each in list_ours(project.engine):
        if each.type == "image" and each.project == str(project.root):
            project.engine.remove_image(each.name or each.id, force=True)


def test_both_sides_do_the_same(both: Project) -> None:
    told = {}
    for stage in ("", "qa"):
        result = both.run("-rs", "-s", stage=stage).ok()
        skipped = ", 1 skipped" if stage else ""
        assert re.fullmatch(rf"\d+ passed{skipped}", result.line), result.text
        told[stage] = re.findall(r"fingerprint (\w+)", result.out)
    # Two containers of one image, made from two sides.
    assert told[""] == told["qa"] != []
