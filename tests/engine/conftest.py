"""Real engines for the tests, and the proof that nothing of ours stays on them.

Without an engine these tests skip on a user's machine and fail where ``CI`` is set.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from rig import needs
from rig.engines import OWN, VIRTUAL, connected, podman_settings

from pytest_envpar.containers.labels import CACHE, KIND, RUN, Owner
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def engine_environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment for engines, with settings for Podman where its own defaults fail."""
    return {**os.environ, **podman_settings(tmp_path_factory.mktemp("podman"))}


@pytest.fixture(scope="session", params=[*OWN, *VIRTUAL])
def engine(request: pytest.FixtureRequest, engine_environ: Mapping[str, str]) -> Iterator[Engine]:
    """A real engine: the Docker daemon of this machine, a Podman service of our own, and those of a virtual machine."""
    with contextlib.closing(connected(request.param, engine_environ)) as made:
        yield made
        left = [key for key, labels in _labelled(made).items() if labels.get(RUN) == _RUN]
        assert not left, f"left behind on {request.param}: {left}"


@pytest.fixture
def sees_files(request: pytest.FixtureRequest, engine: Engine) -> None:
    """The engine mounts files of this process; one in a virtual machine has none of them."""
    if request.node.callspec.params["engine"] in VIRTUAL:
        pytest.skip("an engine of another machine does not see the files of this one")
    assert engine.info.local


class Elsewhere:
    """An engine whose files this process cannot read, as on another machine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def image_folders(self, _: str) -> None:
        return None

    def layer_folders(self, _: str) -> None:
        return None


@pytest.fixture(scope="session")
def elsewhere(engine: Engine) -> Engine:
    """The engine as it is seen from another machine."""
    return cast("Engine", Elsewhere(engine))


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The id of a Debian image with Python 3.11."""
    image = engine.inspect_image(needs.base_image(engine))
    assert image is not None
    return image.id


@pytest.fixture(scope="session")
def run_labels() -> Mapping[str, str]:
    """Labels for everything that these tests make."""
    return Owner.current(Path(__file__).parent, run=_RUN).labels("run")


@pytest.fixture
def create(
    engine: Engine,
    base_image: str,
    run_labels: Mapping[str, str],
    volume: object,
) -> Iterator[Callable[..., str]]:
    """``create(*command, **spec)`` creates a container that is removed after the test, before the volumes."""
    made: list[str] = []

    def create(*command: str, **spec: object) -> str:
        values: dict[str, object] = {"image": base_image, "labels": run_labels, "network": "none", **spec}
        container = engine.create_container(ContainerSpec(command=command, **values))  # type: ignore[arg-type]
        made.append(container)
        return container

    yield create
    for container in made:
        engine.remove_container(container)


@pytest.fixture
def volume(engine: Engine, run_labels: Mapping[str, str]) -> Iterator[Callable[..., tuple[str, str]]]:
    """``volume(**options)`` creates a volume that is removed after the test: its name and mount point."""
    made: list[str] = []

    def create(**options: str) -> tuple[str, str]:
        name = f"envpar-test-{secrets.token_hex(6)}"
        made.append(name)
        return name, str(engine.create_volume(name, labels=run_labels, options=options))

    yield create
    for name in reversed(made):
        engine.remove_volume(name)


_RUN = f"test-{secrets.token_hex(6)}"


def _labelled(engine: Engine) -> dict[str, Mapping[str, str]]:
    """Everything of ours on the engine except caches."""
    wanted = {KIND: ""}
    found: dict[str, Mapping[str, str]] = {}
    for what, listing in (
        ("container", engine.list_containers),
        ("image", engine.list_images),
        ("volume", engine.list_volumes),
        ("network", engine.list_networks),
    ):
        try:
            listed = listing(wanted)
        except EnvparError:
            # Podman cannot list networks without network plugins; then it cannot make one either.
            if what != "network":
                raise
            continue
        for item in listed:
            if item.labels.get(KIND) != CACHE:
                found[f"{what} {item.name or item.id}"] = item.labels
    return found
