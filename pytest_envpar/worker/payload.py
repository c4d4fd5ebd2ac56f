"""What we bring into a container: the agent and, where the image has none, pytest.

It lies in a named volume that every container of a stage mounts read-only at :data:`ROOT`::

    _envpar_agent/     the agent's sources
    site/              pytest, _pytest, py.py, _envpar_deps (and exceptiongroup below Python 3.11)
    first/             links to the pytest of site/, to go in front of an image's own pytest
    complete.json      written last

A volume is filled once per content and image Python, with bytecode made by that Python. The bytecode is of
the unchecked kind: nothing here ever changes, so no source file is looked at when pytest is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sys
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.containers.labels import Owner
from pytest_envpar.engine.values.create import Mount
from pytest_envpar.errors import StageError
from pytest_envpar.worker import cache, volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.model import Agent, Stage
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.worker import dists
    from pytest_envpar.worker.probe import Probe

ROOT = PurePosixPath("/.envpar/agent")
"""Where the volume is mounted, read-only."""

AGENT = ROOT / "_envpar_agent"
"""The agent's package."""

OLDEST_PYTEST = "7.0"
"""The oldest pytest of an image that the agent works with."""

VOLUME_PREFIX = "pytest-envpar-agent-"

# Part of every key: raise it when the layout of a volume or the rewriting changes.
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Payload:
    """What to mount and what to put on ``sys.path`` inside.

    Args:
        volume: The volume's name.
        mode: ``image`` if the image's own pytest runs, ``inject`` if ours does.
        pytest_version: The pytest that runs.
        site: To be appended to ``sys.path`` of the test process; ``None`` in mode ``image``.
        first: To be put in front of ``sys.path``, because the image has another pytest; usually ``None``.
        deps: What is brought in beside pytest, version by distribution name.
    """

    volume: str
    mode: Literal["image", "inject"]
    pytest_version: str
    site: PurePosixPath | None = None
    first: PurePosixPath | None = None
    deps: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def mount(self) -> Mount:
        """The mount that a container needs."""
        return Mount(kind="volume", source=self.volume, target=ROOT, read_only=True)


def ensure(
    engine: Engine,
    image: ImageInfo,
    probe: Probe,
    agent: Agent,
    cache_dir: Path,
    progress: Progress | None = None,
    *,
    stage: Stage | None = None,
    owner: Owner | None = None,
) -> Payload:
    """Make sure that the volume for this image exists and is filled; a warm call only inspects it.

    Args:
        image: Whose Python makes the bytecode.
        agent: Which pytest is wanted: ``auto`` takes the image's own if it is new enough.
        cache_dir: Where built trees, fetched wheels, stamps and locks are kept (host).
        stage: Its platform and runtime are used, and its name in errors.
        owner: Who owns the short-lived container that fills the volume; this process if not given.

    Raises:
        StageError: The image lacks the pytest that is asked for, or an older pytest cannot be fetched.
        EngineError: The engine failed, or the volume could not be filled.
    """
    warm = cache_dir / "payloads" / f"{_warm_key(engine, probe, agent)}.json"
    known = _parse(cache.load(warm, _FORMAT))
    if known is not None and engine.inspect_volume(known.volume) is not None:
        return known
    payload = _ensure(engine, image, probe, agent, cache_dir, progress, stage, owner)
    cache.store(warm, _FORMAT, _as_json(payload))
    return payload


def _warm_key(engine: Engine, probe: Probe, agent: Agent) -> str:
    """Changes whenever the answer could: reads no package and no metadata, only when folders last changed.

    Installing or removing a distribution changes the folder that holds it.
    """
    agent_folder = Path(__file__).parent / "agent"
    stamps = [
        (str(path), status.st_mtime_ns, status.st_size)
        for path in (*sorted(agent_folder.rglob("*.py")), Path(__file__).parents[1] / "errors.py")
        for status in (path.stat(),)
    ]
    for folder in sys.path:
        try:
            stamps.append((folder, Path(folder or ".").stat().st_mtime_ns, 0))
        except OSError:
            stamps.append((folder, 0, 0))
    inside = [list(probe.version), probe.cache_tag, probe.magic, probe.pytest_version]
    place = [engine.info.id or engine.info.url, os.getuid(), sys.version, agent]
    return cache.digest(json.dumps([_FORMAT, stamps, inside, place]))


def _as_json(payload: Payload) -> dict[str, Any]:
    plain = {"volume": payload.volume, "mode": payload.mode, "pytest": payload.pytest_version}
    return {**plain, "first": payload.first is not None, "deps": dict(payload.deps)}


def _parse(data: Mapping[str, Any] | None) -> Payload | None:
    """A payload as the cache has it; None for anything unexpected."""
    if data is None:
        return None
    mode, deps = data.get("mode"), data.get("deps")
    texts = (data.get("volume"), data.get("pytest"))
    if (
        mode not in ("image", "inject")
        or not isinstance(deps, dict)
        or not all(isinstance(t, str) for t in texts)
    ):
        return None
    return Payload(
        str(texts[0]),
        mode,
        str(texts[1]),
        site=ROOT / "site" if mode == "inject" else None,
        first=ROOT / "first" if data.get("first") is True else None,
        deps=MappingProxyType({str(name): str(version) for name, version in deps.items()}),
    )


