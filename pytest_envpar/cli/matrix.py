"""``envpar matrix``: the stages as a matrix for CI, one job each."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_envpar.cli import FINE
from pytest_envpar.cli.lock import project
from pytest_envpar.config import check_stage, get_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.config.model import Stage

JSON_VERSION = 1


def matrix(form: str, names: Sequence[str]) -> int:
    """Write a row per stage, in the order of the configuration; returns the exit code.

    Args:
        form: ``json``, in one line, fit for a variable of a CI system, or ``text``.
        names: The stages; all of them by default.

    Raises:
        UsageError: There is no such stage, or its configuration is wrong.
    """
    settings = project()
    stages = [get_stage(settings, name) for name in names or settings.stages]
    for stage in stages:
        check_stage(stage)
    rows = [_row(stage) for stage in stages]
    if form == "json":
        sys.stdout.write(json.dumps({"version": JSON_VERSION, "include": rows}) + "\n")
    else:
        for row in rows:
            sys.stdout.write(f"{row['stage']}  {row['image'] or '(build)'}  {row['args']}\n")
    return FINE


def _row(stage: Stage) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "args": f"--env={stage.name}",
        "image": stage.image,
        "platform": stage.platform,
    }
