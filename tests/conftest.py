"""Fixtures of all tests; the engine ring has its own in ``tests/engine/conftest.py``."""

from __future__ import annotations

pytest_plugins = ["pytester"]
