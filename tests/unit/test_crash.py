"""A worker's death in words."""

from __future__ import annotations

import signal

import pytest

from pytest_envpar.session.crash import from_facts

LIMIT, PEAK = 96 << 20, 95 << 20


def test_a_worker_that_the_kernel_killed_for_its_memory() -> None:
    death = from_facts({"signal": int(signal.SIGKILL), "oom": True, "limit": LIMIT, "peak": PEAK})
    assert death.cause == "killed: memory limit 96 MiB, peak 95 MiB"


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"signal": int(signal.SIGABRT)}, f"killed by signal {int(signal.SIGABRT)} (SIGABRT)"),
        ({"code": 3}, "the process ended with exit code 3 before the session did (os._exit or the like)"),
    ],
)
def test_a_child_that_was_killed_for_its_memory_before_is_not_the_cause(
    facts: dict[str, object], cause: str
) -> None:
    line = "memory limit 96m reached: a process was killed"
    death = from_facts({**facts, "oom": True, "limit": LIMIT, "peak": PEAK, "limits": [line]})
    assert death.cause == cause
    assert death.limits == (line,)
