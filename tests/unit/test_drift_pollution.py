"""Pollution as data and as text."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from pytest_envpar.drift import pollution
from pytest_envpar.drift.changes import Change
from pytest_envpar.drift.pollution import Left, Pollution, Touched
from pytest_envpar.session.pollution import PollutionReport

FIELDS = {
    "owner": "",
    "counts": {"created": 2, "changed": 1, "deleted": 0},
    "paths": [
        ["created", "/tmp/a", []],
        ["changed", "/etc/b", ["content", "mode"]],
        ["created", "/tmp/c", []],
    ],
    "touched": [["opened", "/tmp/z", "created", "test_a.py::test_z"]],
    "untold": 4,
}


def made(test: str, *paths: str, more: int = 0, stage: str = "") -> Pollution:
    lefts = tuple(Left(PurePosixPath(path), "created") for path in paths)
    return Pollution(test, counts=(len(paths) + more, 0, 0), paths=lefts, stage=stage)


def test_told_and_read_again() -> None:
    told = pollution.parse(FIELDS, "test_a.py::test_b", "qa")
    assert told.counts == (2, 1, 0)
    assert told.paths[1] == Left(PurePosixPath("/etc/b"), "changed", ("content", "mode"))
    assert told.touched == (Touched("opened", Left(PurePosixPath("/tmp/z"), "created"), "test_a.py::test_z"),)
    assert told.untold == 4
    assert told.told() == "created 2, changed 1"
    assert pollution.parse(json.loads(json.dumps(pollution.as_fields(told))), told.test, "qa") == told


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"owner": 3, "counts": [], "paths": {}, "touched": "x"},
        {"counts": {"created": -1, "changed": True, "deleted": "9"}},
        {"paths": [[], ["created"], ["made", "/a", []], ["created", 3, []], "x"], "touched": [[1, 2, 3, 4]]},
    ],
)
def test_nonsense_from_inside_is_nothing(fields: dict[str, object]) -> None:
    assert pollution.parse(fields, "t") == Pollution("t")


def test_lines() -> None:
    told = [
        pollution.parse(FIELDS, "test_a.py::test_b"),
        Pollution("", "the end of the session", (0, 0, 1), (Left(PurePosixPath("/\x1b[31m\n"), "deleted"),)),
        made("test_many", *(f"/tmp/{n}" for n in range(3)), more=7),
    ]
    assert pollution.lines(told) == [
        "test_a.py::test_b: created 2, changed 1 (+ /tmp/a, ~ /etc/b (content, mode), + /tmp/c)",
        r"the end of the session: deleted 1 (- /\x1b[31m\n)",
        "test_many: created 10 (+ /tmp/0, + /tmp/1, + /tmp/2, … 7 more)",
        "test_a.py::test_b failed and opened /tmp/z, which test_a.py::test_z created",
        "test_a.py::test_b failed and met 4 more paths",
    ]
    assert pollution.lines(told[2:], everything=True) == [
        "test_many: created 10",
        *("  + /tmp/0", "  + /tmp/1", "  + /tmp/2", "  … 7 more"),
    ]
    assert pollution.summary(told) == (
        "2 tests left something on the file system; paths in all: 12 created, 1 changed, 1 deleted"
    )


def test_many_tests_are_not_all_shown() -> None:
    told = [made(f"test_{n}", f"/tmp/{n}") for n in range(30)]
    assert len(pollution.lines(told)) == pollution.ROWS + 1
    assert pollution.lines(told)[-1] == "… 10 more; -v shows all"
    assert len(pollution.lines(told, everything=True)) == 60


def test_what_nobody_was_seen_doing() -> None:
    changes = [
        Change(PurePosixPath(path), "added")
        for path in ("/tmp/a", "/srv/d/e", "/opt/x", "/many/1", "/many/9")
    ]
    told = [made("test_a", "/tmp/a", "/srv/d"), made("test_many", "/many/1", more=10)]
    assert [str(each.path) for each in pollution.unattributed(changes, told)] == ["/opt/x"]


def test_a_worker_hands_over_what_it_knows() -> None:
    worker, controller = PollutionReport(shown=False), PollutionReport()
    worker.hear(FIELDS, "test_a.py::test_b")
    worker.hear({"problem": "inotify cannot be had"})
    controller.take(json.loads(json.dumps(worker.output())))
    controller.take(None)
    assert controller.told == worker.told
    assert controller.lines(everything=False)[-1] == "not all of it is known: inotify cannot be had"


def test_what_the_next_worker_has_to_know() -> None:
    report = PollutionReport()
    report.hear(FIELDS, "test_a.py::test_b")
    report.died("", "test_a.py::test_dies")
    assert report.remembered("") == {
        "left": [
            ["created", "/tmp/a", "test_a.py::test_b"],
            ["changed", "/etc/b", "test_a.py::test_b"],
            ["created", "/tmp/c", "test_a.py::test_b"],
        ],
        "died": "test_a.py::test_dies",
    }
    report.next_container("")
    assert report.remembered("") == {"left": [], "died": ""}


def test_only_the_teardown_of_the_test_itself_is_marked() -> None:
    report = PollutionReport()
    report.hear(FIELDS, "test_a.py::test_b")
    own = pytest.TestReport("test_a.py::test_b", ("", 0, ""), {}, "passed", None, "teardown")
    other = pytest.TestReport("test_a.py::test_c", ("", 0, ""), {}, "passed", None, "teardown")
    report.mark(own)
    report.mark(other)
    assert own.user_properties == [("envpar_pollution", "created 2, changed 1")]
    assert other.user_properties == []
