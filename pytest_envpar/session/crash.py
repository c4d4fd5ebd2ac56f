"""A worker's death in words: what happened, why as far as it can be known, and the last that was heard."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_envpar.errors import escaped as escaped  # noqa: PLC0414 - is asked for here, too

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_TAIL_LINES = 60
_LIMITS = 20


@dataclasses.dataclass(frozen=True)
class Death:
    """One worker's end.

    Args:
        cause: One line: the limit, the signal or the exit code.
        tail: The last output of the worker and its container.
        container_gone: Whether the next worker needs a new container.
        limits: Limits of the container that were reached since the worker began, or are at its end.
        engine_gone: Whether the engine is lost, and another one of the pool goes on. No test is to blame for that.
    """

    cause: str
    tail: str
    container_gone: bool
    limits: tuple[str, ...] = ()
    engine_gone: bool = False


def from_facts(facts: Mapping[str, Any]) -> Death:
    """From what the supervisor saw."""
    code, number, ulimit = facts.get("code"), facts.get("signal"), facts.get("ulimit")
    reached = facts.get("limits")
    limits = [str(line) for line in reached[:_LIMITS]] if isinstance(reached, list) else []
    # A process that a test had started may have been killed for its memory, while the worker ended of something else:
    # the kernel kills with this signal only.
    if facts.get("oom") and number == signal.SIGKILL:
        cause = "killed: " + memory(facts.get("limit"), facts.get("peak"))
        limits = [line for line in limits if not line.startswith("memory ")]
    elif isinstance(number, int) and isinstance(ulimit, str):
        cause = f"killed: {ulimit} (signal {number}, {signal_name(number)})"
    elif isinstance(number, int):
        cause = f"killed by signal {number} ({signal_name(number)})"
        if facts.get("leaving"):
            cause += ", because the container was stopped from outside"
    else:
        cause = f"the process ended with exit code {code} before the session did (os._exit or the like)"
    tail = str(facts.get("tail") or "")
    return Death(cause, tail, container_gone=bool(facts.get("leaving")), limits=tuple(limits))


def memory(limit: object, peak: object) -> str:
    """A memory limit that bit, with the peak as far as the kernel tells it."""
    text = (
        f"memory limit {size(limit)}"
        if isinstance(limit, int)
        else "out of memory (no limit of the container)"
    )
    return f"{text}, peak {size(peak)}" if isinstance(peak, int) else text


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, name in _UNITS:
        if count >= unit:
            text = f"{count / unit:.1f}"
            return f"{text.removesuffix('.0')} {name}"
    return f"{count} bytes"


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown signal"


def report(
    nodeid: str,
    location: tuple[str, int | None, str],
    keywords: Mapping[str, Any],
    text: str,
    when: Literal["setup", "call"] = "call",
) -> pytest.TestReport:
    """The report of a test that took its worker with it, or in ``setup`` of one whose worker was gone before."""
    return pytest.TestReport(nodeid, location, keywords, "failed", text, when)


def text(what: str, stage: str, death: Death) -> str:
    """The failure's text: what was running, the cause, the container's last output."""
    lines = [f"{what} crashed the worker of stage {stage}", f"cause: {escaped(death.cause)}"]
    lines += [f"limit of the container: {escaped(line)}" for line in death.limits]
    tail = death.tail.strip("\n").splitlines()
    if tail:
        lines.append("last output of the container:")
        if len(tail) > _TAIL_LINES:
            lines.append(f"  ... {len(tail) - _TAIL_LINES} more lines")
        lines += [f"  {escaped(line)}" for line in tail[-_TAIL_LINES:]]
    return "\n".join(lines)
