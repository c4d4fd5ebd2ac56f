"""Calls from the inside that are not what they should be, without any engine."""

from __future__ import annotations

import base64
import queue
import types
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.config.model import Settings, Stage
from pytest_envpar.containers.labels import Owner
from pytest_envpar.session import desk as desks
from pytest_envpar.session.desk import Desk
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Sent:
    """Takes the place of the client: what was answered."""

    def __init__(self) -> None:
        self.answers: queue.Queue[wire.Answer] = queue.Queue()

    def send(self, message: wire.Answer) -> None:
        self.answers.put(message)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = Settings(tmp_path, tmp_path / "envpar.toml", {"qa": Stage("qa", image="x")})
    engine = types.SimpleNamespace(create_container=None)  # whoever asks it for anything fails
    ground = types.SimpleNamespace(owner=Owner.current(tmp_path), engine=engine)
    made = Desk(settings, "qa", ground, tmp_path, {}, "local")  # type: ignore[arg-type]
    yield made
    made.close()


def ask(desk: Desk, verb: str, target: str = "", data: bytes = b"", **fields: Any) -> wire.Answer:
    sent = Sent()
    text = base64.b64encode(data).decode()
    desk.take(wire.Call(1, verb, target, fields, text, False), sent)  # type: ignore[arg-type]
    return sent.answers.get(timeout=30)


@pytest.mark.parametrize(
    ("verb", "target", "fields", "message"),
    [
        ("exec", "c1", {}, "not one that this run has started"),
        ("process.read", "p1", {}, "not one that this run has started"),
        ("start", "", {}, "count is missing"),
        ("start", "", {"count": "x"}, "count is a number"),
        ("start", "", {"count": 0}, "0 containers"),
        ("start", "", {"count": 1, "stage": 5}, "stage is text"),
        ("start", "", {"count": 1, "stage": "qa", "image": "x"}, "not both"),
        ("start", "", {"count": 1, "stage": "prod"}, "'prod' is not configured"),
        ("no-such-verb", "", {}, "not one that this run has started"),
        ("__class__", "", {}, "not one that this run has started"),
        ("find_checkpoint", "", {"name": "../x"}, "cannot be a checkpoint's name"),
    ],
)
def test_a_wrong_call_is_refused(
    desk: Desk, verb: str, target: str, fields: dict[str, Any], message: str
) -> None:
    answer = ask(desk, verb, target, **fields)
    assert message in answer.error["message"]
    assert not answer.more
    assert wire.decode(b"[" + wire.encode(answer) + b"]")


def test_only_a_stage_that_is_not_configured_skips(desk: Desk) -> None:
    assert ask(desk, "start", count=1, stage="prod").error["skip"] is True
    assert "skip" not in ask(desk, "start", count=0).error


def test_a_bug_of_ours_is_told_and_not_waited_for(desk: Desk) -> None:
    answer = ask(desk, "start", count=1, stage="qa")
    assert answer.error["kind"] == "EnvparError"


def test_too_much_in_one_call_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "MOST_BYTES", 1000)
    sent = Sent()
    piece = base64.b64encode(b"x" * 400).decode()
    for more in (True, True, True, False):
        desk.take(wire.Call(2, "write", "c1", {}, piece, more), sent)  # type: ignore[arg-type]
    assert "in one call" in sent.answers.get(timeout=30).error["message"]


def test_what_is_given_out_holds_only_so_much(desk: Desk) -> None:
    image = types.SimpleNamespace(reference="", digest="", image_id="", layers=(), platform="", short=str)
    container: Any = types.SimpleNamespace(id="", name="", stage=None, image=image)
    desk._give(container)
    assert (container.most_held, container.most_copied) == (64 << 20, 1 << 30)
