"""The comparison tool: every node id counts, and its exit code tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import compare

if TYPE_CHECKING:
    from pathlib import Path

LEFT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_one"/>
<testcase classname="tests.test_a" name="test_two"><failure message="no"/></testcase>
<testcase classname="tests.test_a" name="test_two"><error message="teardown"/></testcase>
<testcase classname="tests.test_a" name="test_three"><skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped type="pytest.skip" message="here"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def left(tmp_path: Path) -> Path:
    file = tmp_path / "left.xml"
    file.write_text(LEFT, encoding="utf-8")
    return file


def other(left: Path, old: str, new: str) -> Path:
    """A second file that differs in one place."""
    assert old in LEFT
    file = left.with_name("right.xml")
    file.write_text(LEFT.replace(old, new), encoding="utf-8")
    return file


def test_outcomes_are_read_per_test(left: Path) -> None:
    assert compare.outcomes(left) == {
        "tests.test_a::test_one": "passed",
        "tests.test_a::test_two": "failed+error",
        "tests.test_a::test_three": "xfailed",
        "tests.test_a::test_four": "skipped",
    }


def test_equal_files(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["files", str(left), str(left)]) == 0
    assert capsys.readouterr().out == "4 and 4 tests, 0 with different outcomes\n"


def test_equal_totals_are_not_enough(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = other(left, 'name="test_one"', 'name="test_uno"')
    assert compare.main(["files", str(left), str(right)]) == 1
    out = capsys.readouterr().out
    assert "passed     (missing)  tests.test_a::test_one\n" in out
    assert "(missing)  passed     tests.test_a::test_uno\n" in out


def test_messages_on_request(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = other(left, 'message="here"', 'message="there"')
    assert compare.main(["files", str(left), str(right)]) == 0
    assert compare.main(["--messages", "files", str(left), str(right)]) == 1
    assert "skipped (here)  skipped (there)  tests.test_a::test_four" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "not XML", "<open>"])
def test_what_cannot_be_read(left: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = left.with_name("right.xml")
    right.write_text(text, encoding="utf-8")
    assert compare.main(["files", str(left), str(right)]) == 2
    assert "right.xml" in capsys.readouterr().err
