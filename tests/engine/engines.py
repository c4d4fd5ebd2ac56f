"""Marks for tests whose second engine costs more than it tells."""

from __future__ import annotations

import pytest
from rig.engines import VIRTUAL

DOCKER_FIRST = pytest.mark.parametrize(
    "engine", ["docker", pytest.param("podman", marks=pytest.mark.slow), *VIRTUAL], indirect=True
)
"""This machine's Podman only in the full run: a quick test shows the same of it."""
