"""What an engine tells while it pulls or builds: a stream of JSON objects."""

from __future__ import annotations

import collections
import json
import re
import time
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine import buildkit
from pytest_envpar.engine.api import Bars
from pytest_envpar.engine.bars import Pull, clean
from pytest_envpar.engine.parse.shapes import table
from pytest_envpar.engine.translate import AnswerError, ProtocolError, redacted
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from pytest_envpar.engine.api import Progress

_TAIL_LINES = 20
_REDRAW_S = 0.1
_STEP = re.compile(r"^\s*(step|STEP) +\d+", re.IGNORECASE)
_BUILT = re.compile(r"^(?:Successfully built )?(?:sha256:)?([0-9a-f]{12,64})\s*$")


def objects(chunks: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a stream in which they stand one behind the other, with or without newlines."""
    decoder = json.JSONDecoder()
    text = ""
    pending = b""
    for chunk in chunks:
        pending += chunk
        # Cut at a newline, or a character of several bytes could be cut in half.
        whole, newline, pending = pending.rpartition(b"\n")
        if newline:
            text = yield from _decoded(decoder, text + whole.decode("utf-8", "replace") + "\n")
    rest = yield from _decoded(decoder, text + pending.decode("utf-8", "replace"))
    if rest.strip():
        raise ProtocolError(f"not JSON: {rest[:60]!r}")


def _decoded(decoder: json.JSONDecoder, text: str) -> Generator[Mapping[str, Any], None, str]:
    """Yields the whole objects of ``text``; returns what is left."""
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return ""
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            return text[at:]
        yield table(value)


def follow_pull(chunks: Iterable[bytes], progress: Progress | None) -> Pull:
    """Read a pull to its end, and show it where ``progress`` can draw.

    Raises:
        AnswerError: The pull failed; the engine says so in the stream, with status 200.
    """
    pull = Pull()
    bars = progress if isinstance(progress, Bars) else None
    drawn_at = 0.0
    try:
        for line in objects(chunks):
            error = _error(line)
            if error:
                raise AnswerError(_pull_status(error), error)
            pull.read(line)
            now = time.monotonic()
            if bars is not None and now - drawn_at >= _REDRAW_S:
                drawn_at = now
                bars.draw(pull.lines())
    finally:
        if bars is not None and drawn_at:
            bars.draw(())
    return pull


def _pull_status(message: str) -> int:
    missing = ("manifest unknown", "not found", "does not exist", "no such image", "name unknown")
    return 404 if any(part in message.lower() for part in missing) else 500


def follow_build(chunks: Iterable[bytes], dockerfile: str, progress: Progress | None) -> str | None:
    """Read a build to its end and return the image id it tells, if any.

    Raises:
        EngineError: A step failed; ``detail`` has the step and the tail of its output.
    """
    step = ""
    found: str | None = None
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
    trace = buildkit.Trace(_TAIL_LINES)
    for line in objects(chunks):
        if line.get("id") == buildkit.TRACE:
            for text in trace.read(line.get("aux")):
                if progress is not None:
                    progress(clean(text))
            continue
        error = _error(line)
        if error:
            if trace.failed is not None:
                step = clean(trace.failed)
                tail.extend(clean(text) for text in trace.tail)
            where = f"build of {dockerfile}"
            raise EngineError(
                f"{where}: {step} failed" if step else f"{where} failed",
                detail=(*((step,) if step else ()), *tail, *clean(redacted(error)).splitlines()),
            )
        image = table(line.get("aux")).get("ID")
        if image:
            found = str(image)
        for text in str(line.get("stream") or line.get("status") or "").splitlines():
            shown = clean(text).rstrip()
            if not shown:
                continue
            if _STEP.match(shown):
                step = shown
                tail.clear()
            else:
                tail.append(shown)
            built = _BUILT.match(shown)
            if built and found is None:
                found = built[1]
            if progress is not None:
                progress(shown)
    return found


def follow_load(chunks: Iterable[bytes]) -> None:
    """Read the answer to a load to its end. Raises AnswerError if it failed, which the engine says in the stream."""
    for line in objects(chunks):
        error = _error(line)
        if error:
            raise AnswerError(500, error)


def _error(line: Mapping[str, Any]) -> str:
    return str(table(line.get("errorDetail")).get("message") or line.get("error") or "").strip()
