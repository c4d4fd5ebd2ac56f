"""Containers that a test inside a stage asks for: its calls travel to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine


def test_what_is_particular_inside(project: Project) -> None:
    project.stage()
    result = project.suite(
        """
        import os
        import pytest, pytest_envpar
        from pytest_envpar.errors import EnvparError

        def test_stage(envpar_stage):
            assert envpar_stage.name == "qa"
            assert envpar_stage.image.startswith("sha256:")
            assert envpar_stage.engine.startswith("docker")

        def test_only_ours(qa_container):
            key, qa_container._key = qa_container._key, "c999"
            with pytest.raises(pytest_envpar.UsageError, match="not one that this run has started"):
                qa_container.exec(["true"])
            qa_container._key = key
            with pytest.raises(EnvparError):
                qa_container._caller.call("start", stage="qa", count="many")

        def test_other_stage(integration_container): pass

        def test_forked(qa_container):
            pid = os.fork()
            if pid == 0:
                try:
                    qa_container.exec(["true"])
                except pytest_envpar.UsageError:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        """,
        "-rs",
    ).ok()
    assert result.line == "3 passed, 1 skipped"
    assert "stage 'integration' is not configured" in result.out


def test_a_worker_that_dies_takes_its_containers_along(project: Project) -> None:
    project.stage()
    result = project.suite(
        """
        import os
        def test_dies(qa_container):
            os._exit(3)
        def test_goes_on(qa_container):
            assert qa_container.exec(["true"]).ok
        """
    )
    assert result.line == "1 failed, 1 passed"
