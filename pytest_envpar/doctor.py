"""What works on this machine, what does not, and the exact fix. Pure data: the command line shows it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.engine import select
from pytest_envpar.engine.docker_api import MINIMUM_API
from pytest_envpar.engine.translate import redacted
from pytest_envpar.errors import EngineError, EnvparError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.engine.values.engine import EngineInfo

_LOW_DISK_BYTES = 2 << 30
_JSON_VERSION = 1
_OLDEST_PYTHON = (3, 10)
_OLDEST_PYTEST = 8

State = Literal["ok", "warn", "missing"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What was looked at.
        state: ``ok``; ``warn`` (works less well, or one of several that is not there); ``missing`` (nothing
            works without it).
        detail: What was found.
        fix: What to do; ``None`` if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    fix: str | None = None


def run_checks(environ: Mapping[str, str], engines: Sequence[str] = ("auto",)) -> list[Check]:
    """Look at everything that a run needs.

    Args:
        environ: The user's environment; it decides which engines are candidates.
        engines: What the configuration says; of a pool each has to answer.

    Returns:
        The checks, in the order in which they are to be shown. The first is about engines as a whole.
    """
    checks, infos = _engines(environ, engines)
    return [*checks, _overlay(infos), _podman(environ), _disk(infos), _python(), _pytest()]


def worst(checks: Sequence[Check]) -> State:
    """The worst state of all."""
    order: tuple[State, ...] = ("ok", "warn", "missing")
    return max((check.state for check in checks), key=order.index, default="ok")


def render_table(checks: Sequence[Check]) -> list[str]:
    """The checks as aligned lines of text; each fix stands below its check."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check.state:<7}  {check.name:<{width}}  {check.detail}")
        if check.fix is not None:
            lines.append(f"{'':<7}  {'':<{width}}  fix: {check.fix}")
    return lines


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as an object for ``--format json``."""
    return {
        "version": _JSON_VERSION,
        "state": worst(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _engines(environ: Mapping[str, str], engines: Sequence[str]) -> tuple[list[Check], list[EngineInfo]]:
    """Every candidate of what is configured, and one line that says which one a run would take."""
    checks: list[Check] = []
    infos: list[EngineInfo] = []
    failed: list[tuple[select.Candidate, EnvparError]] = []
    for candidate in select.candidates(engines, environ):
        name = f"engine: {redacted(candidate.name)}"
        try:
            engine = select.connect(candidate, environ)
        except (EngineError, UsageError) as error:
            failed.append((candidate, error))
            why = " / ".join([select.reason(error), *error.detail])
            where = f"{redacted(candidate.url)}: " if candidate.url else ""
            checks.append(Check(name, "warn", where + why, error.hint))
            continue
        infos.append(engine.info)
        engine.close()
        checks.append(Check(name, "ok", _described(engine.info)))
    if len(engines) > 1 and infos:
        what = f"a pool of {len(engines)} engines, of which {len(infos)} answer"
        first = Check("engine", "ok" if len(infos) == len(engines) else "warn", what)
    elif infos:
        first = Check("engine", "ok", f"a run uses {infos[0].kind} {infos[0].version} at {infos[0].url}")
    else:
        first = Check("engine", "missing", "no container engine answers", select.way_out(failed, environ))
    return [first, *checks], infos


def _described(info: EngineInfo) -> str:
    return (
        f"{info.kind} {info.version} at {info.url}, API {info.api_version}"
        f" ({'.'.join(map(str, MINIMUM_API))} or newer is needed), {info.os}/{info.architecture},"
        f" cgroup v{info.cgroup_version}, {'rootless' if info.rootless else 'as root'},"
        f" {'local' if info.local else 'remote'}"
    )


def _overlay(infos: Sequence[EngineInfo]) -> Check:
    if not infos:
        return Check("overlay", "warn", "unknown without an engine")
    info = infos[0]
    if info.native_overlay or (info.kind == "podman" and info.local):
        return Check(
            "overlay", "ok", 'source = "overlay": the project is writable inside and untouched outside'
        )
    cause = (
        "is rootless" if info.rootless else "is not on this machine" if not info.local else "has no overlay"
    )
    return Check("overlay", "warn", f'the engine {cause}: source = "copy" is used in its place')


def _podman(environ: Mapping[str, str]) -> Check:
    program = shutil.which("podman", path=environ.get("PATH"))
    if program is None:
        return Check("podman", "warn", "not installed; it can run containers where no daemon runs")
    return Check("podman", "ok", program)


def _disk(infos: Sequence[EngineInfo]) -> Check:
    """Free space where images are kept, if that is here, and for temporary files."""
    places = [tempfile.gettempdir()]
    if infos and infos[0].local:
        places += [
            path
            for path in ("/var/lib/docker", "/var/lib/containers")
            if os.path.isdir(path)  # noqa: PTH112
        ]
    free = {place: shutil.disk_usage(place).free for place in places}
    low = {place: left for place, left in free.items() if left < _LOW_DISK_BYTES}
    detail = ", ".join(f"{place}: {left / (1 << 30):.1f} GiB free" for place, left in (low or free).items())
    if low:
        return Check("disk", "warn", detail, "docker image prune (or podman image prune) frees space")
    return Check("disk", "ok", detail)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "missing", version, "use Python 3.10 or newer")
    return Check("python", "ok", f"{version} ({sys.executable})")


def _pytest() -> Check:
    try:
        version = importlib.metadata.version("pytest")
    except importlib.metadata.PackageNotFoundError:
        return Check("pytest", "missing", "not installed", "pip install 'pytest>=8'")
    if int(version.split(".")[0]) < _OLDEST_PYTEST:
        return Check("pytest", "missing", version, "pip install 'pytest>=8'")
    return Check("pytest", "ok", version)
