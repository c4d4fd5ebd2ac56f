"""Where the bytecode of a project's tests is kept between runs: a cache volume beside the agent's.

In a container that starts afresh every run would rewrite the assertions of every test module again, which costs more
than many suites take. The volume is the project's, the host user's and the image Python's own; entries are pytest's
own files, which name the time and the size of their source. A project that is copied into the container has none.
When the project is gone, the user's next run removes it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.containers.labels import BYTECODE
from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import EngineError
from pytest_envpar.worker import cache

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.containers.source import SourcePlan
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.worker.probe import Probe

ROOT = PurePosixPath("/.envpar/bytecode")
"""Where the volume is mounted, writable."""

_FORMAT = 1
_TIMEOUT_S = 60.0


def mount(
    engine: Engine, image: ImageInfo, probe: Probe, plan: SourcePlan, owner: Owner, cache_dir: Path
) -> Mount | None:
    """The mount of the project's bytecode cache; ``None`` where there is none to be had.

    Args:
        image: The stage's image, whose Python makes the volume writable for other users than root.
        cache_dir: Where it is noted that this was done (host).

    Raises:
        EngineError: The engine failed.
    """
    if plan.mode == "copy":
        return None
    key = cache.digest(
        str(plan.host_root), str(plan.container_root), probe.magic, str(probe.uid), str(owner.uid)
    )
    name = BYTECODE + key[:16]
    labels = owner.labels("cache")
    if probe.uid != 0:
        stamp = cache_dir / "volumes" / f"{cache.digest(engine.info.id or engine.info.url, name)}.json"
        if cache.load(stamp, _FORMAT) is None or engine.inspect_volume(name) is None:
            engine.create_volume(name, labels=labels)
            if not _open(engine, image, probe, name, owner):
                return None
            cache.store(stamp, _FORMAT, {"volume": name})
    else:
        engine.create_volume(name, labels=labels)
    return Mount(kind="volume", source=name, target=ROOT)


def _open(engine: Engine, image: ImageInfo, probe: Probe, name: str, owner: Owner) -> bool:
    """A new volume belongs to root: let the container's user write."""
    from pytest_envpar.worker import oneshot

    spec = ContainerSpec(
        image=image.id,
        entrypoint=(str(probe.python),),
        command=("-c", f"import os; os.chmod({str(ROOT)!r}, 0o1777)"),
        labels=owner.labels("probe"),
        user="0:0",
        network="none",
        mounts=(Mount(kind="volume", source=name, target=ROOT),),
    )
    try:
        return oneshot.run(engine, spec, timeout_s=_TIMEOUT_S).exit_code == 0
    except EngineError:
        return False  # an engine that allows no root inside: the suite runs without the cache
