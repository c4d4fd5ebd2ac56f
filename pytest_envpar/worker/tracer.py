"""Which coverage.py measures inside a stage, and with what tracer.

The image's own, if it has one. Otherwise the host's, if it supports the image's Python, or else the newest that does,
below a private name (see :mod:`~pytest_envpar.worker.agent.tracing`). Its tracer in C is the host's where both sides
have the same ABI; else pip brings the wheel for the image's, once. Where that cannot be had, coverage.py still works,
slowly, by a tracer in Python.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import zipfile
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.create import Mount
from pytest_envpar.errors import StageError
from pytest_envpar.worker import cache
from pytest_envpar.worker.agent import tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.worker.probe import Probe

ROOT = PurePosixPath("/.envpar/coverage")
"""Where the volume is mounted, read-only."""

PRIVATE = tracing.PRIVATE
"""The package that holds it."""

OLDEST = "6.0"
"""The oldest coverage.py of an image that is used."""

_FORMAT = 1
_VOLUME_PREFIX = "pytest-envpar-coverage-"
_MAX_WHEEL_BYTES = 64 << 20
# The last releases that support a Python which the host's one may have dropped.
_PINS: Mapping[tuple[int, int], str] = MappingProxyType(
    {(3, 8): "7.6.1", (3, 9): "7.10.7", (3, 10): "7.16.2"}
)
_SOABI = re.compile(r"cpython-(?P<version>3\d+)(?P<threads>t?)-(?P<machine>\w+)-linux-(?P<libc>gnu|musl)\w*")
_PLATFORMS = MappingProxyType(
    {
        "gnu": ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1"),
        "musl": ("musllinux_1_2", "musllinux_1_1"),
    }
)


@dataclasses.dataclass(frozen=True)
class Tracer:
    """A coverage.py inside.

    Args:
        version: Its version.
        volume: Where it is, if we bring it; ``None`` for the image's own.
        compiled: Whether one that we bring has its tracer in C.
    """

    version: str
    volume: str | None = None
    compiled: bool = True

    @property
    def mount(self) -> Mount | None:
        """The mount that a container needs."""
        if self.volume is None:
            return None
        return Mount(kind="volume", source=self.volume, target=ROOT, read_only=True)


def ensure(
    engine: Engine,
    image: ImageInfo,
    probe: Probe,
    stage: Stage,
    owner: Owner,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Tracer:
    """Have a coverage.py for the stage.

    Args:
        cache_dir: Where fetched wheels, stamps and locks are kept (host).

    Raises:
        StageError: There is none for the image's Python, or it cannot be fetched.
        EngineError: The engine failed.
    """
    if _is_usable(probe.coverage_version):
        return Tracer(str(probe.coverage_version))
    from pytest_envpar.worker import dists, vendor
    from pytest_envpar.worker import volume as volumes

    host = dists.supported_version("coverage", probe.version)
    version = host or _PINS.get(probe.version[:2])
    if version is None:
        raise StageError(
            f"Stage {stage.name}: this machine's coverage.py does not support Python "
            f"{'.'.join(map(str, probe.version))} of the image, which has none of its own.",
            hint="install coverage in the image",
        )
    wheel = None
    compiled = host is not None and _host_tracer(probe).is_file()
    if not compiled:
        wheel = _wheel(version, probe, cache_dir, progress)
        compiled = wheel is not None
    if wheel is None and host is None:
        raise StageError(
            f"Stage {stage.name}: coverage {version} for Python {'.'.join(map(str, probe.version))} of the image "
            "could not be fetched with pip, and the image has none of its own.",
            hint="install coverage in the image, or run once with pip and a package index at hand (it is kept)",
        )
    key = cache.digest(
        str(_FORMAT),
        version,
        probe.soabi if compiled else "",
        probe.cache_tag,
        probe.magic,
        str(os.getuid()),
    )
    made = Tracer(version, _VOLUME_PREFIX + key[:16], compiled)

    def tar(incoming: str) -> bytes:
        if progress is not None:
            progress(f"preparing coverage {version} for Python {probe.version[0]}.{probe.version[1]} (once)")
        files = _host_files(probe) if wheel is None else _wheel_files(wheel)
        sources = {path: content for path, content in files.items() if path.suffix == ".py"}
        try:
            site = vendor.private_package(sources, "coverage", PRIVATE)
        except vendor.RewriteError as error:
            raise StageError(
                f"coverage {version} cannot be prepared for an image without it.",
                hint="install coverage in the image",
                detail=(str(error),),
            ) from error
        site.update(
            {PurePosixPath(PRIVATE, path): content for path, content in files.items() if path not in sources}
        )
        return volumes.packed({PurePosixPath(incoming, path): content for path, content in site.items()}, {})

    filler = volumes.Filler(engine, image, probe, stage, owner, cache_dir)
    filler.ensure(str(made.volume), key, ROOT, tar)
    return made


def _is_usable(version: str | None) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return version is not None and Version(version) >= Version(OLDEST)
    except InvalidVersion:
        return False


def _host_root() -> Path:
    return Path(str(importlib.metadata.distribution("coverage").locate_file("coverage")))


def _host_tracer(probe: Probe) -> Path:
    """Where the host has a tracer for this ABI, if it has one."""
    return _host_root() / f"tracer.{probe.soabi or 'none'}.so"


def _host_files(probe: Probe) -> dict[PurePosixPath, bytes]:
    root = _host_root()
    tracer = _host_tracer(probe)
    found = [*sorted(root.rglob("*.py")), *([tracer] if tracer.is_file() else [])]
    return {PurePosixPath("coverage", path.relative_to(root).as_posix()): path.read_bytes() for path in found}


def _wheel_files(wheel: Path) -> dict[PurePosixPath, bytes]:
    files: dict[PurePosixPath, bytes] = {}
    total = 0
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            # Nothing is extracted by its own path; this keeps odd names out of the tar that we write.
            if path.suffix not in (".py", ".so") or path.parts[0] != "coverage" or ".." in path.parts:
                continue
            total += member.file_size
            if total > _MAX_WHEEL_BYTES:
                raise StageError(f"{wheel.name} unpacks to more than {_MAX_WHEEL_BYTES >> 20} MiB.")
            files[path] = archive.read(member)
    return files


def _wheel(version: str, probe: Probe, cache_dir: Path, progress: Progress | None) -> Path | None:
    """The wheel with a tracer for the image's ABI, fetched by pip if it is not kept; None if it cannot be had."""
    abi = _SOABI.fullmatch(probe.soabi)
    if probe.implementation != "cpython" or abi is None:
        return None
    from pytest_envpar.worker import dists

    folder = cache_dir / "wheels" / probe.soabi
    found = _kept(folder, version)
    if found is not None:
        return found
    if progress is not None:
        progress(f"fetching coverage=={version} for Python {probe.version[0]}.{probe.version[1]} with pip")
    tags = ["--implementation", "cp", "--abi", f"cp{abi['version']}{abi['threads']}"]
    for platform in _PLATFORMS[abi["libc"]]:
        tags += ["--platform", f"{platform}_{abi['machine']}"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dists.download([f"coverage=={version}"], probe.version, folder, tuple(tags))
    except (dists.FetchError, OSError):
        return None
    return _kept(folder, version)


def _kept(folder: Path, version: str) -> Path | None:
    for wheel in sorted(folder.glob(f"coverage-{version}-*.whl")):
        if zipfile.is_zipfile(wheel):
            return wheel
    return None
