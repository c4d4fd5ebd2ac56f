"""How pytest's reports become the outcomes that the ledger keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_envpar.ledger import OutcomeRecord
from pytest_envpar.session.memory import outcomes_of


def _report(nodeid: str, when: str | None = "call", duration: float = 1.0) -> Any:
    return SimpleNamespace(nodeid=nodeid, when=when, duration=duration)


def test_the_worst_phase_decides_and_durations_add_up() -> None:
    stats = {
        "": [_report("a", "setup", 0.25), _report("a", "teardown", 0.5), _report("b", "setup", 0.25)],
        "passed": [_report("a"), _report("b"), _report("rerun")],
        "error": [_report("b", "teardown"), SimpleNamespace(nodeid="t.py", longrepr="cannot be imported")],
        "failed": [_report("c")],
        "skipped": [_report("d", "setup")],
        "xfailed": [_report("e")],
        "xpassed": [_report("f")],
        "rerun": [_report("rerun")],
        "warnings": [SimpleNamespace(nodeid="a", message="w")],
        "deselected": [SimpleNamespace(name="x")],
    }
    found = {each.nodeid: each for each in outcomes_of(stats)}
    assert found["a"] == OutcomeRecord("a", "passed", 1.75)
    assert found["b"] == OutcomeRecord("b", "error", 2.25)
    assert found["t.py"] == OutcomeRecord("t.py", "error", 0.0)
    assert found["rerun"] == OutcomeRecord("rerun", "passed", 2.0)
    assert {name: found[name].outcome for name in "cdef"} == {
        "c": "failed",
        "d": "skipped",
        "e": "xfailed",
        "f": "xpassed",
    }
    assert len(found) == 8


def test_no_reports() -> None:
    assert outcomes_of({}) == []
