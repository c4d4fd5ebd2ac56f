"""What a pull looks like, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.engine.api import Bars
from pytest_envpar.engine.bars import Pull, Teller, human
from pytest_envpar.engine.progress import follow_pull
from pytest_envpar.engine.translate import AnswerError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Screen:
    """Draws, and remembers what."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, ...]] = []

    def __call__(self, line: str) -> None:
        raise AssertionError(line)

    def draw(self, lines: Sequence[str]) -> None:
        self.drawn.append(tuple(lines))


@pytest.fixture(autouse=True)
def term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def state(*said: tuple[str, str, int, int]) -> Pull:
    pull = Pull()
    for name, status, current, total in said:
        pull.read({"id": name, "status": status, "progressDetail": {"current": current, "total": total}})
    return pull


def stream(*objects: Any) -> list[bytes]:
    return [json.dumps(each).encode() + b"\n" for each in objects]


def test_bars_of_layers_and_bytes() -> None:
    pull = state(
        ("1.2", "Pulling from library/x", 0, 0),
        ("aaaaaaaaaaaaffff", "Downloading", 5_000_000, 20_000_000),
        ("bbbbbbbbbbbb", "Downloading", 10, 1000),
        ("bbbbbbbbbbbb", "Download complete", 0, 0),
        ("bbbbbbbbbbbb", "Extracting", 500, 1000),
        ("cccccccccccc", "Waiting", 0, 0),
        ("dddddddddddd", "Already exists", 0, 0),
        ("eeeeeeeeeeee", "Retrying in 5 seconds", 0, 0),
    )
    assert pull.lines() == (
        "  aaaaaaaaaaaa  downloading  [######------------------] 5.0 MB / 20.0 MB",
        "  bbbbbbbbbbbb  extracting   [############------------] 500 B / 1.0 kB",
        "  eeeeeeeeeeee  retrying",
        "  1 of 5 layers done, 5.0 MB of 20.0 MB known",
    )


def test_the_summary_counts_what_came_and_what_was_here() -> None:
    assert Pull().summary() == ""
    assert Pull().lines() == ()
    pull = state(
        ("a", "Downloading", 7, 12_300_000), ("a", "Pull complete", 0, 0), ("b", "Pull complete", 0, 0)
    )
    assert pull.summary() == "2 layers, 12.3 MB"
    assert state(("a", "Already exists", 0, 0)).summary() == "1 layer here already"


def test_many_layers_are_not_more_than_a_screen() -> None:
    lines = state(*[(str(number), "Downloading", 1, 2) for number in range(5000)]).lines()
    assert len(lines) == 10
    assert "and 1992 layers more" in lines[-2]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    assert human(size) == shown


def test_a_pull_draws_where_it_can_and_takes_it_away() -> None:
    screen = Screen()
    assert isinstance(screen, Bars)
    assert not isinstance(print, Bars)
    line = {"status": "Downloading", "progressDetail": {"current": 1, "total": 4}, "id": "abc"}
    pull = follow_pull(stream(line, line, line), screen)
    assert pull.summary() == "1 layer, 1 B"
    assert "[######---" in screen.drawn[0][0]
    assert screen.drawn[-1] == ()
    assert len(screen.drawn) == 2
    with pytest.raises(AnswerError):
        follow_pull(stream(line, {"error": "no"}), screen)
    assert screen.drawn[-1] == ()
    follow_pull(stream(line), None)


def test_what_is_not_a_pull_is_passed_over() -> None:
    odd: list[Any] = [
        {"status": 5, "id": ["x"]},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": "9", "total": -4}},
        {"status": "Downloading", "id": "a", "progressDetail": 3},
        {},
    ]
    assert follow_pull(stream(*odd), None).lines() == ("  a             downloading", "  0 of 1 layer done")


def test_on_a_terminal_bars_are_redrawn() -> None:
    out = Terminal()
    tell = Teller(out, columns=20)
    assert isinstance(tell, Bars)
    tell("pulling x")
    tell.draw(("one", "t" * 50))
    tell.draw(("two",))
    tell("pulled x")
    tell.draw(())
    expected = f"envpar: pulling x\none\n{'t' * 19}\n\x1b[2F\x1b[Jtwo\n\x1b[1F\x1b[Jenvpar: pulled x\n"
    assert out.getvalue() == expected


@pytest.mark.parametrize("terminal", [True, False])
def test_elsewhere_there_are_lines_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal() if terminal else io.StringIO()
    if terminal:
        monkeypatch.setenv("TERM", "dumb")
    tell = Teller(out)
    tell.draw(("one",))
    tell("pulled x")
    assert out.getvalue() == "envpar: pulled x\n"


def test_what_strangers_say_moves_no_cursor() -> None:
    out = Terminal()
    tell = Teller(out, columns=80)
    tell("a\x1b[2Jb\x1b]0;title\x07c\rd\x9b5m")
    tell.draw(("x\x1b[31my\nz",))
    assert out.getvalue() == "envpar: abc\nenvpar: d5m\nxy z\n"


def test_standard_error_is_looked_up_late(capsys: pytest.CaptureFixture[str]) -> None:
    Teller()("a line")
    assert capsys.readouterr().err == "envpar: a line\n"
