"""Host processes of the tests: no output is lost, and none outlives its test."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from rig import runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The signal may come while the first line is still being written, where print() cannot be called again.
HELD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"told to end\\n"), sys.exit(3)))
print("held", flush=True)
time.sleep(1000)
"""


def _begin(code: str, folder: Path) -> runs.Run:
    return runs.begin([sys.executable, "-c", code], folder, os.environ)


def test_all_output_is_there_at_the_end(tmp_path: Path) -> None:
    # More than a pipe holds on the stream that is not waited for.
    run = _begin("import sys; sys.stderr.write('e' * 1000000); print('one\\ntwo'); print('three')", tmp_path)
    run.wait_for("two")
    ended = run.end(60)
    assert (ended.code, ended.out, len(ended.err)) == (0, "one\ntwo\nthree\n", 1000000)


def test_what_never_comes_is_told_with_what_came(tmp_path: Path) -> None:
    run = _begin(HELD, tmp_path)
    run.wait_for("held")
    with pytest.raises(AssertionError, match=r"(?s)never.*held"):
        run.wait_for("never", timeout_s=0)
    runs.stop_all()
    assert run.process.returncode == 3


def test_a_run_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    run = _begin(HELD, tmp_path)
    run.wait_for("held")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)did not end.*told to end"):
        run.end(0)
    assert run.process.returncode == 3


@pytest.fixture
def hosts() -> Iterator[list[runs.Run]]:
    """Hosts that have to be gone when fixtures of the test end."""
    begun: list[runs.Run] = []
    yield begun
    assert [run.process.returncode for run in begun] == [3]


def test_a_host_that_goes_on_ends_before_the_fixtures_of_its_test(
    hosts: list[runs.Run], tmp_path: Path
) -> None:
    hosts.append(_begin(HELD, tmp_path))
    hosts[0].wait_for("held")
