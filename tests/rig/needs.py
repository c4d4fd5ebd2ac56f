"""What a test needs of its machine."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, NoReturn

import pytest
from provision import SetupError
from provision import registry as provided
from provision.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

BASE_IMAGES = ("envpar-base:py3.11", "base:bookworm", "python:3.11-slim")
"""The names under which a Debian image with Python 3.11 is looked for."""


def missing(what: str) -> NoReturn:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what, allow_module_level=True)


def module(name: str) -> None:
    """Go on only where this module can be imported."""
    if importlib.util.find_spec(name) is None:
        missing(f"no module {name}")


def base_image(engine: Engine) -> str:
    """The name of a Debian image with Python 3.11 and without pytest."""
    for name in BASE_IMAGES:
        if engine.inspect_image(name) is not None:
            return name
    missing(f"none of {', '.join(BASE_IMAGES)} on {engine.info.kind}; run fixtures/setup_engine.py")


def images(engine: Engine, names: Iterable[str]) -> None:
    """Go on only where the engine has all of these."""
    for name in names:
        if engine.inspect_image(name) is None:
            missing(f"no image {name}; run fixtures/setup_engine.py")


def registry_program() -> Path:
    """The program of a registry, fetched on first use."""
    try:
        return provided.ensure(Machine.this(say=lambda _: None))
    except SetupError as error:
        missing("\n".join(error.lines()))
