"""The simulation of many workers: what must hold whatever the figures are."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from types import ModuleType


def _module() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulate.py"
    spec = importlib.util.spec_from_file_location("simulate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module
    spec.loader.exec_module(module)
    return module


simulate: Any = _module()
FREE = simulate.Costs(image=0, first_start=0, starts=1e9, controller=0)


@given(
    times=st.lists(st.floats(0.001, 2.0), max_size=200),
    workers=st.integers(1, 20),
    engines=st.integers(1, 5),
    controller=st.sampled_from([0.0, 0.001, 0.1]),
)
def test_every_test_runs_once_and_nothing_is_faster_than_it_can_be(
    times: list[float], workers: int, engines: int, controller: float
) -> None:
    costs = dataclasses.replace(simulate.Costs(), controller=controller)
    found = simulate.simulate(times, workers, engines, costs)
    assert found.ran == dict.fromkeys(range(len(times)), 1)
    assert found.wall >= found.ideal - 1e-9
    assert found.wall >= max(times, default=0.0)
    assert found.wall >= len(times) * controller - 1e-9
    assert found.wall >= found.started - 1e-9
    assert 0.0 <= found.idle <= 1.0 + 1e-9
    assert 0.0 <= found.busy <= 1.0 + 1e-9


def test_one_worker_without_costs_takes_the_sum() -> None:
    found = simulate.simulate([1.0, 2.0, 3.0], 1, 1, FREE)
    assert found.wall == pytest.approx(6.0)
    assert found.efficiency == pytest.approx(1.0)
    assert found.idle == pytest.approx(0.0)


def test_starts_of_one_engine_are_one_after_the_other_and_engines_share_the_registry() -> None:
    costs = simulate.Costs(image=100.0, engine_link=100.0, registry_link=200.0, first_start=1.0, starts=2.0)
    assert simulate.ready_times(4, 2, costs) == (1.0, [2.0, 2.0, 2.5, 2.5])
    assert simulate.ready_times(4, 4, costs) == (2.0, [3.0, 3.0, 3.0, 3.0])


def test_a_slow_controller_bounds_the_run() -> None:
    costs = dataclasses.replace(FREE, controller=0.01)
    found = simulate.simulate([0.001] * 1_000, 50, 1, costs)
    assert found.wall == pytest.approx(10.0, rel=0.05)
    assert found.busy > 0.95


def test_the_suite_is_the_same_every_time_and_has_the_mean_that_was_asked_for() -> None:
    times = simulate.durations(1_000, 0.1)
    assert times == simulate.durations(1_000, 0.1)
    assert sum(times) == pytest.approx(100.0)


def test_a_run_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="a worker and an engine"):
        simulate.simulate([1.0], 0, 1, FREE)


def test_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "SIZES", ((1, 1), (4, 2)))
    monkeypatch.setattr(
        sys, "argv", ["simulate", "--tests=100", "--image=0", f"--markdown={tmp_path / 't.md'}"]
    )
    assert simulate.main() == 0
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert text.splitlines()[2].startswith("| 1 | 1 | 0.0 s | 0.6 s | 11 s |")
