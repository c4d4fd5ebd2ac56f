"""Real engines: the Docker daemon of this machine, a Podman service of the tests' own, and what is left on them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import OurObject, list_ours
from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

from .needs import missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.engine.api import Engine

DOCKER = "unix:///var/run/docker.sock"
HERE = {
    "docker": Candidate("docker socket", DOCKER),
    "podman": Candidate("podman system service", ""),
}
"""Where the engines of this machine are, by their names."""
OWN = tuple(HERE)


def _virtual(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in text.split(",") if each]
    for name, _, url in pairs:
        if not name or not url:
            raise pytest.UsageError(
                f"ENVPAR_VIRTUAL={text}: expected NAME=URL, several with commas between them"
            )
        if name in OWN:
            # The tests would run on one of the two, and be told as if they had run on both.
            raise pytest.UsageError(f"ENVPAR_VIRTUAL={text}: {name} is an engine of this machine")
    return {name: url for name, _, url in pairs}


VIRTUAL = _virtual(os.environ.get("ENVPAR_VIRTUAL", ""))
"""Engines beside those of this machine: their URLs by their names, from ``fixtures/virtual_engine.py``."""

_PODMAN_NOFILE = 1 << 20


def connected(name: str, environ: Mapping[str, str]) -> Engine:
    """The engine ``docker`` or ``podman`` of this machine, or one of ``VIRTUAL``; whoever asks closes it."""
    candidate = HERE.get(name) or Candidate("ENVPAR_VIRTUAL", VIRTUAL[name])
    try:
        return connect(candidate, environ)
    except EngineError as error:
        missing(f"no {name}: {error}")


def podman_settings(folder: Path) -> dict[str, str]:
    """Variables for Podman where its own defaults fail; the file that they name is in ``folder``."""
    lines: list[str] = []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < _PODMAN_NOFILE:
        # Soft and hard are equal because the service of Podman 4.3 mixes the two up.
        limit = min(4096, hard)
        lines += ["[containers]", f'default_ulimits = ["nofile={limit}:{limit}", "nproc=4096:4096"]']
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        lines += ["[engine]", 'runtime = "runc"']
    if not lines:
        return {}
    file = folder / "containers.conf"
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return {"CONTAINERS_CONF": str(file)}


def left(engine: Engine, root: Path, *, images: bool = False) -> list[OurObject]:
    """What is on an engine of the project in ``root``, apart from caches.

    Args:
        images: Whether images count that its runs have built.
    """
    mine = [each for each in list_ours(engine) if each.project == str(root) and each.state != "cache"]
    return [each for each in mine if images or each.kind != "image"]
