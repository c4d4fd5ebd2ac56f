"""What builds tell: BuildKit's trace in pieces, and text that no terminal should get."""

from __future__ import annotations

import base64
import json

import pytest

from pytest_envpar.engine import buildkit, progress
from pytest_envpar.engine.translate import ProtocolError
from pytest_envpar.errors import EngineError


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def traced(*messages: bytes) -> dict[str, str]:
    return {"id": buildkit.TRACE, "aux": base64.b64encode(b"".join(messages)).decode()}


def vertex(digest: bytes, name: bytes, error: bytes = b"") -> bytes:
    # Field 4 is a number (a flag), 5 the start.
    return field(
        1,
        field(1, digest) + field(3, name) + b"\x20\x01" + field(5, b"") + (field(7, error) if error else b""),
    )


def log(digest: bytes, text: bytes) -> bytes:
    return field(3, field(1, digest) + field(4, text))


def lines(*objects: object) -> list[bytes]:
    raw = "".join(json.dumps(item, ensure_ascii=False) + "\r\n" for item in objects).encode()
    # Cut in the middle of everything, characters included.
    return [raw[at : at + 3] for at in range(0, len(raw), 3)]


def test_the_step_that_failed_is_named_with_its_own_output() -> None:
    told: list[str] = []
    stream = lines(
        traced(vertex(b"a", b"RUN one"), vertex(b"b", b"RUN two")),
        traced(vertex(b"a", b"RUN one"), log(b"a", b"of one\n"), log(b"b", b"of two \xff\x1b[31m\n")),
        traced(vertex(b"a", b"RUN one", b"context canceled"), vertex(b"b", b"RUN two", b"exit code: 3")),
        {"errorDetail": {"message": "exit code: 3"}},
    )
    with pytest.raises(EngineError, match="build of D: RUN two failed") as caught:
        progress.follow_build(stream, "D", told.append)
    assert caught.value.detail == ("RUN two", "of two \ufffd", "exit code: 3")
    assert told == ["RUN one", "RUN two", "of one", "of two \ufffd"]


@pytest.mark.parametrize(
    "aux", [None, 3, "%%%", "AAAA", "CgU=", "CP//////////////AQ==", base64.b64encode(b"\x0b").decode()]
)
def test_a_trace_that_cannot_be_read_is_passed_over(aux: object) -> None:
    found = progress.follow_build(
        lines({"id": buildkit.TRACE, "aux": aux}, {"aux": {"ID": "sha256:1"}}), "D", None
    )
    assert found == "sha256:1"


def test_a_podman_build_tells_its_image_in_its_last_line() -> None:
    told: list[str] = []
    stream = lines({"stream": "STEP 1/1: FROM ü\n"}, {"stream": "--> abc\n"}, {"stream": "a" * 64 + "\n"})
    assert progress.follow_build(stream, "D", told.append) == "a" * 64
    assert told[0] == "STEP 1/1: FROM ü"


def test_something_else_than_json() -> None:
    with pytest.raises(ProtocolError, match="not JSON"):
        progress.follow_build([b"<html>"], "D", None)
