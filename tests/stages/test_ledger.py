"""What runs leave in the ledger, and that a ledger in a bad state is in nobody's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import pytest
    def test_good(): pass
    def test_bad(): assert 0
    @pytest.mark.skip
    def test_skipped(): pass
"""


def test_a_run_is_remembered(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "here.sqlite3"
    project.write("test_it.py", SUITE)
    first = project.run("-k", "good", ENVPAR_LEDGER=str(file)).ok()
    second = project.run(ENVPAR_LEDGER=str(file))
    assert second.code == 1, second.text
    # Of these there are no outcomes to remember.
    project.run("--collect-only", ENVPAR_LEDGER=str(file)).ok()
    project.run("-k", "good", "-p", "no:terminal", ENVPAR_LEDGER=str(file)).ok()
    assert "ledger" not in first.err + second.err
    image = project.engine.inspect_image(project.image)
    assert image is not None
    with Ledger(file) as ledger:
        newest, oldest = ledger.runs.of_project(str(project.root))
        assert (oldest.exit_status, newest.exit_status) == (0, 1)
        assert (newest.stage, newest.image_id) == ("qa", image.id)
        assert newest.engine.startswith("docker ")
        assert newest.engine.endswith(project.engine.info.url)
        assert newest.counts == {"passed": 1, "failed": 1, "skipped": 1}
        assert newest.started < newest.ended
        assert {each.nodeid.partition("::")[2]: each.outcome for each in ledger.runs.outcomes(newest.id)} == {
            "test_good": "passed",
            "test_bad": "failed",
            "test_skipped": "skipped",
        }
        assert [each.nodeid for each in ledger.runs.outcomes(oldest.id)] == ["test_it.py::test_good"]
        assert all(each.duration_s > 0 for each in ledger.runs.outcomes(newest.id))
        seen = ledger.images.find(project.image)
        assert seen is not None
        assert [layer.diff_id for layer in seen.layers] == list(image.layers)
        assert ledger.problems == ()


def test_a_bad_ledger_is_in_nobodys_way(project: Project, tmp_path: Path) -> None:
    project.write("test_it.py", SUITE)
    file = tmp_path / "broken.sqlite3"
    file.write_text("no database")
    told = project.run("-k", "good", ENVPAR_LEDGER=str(file)).ok()
    assert f"envpar: ledger: {file}: " in told.err
    assert "set aside as broken.sqlite3.broken-1" in told.err
    silent = project.run("-k", "good", ENVPAR_LEDGER="/dev/null").ok()
    assert "ledger" not in silent.err
    wrong = project.run("-k", "good", ENVPAR_LEDGER_MAX_BYTES="1G").ok()
    assert "ENVPAR_LEDGER_MAX_BYTES='1G' is not a number of bytes" in wrong.err
