"""Marks for tests whose second engine costs more than it tells."""

from __future__ import annotations

import pytest

DOCKER_FIRST = pytest.mark.parametrize(
    "engine", ["docker", pytest.param("podman", marks=pytest.mark.slow)], indirect=True
)
"""Podman only in the full run: a quick test shows the same of it."""
