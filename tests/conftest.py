"""Fixtures of all tests; each ring has its own beside its tests."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from rig.engines import connected, podman_settings
from rig.hosts import clean_environ
from rig.leftovers import Leftovers
from rig.runs import stop_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

    from pytest_envpar.engine.api import Engine

pytest_plugins = ["pytester"]
# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("any time", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("any time")


def pytest_configure(config: pytest.Config) -> None:
    """In CI, one look at the engines before all tests and one after."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="envpar-tests-")
        config.add_cleanup(folder.cleanup)
        config.pluginmanager.register(Leftovers(Path(folder.name)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Where a test fails before it has seen the end of a host process, that ends too, before its fixtures look for
    what is left."""
    stop_all()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """The same where a test is interrupted: fixtures end after this."""
    stop_all()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Spread the tests over workers in our own way."""
    # Without pytest-xdist nothing of this module's may be imported.
    from rig.spread import Rings

    return Rings(config, log)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of hosts: nothing of this session's pytest or of CI, one cache for all, a Podman that works."""
    return {
        **clean_environ(tmp_path_factory.mktemp("cache")),
        **podman_settings(tmp_path_factory.mktemp("podman")),
    }


@pytest.fixture(scope="session")
def docker(environ: Mapping[str, str]) -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    with contextlib.closing(connected("docker", environ)) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman(environ: Mapping[str, str]) -> Iterator[Engine]:
    """A Podman service that the tests look through; the runs start their own."""
    with contextlib.closing(connected("podman", environ)) as engine:
        yield engine
