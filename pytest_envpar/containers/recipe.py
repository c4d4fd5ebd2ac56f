"""Everything that it takes to start one more container like another."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.containers.handle import Container
from pytest_envpar.containers.lifecycle import start_container

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.handle import Comparer
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.containers.source import SourcePlan
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.create import Mount
    from pytest_envpar.images.pinned import PinnedImage


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How containers of one kind are started.

    Args:
        stage: Every key of it that says how a container is run is applied.
        named: The stage's name for those who ask; ``None`` for a plain image.
        command: What runs as the main process; empty for what the image says.
        plan: How the project gets in; ``None`` leaves it out.
        mounts: More mounts.
        env: Added to the stage's ``env``, ``pass-env`` resolved.
        ports: Published on the loopback address, as ``5432/tcp``.
        ids: uid and gid of the container's user, who owns the files that are written.
        comparer: Compares file systems; without one that is refused.
        remember: Told of each checkpoint.
        begun: Told of each container that was started, so that it has an owner whoever asked for it.
        network: That of the stage's services; see :func:`~pytest_envpar.containers.lifecycle.start_container`.
    """

    engine: Engine
    image: PinnedImage
    stage: Stage
    owner: Owner
    named: str | None = None
    command: tuple[str, ...] = ()
    plan: SourcePlan | None = None
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    ports: tuple[str, ...] = ()
    ids: tuple[int, int] = (0, 0)
    comparer: Comparer | None = None
    remember: Callable[[Checkpoint], None] | None = None
    begun: Callable[[Container], None] | None = None
    network: str | None = None

    def start(self) -> Container:
        """Start one more container; if any step fails, nothing is left.

        Raises:
            StageError: The image or a key of the stage makes the container impossible.
            EngineError: The engine failed.
        """
        running = start_container(
            self.engine,
            self.image,
            self.stage,
            owner=self.owner,
            command=self.command,
            source_plan=self.plan,
            mounts=self.mounts,
            env=self.env,
            ports=self.ports,
            stdin=False,
            attach=False,
            network=self.network,
        )
        container = Container(self, running)
        if self.begun is not None:
            self.begun(container)
        return container
