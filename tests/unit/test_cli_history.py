"""``envpar history``: runs of a project and of a test."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.cli import main
from pytest_envpar.ledger import Ledger, OutcomeRecord, RunRecord

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "sha256:" + "a" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENVPAR_LEDGER", str(tmp_path / "ledger.sqlite3"))
    monkeypatch.setenv("TZ", "UTC")
    (tmp_path / "envpar.toml").write_text('[stages.dev]\nimage = "base:1"\n[stages.qa]\nimage = "base:1"\n')
    return tmp_path


@pytest.fixture
def runs(folder: Path) -> None:
    with Ledger(folder / "ledger.sqlite3") as ledger:
        for number, stage, outcome in ((0, "dev", "passed"), (1, "qa", "passed"), (2, "qa", "failed")):
            begun = 1_790_000_000.0 + 60 * number
            status = int(outcome == "failed")
            run = RunRecord(
                str(folder), stage, IMAGE, "docker", begun, begun + 1.25, status, {outcome: 1, "skipped": 2}
            )
            ledger.runs.record(run, [OutcomeRecord("tests/test_a.py::test_x[1]", outcome, 0.5)])
        ledger.runs.record(RunRecord("/other", "qa", IMAGE, "docker", 1.0, 2.0, 0))


def test_the_runs_of_a_project(runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert [number for number, _ in lines] == ["RUN", "3", "2", "1"]
    assert lines[0][1].split() == ["STARTED", "STAGE", "IMAGE", "RESULT", "TIME"]
    assert "1 failed, 2 skipped (exit 1)" in lines[1][1]
    assert "aaaaaaaaaaaa" in lines[1][1]


def test_stage_and_limit(runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--stage", "qa", "--limit", "1", "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["stage"], answer["nodeid"]) == (1, "qa", None)
    (run,) = answer["runs"]
    assert run["id"] == 3
    assert (run["exit_status"], run["counts"], run["duration_s"]) == (1, {"failed": 1, "skipped": 2}, 1.25)
    assert run["started"].startswith("2026-09-2")
    assert "outcome" not in run


@pytest.mark.parametrize(
    ("arguments", "outcomes"),
    [
        (["tests/test_a.py::test_x[1]"], ["failed", "passed", "passed"]),
        (["tests/test_a.py::test_x[1]@qa"], ["failed", "passed"]),
        (["tests/test_a.py::test_x[1]@dev"], ["passed"]),
        (["tests/test_a.py::test_x[1]", "--stage=qa"], ["failed", "passed"]),
        (["tests/test_a.py::test_x[1]@other"], []),
    ],
)
def test_the_runs_of_a_test(
    arguments: list[str], outcomes: list[str], runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", *arguments, "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [run["outcome"] for run in answer["runs"]] == outcomes
    assert all(run["test_duration_s"] == 0.5 for run in answer["runs"])
    assert main(["history", *arguments]) == 0
    out = capsys.readouterr().out
    assert [line.split()[5] for line in out.splitlines()[1:] if " s" in line] == outcomes


def test_what_is_near(runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ("test_x", "TEST_A.py", "tests/test_a.py::test_x[2]"):
        assert main(["history", asked]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"no run of {asked} is in the ledger",
            "  but of tests/test_a.py::test_x[1]",
        ]
    assert main(["history", "\x1b[31m"]) == 0
    assert capsys.readouterr().out == "no run of \\x1b[31m is in the ledger\n"


def test_nothing_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 0
    assert capsys.readouterr().out == "no run of this project is in the ledger\n"
    assert main(["history", "--stage=qa"]) == 0
    assert capsys.readouterr().out == "no run of this project in stage qa is in the ledger\n"


def test_usage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--stage=qaa"]) == 2
    assert "qa" in capsys.readouterr().err
    for wrong in ("0", "-1", "x"):
        with pytest.raises(SystemExit) as end:
            main(["history", f"--limit={wrong}"])
        assert end.value.code == 2
        assert "is not a number from 1 on" in capsys.readouterr().err
    (folder / "envpar.toml").unlink()
    assert main(["history"]) == 2
    assert "no stages are configured" in capsys.readouterr().err


def test_a_newer_ledger_is_told(folder: Path, runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite3")) as raw:
        raw.execute("PRAGMA user_version = 99")
    assert main(["history"]) == 0
    out, err = capsys.readouterr()
    assert out == "no run of this project is in the ledger\n"
    assert "was written by a newer pytest-envpar" in err
