"""How the progress of a pull looks, and who writes it: lines for people and logs, bars for terminals."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import sys
import threading
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.parse.shapes import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

_MAX_LINE = 1000
_MAX_LAYERS = 2000
_SHOWN = 8
_BAR = 24
_ESCAPES = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
# What Docker and Podman say of a layer; in the order in which it happens.
_PHASES = {
    "pulling fs layer": "waiting",
    "waiting": "waiting",
    "retrying": "retrying",
    "downloading": "downloading",
    "verifying checksum": "verifying",
    "download complete": "downloaded",
    "extracting": "extracting",
    "pull complete": "done",
    "already exists": "here",
}
_ARRIVED = ("verifying", "downloaded", "extracting", "done")


@dataclasses.dataclass
class Layer:
    """One layer of a pull; bytes as far as the engine told them."""

    phase: str
    current: int = 0
    total: int = 0
    got: int = 0
    size: int = 0

    def read(self, phase: str, current: int, total: int) -> None:
        """Take in what the engine says now."""
        self.phase, self.current, self.total = phase, current, total
        if phase == "downloading":
            self.got, self.size = max(self.got, current), max(self.size, total)
        elif phase in _ARRIVED:
            self.got = self.size


@dataclasses.dataclass
class Pull:
    """What a pull has told so far; changes with every :meth:`read`."""

    layers: dict[str, Layer] = dataclasses.field(default_factory=dict)

    def read(self, line: Mapping[str, Any]) -> None:
        """Take in one object of the engine's stream."""
        status, name = str(line.get("status") or "").lower(), str(line.get("id") or "")
        phase = next((phase for said, phase in _PHASES.items() if status.startswith(said)), None)
        if phase is None or not name or (name not in self.layers and len(self.layers) >= _MAX_LAYERS):
            return
        detail = table(line.get("progressDetail"))
        layer = self.layers.setdefault(name, Layer(phase))
        layer.read(phase, _number(detail.get("current")), _number(detail.get("total")))

    def summary(self) -> str:
        """``3 layers, 12.3 MB, 1 layer here already``; empty if the engine told of no layer."""
        here = sum(layer.phase == "here" for layer in self.layers.values())
        new, size = len(self.layers) - here, sum(layer.got for layer in self.layers.values())
        parts = [_count(new)] if new else []
        parts += [human(size)] if size else []
        parts += [f"{_count(here)} here already"] if here else []
        return ", ".join(parts)

    def lines(self) -> tuple[str, ...]:
        """A bar for each layer on its way, and one line for all of them."""
        moving = [
            (name, layer)
            for name, layer in self.layers.items()
            if layer.phase not in ("waiting", "done", "here")
        ]
        bars = [_bar(clean(name), layer) for name, layer in moving[:_SHOWN]]
        if len(moving) > _SHOWN:
            bars.append(f"  and {_count(len(moving) - _SHOWN)} more")
        done = sum(layer.phase in ("done", "here") for layer in self.layers.values())
        got, size = (sum(getattr(layer, name) for layer in self.layers.values()) for name in ("got", "size"))
        total = f", {human(got)} of {human(size)} known" if size else ""
        return (*bars, f"  {done} of {_count(len(self.layers))} done{total}") if self.layers else ()


def _bar(name: str, layer: Layer) -> str:
    known = layer.total > 0
    full = min(_BAR, _BAR * layer.current // layer.total) if known else 0
    bar = (
        f"[{'#' * full}{'-' * (_BAR - full)}] {human(layer.current)} / {human(layer.total)}" if known else ""
    )
    return f"  {name[:12]:12}  {layer.phase:11}  {bar}".rstrip()


def _count(number: int) -> str:
    return "1 layer" if number == 1 else f"{number} layers"


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def human(size: int) -> str:
    """A number of bytes for people, in powers of ten as engines have it."""
    if size < 1000:
        return f"{size} B"
    amount, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while amount >= 999.95 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.1f} {units[0]}"


def clean(text: str) -> str:
    """Text of a stranger: no control characters for the terminal, no endless lines."""
    return "\n".join(_ESCAPES.sub("", line)[:_MAX_LINE] for line in text.splitlines())


class Teller:
    """Writes progress to standard error: lines always, bars on a terminal. Any thread may use it.

    Args:
        stream: Where to; by default what standard error is at the time.
        columns: The width of the terminal; by default what it says.
    """

    def __init__(self, stream: TextIO | None = None, *, columns: int | None = None) -> None:
        self._stream = stream
        self._columns = columns
        self._drawn = 0
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        """Write a line; bars go away for it."""
        with self._lock:
            text = "".join(f"envpar: {each}\n" for each in clean(line).splitlines())
            self._write(self._erased() + text)

    def draw(self, lines: Sequence[str]) -> None:
        """See :meth:`pytest_envpar.engine.api.Bars.draw`; nothing where there is no terminal."""
        if not self._is_terminal():
            return
        width = (self._columns or shutil.get_terminal_size().columns) - 1
        with self._lock:
            # A line that wraps around would be two, and the next call would take away too few.
            shown = [clean(line).replace("\n", " ")[:width] for line in lines]
            text = self._erased() + "".join(f"{line}\n" for line in shown)
            self._drawn = len(shown)
            self._write(text)

    def _erased(self) -> str:
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}F\x1b[J" if drawn else ""

    def _is_terminal(self) -> bool:
        stream = self._stream or sys.stderr
        with contextlib.suppress(ValueError, AttributeError):
            return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        return False

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(text)
        stream.flush()
