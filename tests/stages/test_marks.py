"""``env_only`` and ``env_skip``, inside a stage and outside of any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

SUITE = """
    import pytest
    @pytest.mark.env_only("qa", "integration")
    def test_only(): pass
    @pytest.mark.env_only("prod")
    def test_elsewhere(): pass
    @pytest.mark.env_skip("qa", reason="no printer there")
    class TestSkipped:
        def test_a(self): pass
    def test_always(): pass
"""


@pytest.mark.engine
def test_in_a_stage(project: Project) -> None:
    project.stage()
    result = project.suite(SUITE, "-rs", "--strict-markers").ok()
    assert result.line == "2 passed, 2 skipped"
    assert "runs only in stage prod, not in stage qa" in result.out
    assert "not in stage qa: no printer there" in result.out


@pytest.mark.engine
def test_outside_of_any_stage(project: Project) -> None:
    project.stage()
    result = project.suite(SUITE, "-rs", "--strict-markers", stage="").ok()
    assert result.line == "2 passed, 2 skipped"
    assert "runs only in stage qa and integration, not outside of any stage" in result.out