def _ensure(
    engine: Engine,
    image: ImageInfo,
    probe: Probe,
    agent: Agent,
    cache_dir: Path,
    progress: Progress | None,
    stage: Stage | None,
    owner: Owner | None,
) -> Payload:
    from pytest_envpar.worker import dists

    if _mode(probe, agent, image, stage) == "image":
        payload = Payload("", "image", str(probe.pytest_version))
        choice = None
    else:
        choice = dists.choose(probe.version)
        payload = Payload(
            "",
            "inject",
            choice.versions["pytest"],
            site=ROOT / "site",
            first=ROOT / "first" if probe.pytest_version is not None else None,
            deps=MappingProxyType(
                {name: version for name, version in choice.versions.items() if name != "pytest"}
            ),
        )
    content = _content_key(choice)
    # Each user of an engine has volumes of their own: what one filled need not be trusted by another.
    key = cache.digest(content, probe.cache_tag, probe.magic, str(os.getuid()))
    payload = dataclasses.replace(payload, volume=VOLUME_PREFIX + key[:16])

    def tar(incoming: str) -> bytes:
        if progress is not None:
            brought = f"pytest {payload.pytest_version}" if choice is not None else "the agent"
            progress(f"preparing {brought} for Python {probe.version[0]}.{probe.version[1]} (once)")
        return _content(choice, probe, cache_dir, progress, incoming)

    filler = volume.Filler(engine, image, probe, stage, owner or Owner.current(Path.cwd()), cache_dir)
    filler.ensure(payload.volume, key, ROOT, tar)
    return payload


def _mode(probe: Probe, agent: Agent, image: ImageInfo, stage: Stage | None) -> Literal["image", "inject"]:
    if agent == "inject":
        return "inject"
    if probe.pytest_version is not None:
        from packaging.version import InvalidVersion, Version

        try:
            usable = Version(probe.pytest_version) >= Version(OLDEST_PYTEST)
        except InvalidVersion:
            usable = False
        if usable:
            return "image"
    if agent == "auto":
        return "inject"
    has = f"pytest {probe.pytest_version}" if probe.pytest_version is not None else "no pytest"
    name = image.tags[0] if image.tags else image.id
    where = f"Stage {stage.name}: " if stage is not None else ""
    raise StageError(
        f'{where}agent = "image" asks for the image\'s own pytest ({OLDEST_PYTEST} or newer), '
        f"but {probe.python} in image {name} has {has}.",
        hint=f'install pytest {OLDEST_PYTEST} or newer in the image, or set agent = "auto"',
    )


def _content_key(choice: dists.Choice | None) -> str:
    """Names the content without building it: the agent's own sources, and the versions of the rest."""
    sources = hashlib.sha256()
    for path, source in sorted(_agent_sources().items()):
        sources.update(f"{path}\0{len(source)}\0".encode() + source)
    versions = json.dumps(sorted(choice.versions.items())) if choice is not None else ""
    return cache.digest(str(_FORMAT), sources.hexdigest(), versions)


def _agent_sources() -> dict[PurePosixPath, bytes]:
    import importlib.resources

    found: dict[PurePosixPath, bytes] = {}
    todo = [(importlib.resources.files("pytest_envpar.worker.agent"), PurePosixPath(AGENT.name))]
    while todo:
        folder, below = todo.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                todo.append((entry, below / entry.name))
            elif entry.name.endswith(".py"):
                found[below / entry.name] = entry.read_bytes()
    # The same errors on both sides; the module needs nothing and no newer Python than the agent.
    found[PurePosixPath(AGENT.name, "errors.py")] = (
        importlib.resources.files("pytest_envpar").joinpath("errors.py").read_bytes()
    )
    return found


def _content(
    choice: dists.Choice | None, probe: Probe, cache_dir: Path, progress: Progress | None, folder: str
) -> bytes:
    """Everything that goes into the volume as a tar, below ``folder``."""
    from pytest_envpar.worker import vendor

    files = _agent_sources()
    links: dict[PurePosixPath, str] = {}
    if choice is not None:
        site = _site(choice, probe, cache_dir, progress)
        files.update({PurePosixPath("site", path): source for path, source in site.items()})
        for name in ("pytest", "_pytest", vendor.PRIVATE):
            links[PurePosixPath("first", name)] = f"../site/{name}"
    return volume.packed(
        {PurePosixPath(folder, path): source for path, source in files.items()},
        {PurePosixPath(folder, path): target for path, target in links.items()},
    )


def _site(
    choice: dists.Choice, probe: Probe, cache_dir: Path, progress: Progress | None
) -> dict[PurePosixPath, bytes]:
    """The rewritten pytest, made once per set of versions and kept as a tar with a checksum."""
    from pytest_envpar.worker import dists, vendor

    key = cache.digest(str(_FORMAT), json.dumps(sorted(choice.versions.items())))
    place = cache_dir / "trees" / f"{key}.tar"
    try:
        kept = place.read_bytes()
        if hashlib.sha256(kept).hexdigest() == place.with_suffix(".sha256").read_text(encoding="ascii"):
            return _untar(kept)
    except (OSError, ValueError):
        pass
    found = dists.sources(choice, probe.version, cache_dir, progress)
    try:
        site = vendor.private_site(found, choice.versions)
    except vendor.RewriteError as error:
        raise StageError(
            f"pytest {choice.versions['pytest']} cannot be prepared for an image without pytest.",
            hint="install pytest in the image",
            detail=(str(error),),
        ) from error
    tar = volume.packed(site, {})
    # A cache that cannot be written costs time again, no more.
    with contextlib.suppress(OSError):
        cache.write(place, tar)
        cache.write(place.with_suffix(".sha256"), hashlib.sha256(tar).hexdigest().encode())
    return site


def _untar(tar: bytes) -> dict[PurePosixPath, bytes]:
    import tarfile

    files: dict[PurePosixPath, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if (content := archive.extractfile(member)) is not None:
                files[PurePosixPath(member.name)] = content.read()
    return files
