"""A command's output, without any engine."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.containers.handle_process import Process
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine


def process(most: int | None) -> Process:
    pieces = iter([(1, b"x" * 600), (2, b"y" * 400), (0, b"")])
    stream = types.SimpleNamespace(read=lambda _: next(pieces), close=lambda: None)
    engine = types.SimpleNamespace(open_exec=lambda *_, **__: ("id", stream), exec_exit_code=lambda _: 0)
    return Process(
        cast("Engine", engine),
        "container",
        ["cat", "/large"],
        env={},
        user=None,
        workdir=None,
        stdin=False,
        killable=False,
        most=most,
    )


@pytest.mark.parametrize("most", [None, 1000])
def test_output_that_may_be_held(most: int | None) -> None:
    result = process(most).communicate()
    assert (result.exit_code, len(result.stdout), len(result.stderr)) == (0, 600, 400)


def test_more_output_than_may_be_held() -> None:
    with pytest.raises(UsageError, match="cat /large wrote more than"):
        process(999).communicate()
