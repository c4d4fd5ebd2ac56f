"""The codec between host and agent: what went out once is frozen here."""

from __future__ import annotations

import json
import random
from typing import get_args

import pytest

from pytest_envpar.worker.agent import wire

FROZEN: list[tuple[wire.Message, str]] = [
    (wire.Init(1, {"args": ["-x"]}), '["init",1,{"args":["-x"]}]'),
    (wire.Plan([0, 2, 1], 3), '["plan",[0,2,1],3]'),
    (wire.Credit(7), '["credit",7]'),
    (wire.Interrupt(), '["interrupt"]'),
    (wire.Dump(), '["dump"]'),
    (wire.Answer(4, {}, {"a": 1}, "eA==", False), '["answer",4,{},{"a":1},"eA==",false]'),
    (wire.Look(), '["look"]'),
    (wire.Stay(), '["stay"]'),
    (wire.Stdin("\x03\xff"), '["stdin","\\u0003\\u00ff"]'),
    (wire.Resize(24, 80), '["resize",24,80]'),
    (wire.Shutdown(), '["shutdown"]'),
    (wire.Ready(1, {"pytest": "9"}), '["ready",1,{"pytest":"9"}]'),
    (wire.Collecting("a.py"), '["collecting","a.py"]'),
    (wire.CollectFailed({"nodeid": "a.py"}), '["collect-failed",{"nodeid":"a.py"}]'),
    (
        wire.Collected([[-1]], [[0]], [["m", [], {}]], 1, ["l"]),
        '["collected",[[-1]],[[0]],[["m",[],{}]],1,["l"]]',
    ),
    (wire.Run(3, None), '["run",3,null]'),
    (wire.Start(3), '["start",3]'),
    (wire.Passed(3, "call", 1.5, 2.5, 1.0), '["passed",3,"call",1.5,2.5,1.0]'),
    (wire.Report(3, {"outcome": "failed"}, None), '["report",3,{"outcome":"failed"},null]'),
    (wire.Finish(3), '["finish",3]'),
    (wire.Warned({"text": "t"}), '["warned",{"text":"t"}]'),
    (wire.Text("live", "\udcff"), '["text","live","\\udcff"]'),
    (wire.Attribute("a", "b", None), '["attribute","a","b",null]'),
    (wire.Call(4, "exec", "c1", {"a": 1}, "", True), '["call",4,"exec","c1",{"a":1},"",true]'),
    (
        wire.Coverage({"done": True}, [["", "a.py", "lines", [1, 2]]]),
        '["coverage",{"done":true},[["","a.py","lines",[1,2]]]]',
    ),
    (wire.Pollution(3, {"owner": ""}), '["pollution",3,{"owner":""}]'),
    (wire.Stop("exit", "why", ["a.py", 1], 9), '["stop","exit","why",["a.py",1],9]'),
    (wire.Finished(0, {}), '["finished",0,{}]'),
    (wire.Listen(True), '["listen",true]'),
    (wire.Debugged(3), '["debugged",3]'),
    (wire.Output(1, "\xff"), '["output",1,"\\u00ff"]'),
    (wire.Died({"code": 3}), '["died",{"code":3}]'),
    (wire.Seen({"a": 1}), '["seen",{"a":1}]'),
]


def fields(messages: list[wire.Message]) -> list[tuple[type, dict[str, object]]]:
    """For comparison: messages themselves know no equality, which spares the agent time at its start."""
    return [(type(message), vars(message)) for message in messages]


@pytest.mark.parametrize(("message", "text"), FROZEN, ids=lambda value: type(value).__name__)
def test_encodings_are_frozen(message: wire.Message, text: str) -> None:
    assert wire.encode(message) == text.encode("ascii")
    assert fields(wire.decode(f"[{text}]".encode("ascii"))) == fields([message])


