"""A stage run in a worker process of pytest-xdist, and what its controller says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_envpar.errors import ImageError
from pytest_envpar.session.controller import Controller
from pytest_envpar.session.crash import Death
from pytest_envpar.session.one_stage import OneStage


@pytest.mark.parametrize("collected", [False, True])
def test_a_fresh_worker_that_did_not_collect_the_test_is_not_waited_for(collected: bool) -> None:
    reports: list[Any] = []
    shown: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)

    hook = SimpleNamespace(
        pytest_runtest_logstart=lambda **_: None,
        pytest_runtest_logfinish=lambda **_: None,
        pytest_runtest_logreport=told,
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
    stage.alone = True
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


def test_a_report_says_why_a_stage_could_not_be_started() -> None:
    controller: Any = Controller.__new__(Controller)
    places = SimpleNamespace(ground=None)
    controller._launched = [
        SimpleNamespace(stage=SimpleNamespace(name=name), places=places) for name in ("dev", "qa")
    ]
    controller._missing = {"qa": ImageError("image x:1 is not there", hint="pull it")}
    dev, qa = (each.facts() for each in controller.environments())
    assert dev.lost == "was not started"
    assert qa.lost == "stage qa could not be started: image x:1 is not there [image]\nhint: pull it"
