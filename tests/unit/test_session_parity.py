"""The parity table and the one verdict of several stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.session import newer_ids, parity
from pytest_envpar.session.ends import one_status

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = ("dev", "qa")


def test_differences_first_then_counts() -> None:
    outcomes = {
        "a": {"dev": "passed", "qa": "passed"},
        "b": {"dev": "passed", "qa": "failed"},
        "c": {"dev": "elsewhere", "qa": "passed"},
        "d": {"dev": "passed"},
        "e": {"dev": "not run", "qa": "passed"},
    }
    assert parity.lines(outcomes, STAGES) == [
        "dev     qa      test",
        "passed  FAILED  b",
        "passed  -       d",
        "",
        "2 of 5 tests end differently",
        "stage  passed  failed  elsewhere  not run",
        "dev    3       0       1          1",
        "qa     3       1       0          0",
    ]
    assert parity.differing(outcomes, STAGES, whole=False) == ["b"]


def test_no_more_rows_than_asked_for() -> None:
    outcomes = {f"t{number}": {"dev": "passed", "qa": "error"} for number in range(5)}
    lines = parity.lines(outcomes, STAGES, 2)
    assert lines[3] == "... 3 more (-v shows all)"
    assert "5 of 5 tests end differently" in lines


def test_nothing_differs() -> None:
    lines = parity.lines({"a\x1b": {"dev": "custom", "qa": "custom"}}, STAGES)
    assert lines == ["no test of 1 ends differently", "stage  custom", "dev    1", "qa     1"]


def test_names_do_not_steer_the_terminal() -> None:
    lines = parity.lines({"a\x1b[2J": {"dev": "passed", "qa": "failed"}}, STAGES)
    assert lines[1] == "passed  FAILED  a\\x1b[2J"


@pytest.mark.parametrize(
    ("own", "inside", "status"),
    [
        (0, (0, 0), 0),
        (1, (0, 1), 1),
        (0, (0, 1), 1),
        (1, (0, 0), 1),
        (5, (5, 5), 5),
        (0, (0, 5), 0),
        (1, (1, 9), 9),
        (0, (3, 2), 3),
    ],
)
def test_one_status_for_all_stages(own: int, inside: Sequence[int], status: int) -> None:
    assert one_status(own, inside) == status


def test_ids_read_as_they_are(pytestconfig: pytest.Config) -> None:
    report = pytest.TestReport("a.py::T::t[1]@qa", ("a.py", 1, "T.t[1]@qa"), {}, "passed", None, "call")
    plain = getattr(report, "id", None)
    newer_ids.mend(pytestconfig, report)
    assert report.nodeid == "a.py::T::t[1]@qa"
    if plain is None:
        return  # before pytest 9.2 ids are nothing but text
    mended = report.id
    assert str(mended) == "a.py::T::t[1]@qa"
    assert mended.rest == "T::t[1]@qa"
    assert mended == plain
    assert plain == mended
    assert {plain: 1}[mended] == 1
    assert mended != type(plain).parse("a.py::T::t[2]@qa")
