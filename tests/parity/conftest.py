"""What the comparisons need: an engine, a base image, and a local Python like the one inside."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from rig.needs import BASE_IMAGES, missing

from pytest_envpar.engine.select import select_engine
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER_IMAGES = ("envpar-base:py3.9", "envpar-base:py3.13", "envpar-base:py3.14")


@pytest.fixture(scope="session")
def image() -> Callable[..., str]:
    """``image(*references)`` returns the first that is on the engine."""
    try:
        engine = select_engine(("auto",), dict(os.environ))
    except EngineError as error:
        missing(f"no engine: {error}")
    with contextlib.closing(engine):
        known = [name for name in (*BASE_IMAGES, *OTHER_IMAGES) if engine.inspect_image(name) is not None]

    def image(*references: str) -> str:
        found = next((name for name in references if name in known), None)
        if found is None:
            missing(f"none of {', '.join(references)}; run fixtures/setup_engine.py")
        return found

    return image


@pytest.fixture(scope="session")
def base_image(image: Callable[..., str]) -> str:
    """The reference of an image with Python 3.11."""
    return image(*BASE_IMAGES)


def pytest_configure(config: pytest.Config) -> None:
    """The marker of what runs on demand only."""
    config.addinivalue_line("markers", "full: part of the large set, on demand: ENVPAR_FULL=1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the large set out, except where it is asked for."""
    if os.environ.get("ENVPAR_FULL"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
