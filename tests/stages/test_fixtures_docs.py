"""The examples of docs/fixtures.md, on the host and inside a stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours

if TYPE_CHECKING:
    from .projects import Project

PAGE = Path(__file__).parents[2] / "docs" / "fixtures.md"


def examples() -> list[str]:
    """The Python blocks of the page."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.engine
@pytest.mark.parametrize("stage", [pytest.param(None, marks=pytest.mark.slow), "qa"])
def test_examples(project: Project, stage: str | None) -> None:
    project.stage('network = "bridge"')
    codes = examples()
    assert len(codes) >= 5
    for number, code in enumerate(codes):
        (project.root / f"test_{number}.py").write_text(code, encoding="utf-8")
    try:
        result = project.run(stage=stage).ok()
        assert result.line == "10 passed", result.text
    finally:
        for each in list_ours(project.engine):
            if each.type == "image" and each.project == str(project.root):
                project.engine.remove_image(each.name or each.id, force=True)
