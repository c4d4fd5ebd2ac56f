"""A stage run in a worker process of pytest-xdist, and what its controller says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_envpar.session.crash import Death
from pytest_envpar.session.one_stage import OneStage


@pytest.mark.parametrize("collected", [False, True])
def test_a_fresh_worker_that_did_not_collect_the_test_is_not_waited_for(collected: bool) -> None:
    reports: list[Any] = []
    shown: list[Any] = []
    hook = SimpleNamespace(
        pytest_runtest_logstart=lambda **_: None,
        pytest_runtest_logfinish=lambda **_: None,
        pytest_runtest_logreport=lambda report: reports.append(report),
    )
    stage: Any = OneStage.__new__(OneStage)
    stage.name = "qa"
    stage.link = SimpleNamespace(finished=None, run=lambda *_: collected)
    stage.summary = SimpleNamespace(notes=[])
    stage.boot = SimpleNamespace(crew=True)
    stage._config = SimpleNamespace(hook=hook)
    stage._succession = SimpleNamespace(death=None)
    stage._keeping = SimpleNamespace(blame=lambda _: None)
    stage._pollution = None
    stage._done = set()
    stage._go_on = lambda _: None
    stage._marked = lambda report: report
    stage._show = shown.append
    item: Any = SimpleNamespace(index=3, nodeid="f::x", location=("f", 0, "x"), keywords_seen={})
    stage._crashed(item, Death("killed", "", container_gone=False), started=False, over=False)
    if collected:
        assert shown == [item]
        assert reports == []
    else:
        assert shown == []
        assert stage._done == {3}
        assert [report.longrepr for report in reports] == [
            "a fresh worker of stage qa did not collect this test again"
        ]