def test_every_message_is_frozen() -> None:
    assert {type(message) for message, _ in FROZEN} == set(get_args(wire.Message))
    assert wire.PROTOCOL == 1
    assert wire.pack(wire.Start(3)) == b"\0\0\0\0\x0d" + b'[["start",3]]'


def test_the_fast_way_is_the_same() -> None:
    assert wire.encode_passed(3, "call", 1.5, 2.5, 1.0) == wire.encode(wire.Passed(3, "call", 1.5, 2.5, 1.0))


def test_any_cut_of_the_stream_gives_the_same_messages() -> None:
    sent = [wire.Text("live", "x" * 3_000_000), *(message for message, _ in FROZEN), wire.Text("live", "end")]
    data = b"".join(wire.pack(message) for message in sent)
    assert (
        max(len(frame) for frame in wire.frames(wire.encode(sent[0]))) <= wire.MAX_PAYLOAD + wire.HEADER.size
    )
    chance = random.Random(1)
    for _ in range(5):
        decoder = wire.Decoder()
        received: list[wire.Message] = []
        at = 0
        while at < len(data):
            size = chance.choice((1, 2, 5, 7, 1000, 70_000, 1 << 20))
            received += decoder.feed(data[at : at + size])
            at += size
        assert fields(received) == fields(sent)


def test_an_unfinished_chain_is_dropped() -> None:
    first, *_ = wire.frames(wire.encode(wire.Text("live", "x" * 3_000_000)))
    messages = wire.Decoder().feed(first + wire.pack(wire.Start(1)))
    assert fields(messages) == fields([wire.Start(1)])


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b"1", b"[1]", b"[[]]", b"[[1]]", b'[["nothing"]]', b'[["start"]]', b'[["start","x"]]',
        b'[["start",1,2]]', b'[["passed",1,2,3,4,5]]', b"\xff", b"[" * 100_000, b'[["stop","a","b",{},null]]',
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder().feed(wire.HEADER.pack(0, len(payload)) + payload)


def test_headers_are_checked() -> None:
    for header in (wire.HEADER.pack(0, wire.MAX_PAYLOAD + 1), wire.HEADER.pack(8, 1), b"HTTP/"):
        with pytest.raises(wire.WireError, match="not a frame"):
            wire.Decoder().feed(header)


class Broken:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


def test_values_that_json_does_not_know_become_text() -> None:
    loop: list[object] = []
    loop += [loop, loop]
    ring: dict[object, object] = {(1, 2): 3}
    ring["self"] = ring["again"] = ring
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    values = [
        object,
        b"\xff",
        {1},
        loop,
        ring,
        Broken(),
        {Broken(): 1},
        deep,
        10**6000,
        float("nan"),
        "\ud800",
    ]
    for value in values:
        message = wire.Report(1, {"user_properties": [["key", value]]}, None)
        (decoded,) = wire.decode(b"[" + wire.encode(message) + b"]")
        assert isinstance(decoded, wire.Report)
        assert decoded.report["user_properties"][0][0] == "key"
    (decoded,) = wire.decode(b"[" + wire.encode(wire.Report(1, {"v": [ring, Broken()]}, None)) + b"]")
    assert isinstance(decoded, wire.Report)
    assert decoded.report["v"][0]["(1, 2)"] == 3
    assert "unprintable Broken" in decoded.report["v"][1]


def test_a_report_above_the_limit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE", 10_000)
    monkeypatch.setattr(wire, "MAX_TEXT", 5_000)
    sections = [["Captured stdout call", "a" * 9_000 + "\x01" * 90_000 + "the end"]]
    data = wire.encode(wire.Report(1, {"longrepr": "short", "sections": sections}, None))
    assert len(data) <= 10_000
    report = json.loads(data)[2]
    assert report["longrepr"] == "short"
    assert report["sections"][0][1].startswith("aaa")
    assert "characters left out here" in report["sections"][0][1]
    assert report["sections"][0][1].endswith("the end")
