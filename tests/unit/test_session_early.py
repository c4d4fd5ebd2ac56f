"""What `envpar run` begins before pytest is imported: a guess that has to be sure, and that can be given up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.cli.run import TolerantStart
from pytest_envpar.config import load_settings
from pytest_envpar.session import launch
from pytest_envpar.session.launch import Launch
from pytest_envpar.session.signals import Signals

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_envpar.config.model import Settings, Stage

CONFIG = (
    '[stages.qa]\nimage = "x"\n[stages.dev]\nimage = "y"\n[stages.later]\nimage = "z"\nextends = "nowhere"\n'
)


def nothing(_: object) -> None:
    """Takes what nobody has to remove."""


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were begun; nothing is started."""
    names: list[str] = []

    def begin(
        settings: Settings,
        stage: Stage,
        engine: str | None,
        lock: Any = None,
        *,
        owned: Any,
        reuse: bool = False,
    ) -> str:
        assert engine is None
        assert owned is nothing
        assert lock is None
        names.append(f"{stage.name} again" if reuse else stage.name)
        return stage.name

    monkeypatch.setattr(Launch, "begin", begin)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envpar.toml").write_text(CONFIG.rpartition("[stages.later]")[0])
    return names


@pytest.mark.parametrize(
    "args", [["--env=qa"], ["tests", "--env=qa", "-k", "x"], ["--envpar-stage=qa", "-m", "not --slow"]]
)
def test_a_plain_command_line_begins(args: list[str], begun: list[str]) -> None:
    assert launch.early(args, nothing, {}) is not None
    assert begun == ["qa"]


def test_so_does_one_with_reuse(begun: list[str]) -> None:
    assert launch.early(["--env=qa", "--env-reuse"], nothing, {}) is not None
    assert begun == ["qa again"]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["tests"],
        ["--env", "qa"],  # whose value that is, only pytest can tell
        ["--env=qa", "--env=dev"],
        ["--env=qa", "--env-engine=unix:///x"],
        ["--env=qa", "--env-frozen"],
        ["--env=qa,dev"],
        ["--env=all"],
        ["--env="],
        ["--env=unknown"],
        ["--env=qa", "--help"],
        ["--env=qa", "--version"],
        ["--env=qa", "--markers"],
        ["--", "--env=qa"],
    ],
    ids=" ".join,
)
def test_where_there_is_a_doubt_nothing_begins(args: list[str], begun: list[str]) -> None:
    assert launch.early(args, nothing, {}) is None
    assert begun == []


def test_options_of_the_environment_are_a_doubt(begun: list[str]) -> None:
    assert launch.early(["--env=qa"], nothing, {"PYTEST_ADDOPTS": "-q --env-update"}) is None
    assert launch.early(["--env=qa"], nothing, {"PYTEST_ADDOPTS": "-q"}) is not None
    assert begun == ["qa"]


@pytest.mark.parametrize("text", ["[stages.qa", "[stages.qa]\nimage = 3\n", CONFIG, None])
def test_mistakes_are_told_later_and_in_one_way(text: str | None, begun: list[str], tmp_path: Path) -> None:
    if text is None:
        (tmp_path / "envpar.toml").unlink()
    else:
        (tmp_path / "envpar.toml").write_text(text)
    assert launch.early(["--env=qa"], nothing, {}) is None
    assert begun == []


class Begun:
    """Stands for a launch."""

    def __init__(self, *, serves: bool) -> None:
        self._serves = serves
        self.closed = 0

    def serves(self, *_wanted: object) -> bool:
        return self._serves

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("serves", [True, False])
def test_what_was_begun_is_taken_once_or_closed(serves: bool) -> None:
    begun: Any = Begun(serves=serves)
    start: Any = TolerantStart([], begun)
    stage: Any = object()
    assert start.take(None, [stage], None, None) == ((begun,) if serves else None)
    assert begun.closed == (0 if serves else 1)
    assert start.take(None, [stage], None, None) is None
    assert begun.closed == (0 if serves else 1)


def test_what_was_begun_does_not_serve_several_stages() -> None:
    begun: Any = Begun(serves=True)
    start: Any = TolerantStart([], begun)
    stage: Any = object()
    assert start.take(None, [stage, stage], None, None) is None
    assert begun.closed == 1


def test_a_signal_while_a_stage_is_begun_finds_who_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come between any two instructions: as early as possible, when the handlers have just been installed."""

    class Struck(Signals):
        def take(self) -> None:
            raise SystemExit(143)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "envpar.toml").write_text('[stages.qa]\nimage = "x"\n')
    settings = load_settings(tmp_path / "envpar.toml")
    removals: list[Any] = []
    with pytest.raises(SystemExit):
        Launch.begin(settings, settings.stages["qa"], None, signals=Struck("x"), owned=removals.append)
    (remove,) = removals
    remove()


def test_what_was_not_started_is_not_waited_for() -> None:
    made: list[int] = []
    ahead = launch.Ahead(lambda: made.append(1))
    assert ahead.abandon(0)
    # As a signal may come between the making of a thread and its first step.
    ahead.start()
    with pytest.raises(RuntimeError, match="given up"):
        ahead.result()
    assert made == []


def test_what_was_begun_is_waited_for() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait()

    ahead = launch.Ahead(work)
    ahead.start()
    begun.wait()
    assert not ahead.abandon(0)
    goes_on.set()
    assert ahead.abandon(60)
