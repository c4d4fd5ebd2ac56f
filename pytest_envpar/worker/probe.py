"""What we learn about an image before a suite runs in it: its Python, its pytest, its user and its paths.

Asked once per image by a short-lived container, then remembered: an image id names unchanging bytes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from pytest_envpar.containers.labels import Owner
from pytest_envpar.containers.refusals import stage_errors
from pytest_envpar.containers.source import PathFacts
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import StageError
from pytest_envpar.worker import cache, oneshot
from pytest_envpar.worker.agent import probe_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo

OLDEST_PYTHON = (3, 8)
"""The oldest Python that the agent runs on."""

PathState = Literal["absent", "empty", "nonempty"]

# 1: first. 2: coverage.py and the ABI.
_VERSION = 2
_TIMEOUT_S = 120.0
_FIXED_CANDIDATES = (
    "python3",
    "python",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
    "/opt/venv/bin/python",
    "/opt/conda/bin/python",
)
# How the engines' runtimes (runc, crun) say that a program is not there or is no program.
_CANNOT_START = ("no such file", "not found", "permission denied", "exec format error", "not a directory")


@dataclasses.dataclass(frozen=True)
class Probe:
    """An image as a place to run a suite in; all paths are container paths.

    Args:
        python: The interpreter as found: a virtual environment's own path is kept, links are not followed.
        version: Its version.
        cache_tag: As in the names of its bytecode files, ``cpython-312``.
        magic: The magic number of its bytecode, in hexadecimal.
        implementation: ``cpython`` or ``pypy``.
        machine: The kernel's name of the architecture, ``x86_64``.
        prefix: Its ``sys.prefix``.
        scripts: Where its console scripts are; ``sys.path[0]`` of a suite started by the ``pytest`` command.
        pytest_version: The image's own pytest, ``None`` if this interpreter cannot import one.
        coverage_version: The image's own coverage.py, ``None`` if this interpreter has none.
        soabi: As in the names of its extension modules, ``cpython-312-x86_64-linux-gnu``; may be empty.
        uid: Effective user of the stage's containers.
        gid: Effective group.
        home: The user's home folder.
        project_path_state: What the image itself has at the project's absolute path.
        project_reachable: Whether that user can pass through the existing parents of the project's path.
    """

    python: PurePosixPath
    version: tuple[int, int, int]
    cache_tag: str
    magic: str
    implementation: str
    machine: str
    prefix: PurePosixPath
    scripts: PurePosixPath
    pytest_version: str | None
    uid: int
    gid: int
    home: PurePosixPath
    project_path_state: PathState
    project_reachable: bool
    coverage_version: str | None = None
    soabi: str = ""

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Probe:
        """Read what the inside or the cache says; neither is trusted. Raises ValueError."""
        reachable = data.get("project_reachable")
        if not isinstance(reachable, bool):
            raise ValueError(f"not a truth value: {reachable!r}")
        version = data.get("version")
        if not isinstance(version, list) or len(version) != 3:
            raise ValueError(f"not a version: {version!r}")
        major, minor, micro = (_number(part) for part in version)
        pytest_version = data.get("pytest")
        coverage_version = data.get("coverage")
        soabi = data.get("soabi")
        return cls(
            python=_path(data.get("python")),
            version=(major, minor, micro),
            cache_tag=_text(data.get("cache_tag")),
            magic=_text(data.get("magic")),
            implementation=_text(data.get("implementation")),
            machine=_text(data.get("machine")),
            prefix=_path(data.get("prefix")),
            scripts=_path(data.get("scripts")),
            pytest_version=None if pytest_version is None else _text(pytest_version),
            uid=_number(data.get("uid")),
            gid=_number(data.get("gid")),
            home=_path(data.get("home")),
            project_path_state=_state(data.get("project_path_state")),
            project_reachable=reachable,
            coverage_version=None if coverage_version is None else _text(coverage_version),
            soabi=_text(soabi) if soabi else "",
        )

    def as_json(self) -> dict[str, Any]:
        """The form that :meth:`parse` reads."""
        data = {
            name: str(value) if isinstance(value, PurePosixPath) else value
            for name, value in vars(self).items()
        }
        data["version"] = list(self.version)
        data["pytest"] = data.pop("pytest_version")
        data["coverage"] = data.pop("coverage_version")
        return data


def probe(
    engine: Engine,
    image: ImageInfo,
    stage: Stage,
    project: Path,
    cache_dir: Path,
    *,
    owner: Owner | None = None,
) -> Probe:
    """Learn what ``stage`` finds in ``image``, from the cache if it was asked before.

    Args:
        project: The project root (host, absolute); only its path is looked at.
        cache_dir: Where answers are kept (host).
        owner: Who owns the container; this process if not given.

    Raises:
        StageError: The image has no usable Python.
        EngineError: The engine failed.
    """
    question = (engine.info.id or engine.info.url, image.id, stage.python or "", stage.user or "")
    asked = cache.digest(*question, stage.platform or "", str(project), json.dumps(sorted(stage.env.items())))
    place = cache_dir / "probes" / f"{asked}.json"
    known = cache.load(place, _VERSION)
    if known is not None:
        try:
            return Probe.parse(known)
        except ValueError:
            pass  # damaged: ask again and write it anew
    found = _ask(engine, image, stage, project, owner or Owner.current(project))
    cache.store(place, _VERSION, found.as_json())
    return found


def path_facts(found: Probe) -> PathFacts:
    """What a probe says of the project's own path."""
    return PathFacts(
        state="occupied" if found.project_path_state == "nonempty" else found.project_path_state,
        reachable=found.project_reachable,
        uid=found.uid,
        gid=found.gid,
    )


def candidates(image: ImageInfo, stage: Stage) -> tuple[str, ...]:
    """The commands tried as Python, best first; the image's ``PATH`` decides what a bare name means."""
    if stage.python is not None:
        return (stage.python,)
    venv = {**image.env, **stage.env}.get("VIRTUAL_ENV", "")
    first = (f"{venv.rstrip('/')}/bin/python",) if venv.startswith("/") else ()
    return tuple(dict.fromkeys((*first, *_FIXED_CANDIDATES)))


def _ask(engine: Engine, image: ImageInfo, stage: Stage, project: Path, owner: Owner) -> Probe:
    script = Path(probe_inside.__file__).read_text(encoding="utf-8")
    tried: list[str] = []
    too_old: list[Probe] = []
    for command in candidates(image, stage):
        spec = ContainerSpec(
            image=image.id,
            entrypoint=(command,),
            command=("-c", script, str(project)),
            labels=MappingProxyType(owner.labels("probe", stage.name)),
            env=stage.env,
            user=stage.user,
            workdir=PurePosixPath("/"),
            network="none",
            platform=stage.platform,
            runtime=stage.runtime,
        )
        with stage_errors(stage, (command,)):
            answer = _answer(engine, spec)
        if isinstance(answer, str):
            tried.append(f"{command}: {answer}")
        elif answer.version < OLDEST_PYTHON:
            tried.append(f"{command}: Python {_dotted(answer.version)} at {answer.python}")
            too_old.append(answer)
        else:
            return answer
    raise _unusable(image, stage, tried, too_old)


def _answer(engine: Engine, spec: ContainerSpec) -> Probe | str:
    """What the inside says, or why it says nothing."""
    try:
        result = oneshot.run(engine, spec, timeout_s=_TIMEOUT_S)
    except oneshot.NotStartedError as error:
        text = " ".join([error.message, *error.detail])
        if any(sign in text.lower() for sign in _CANNOT_START):
            return "exec format error" if "exec format error" in text.lower() else "not found"
        raise
    for line in result.stdout.decode(errors="replace").splitlines():
        if line.startswith(probe_inside.MARK):
            try:
                content = json.loads(line.removeprefix(probe_inside.MARK))
                return Probe.parse(content if isinstance(content, dict) else {})
            except ValueError as error:
                return f"gave an answer that makes no sense ({error})"
    errors = result.stderr.decode(errors="replace").strip().splitlines()
    last = errors[-1][:200] if errors else "no output"
    if last.startswith("SyntaxError"):
        return f"is older than Python 3.6, or no Python ({last})"
    return f"ended with exit code {result.exit_code} ({last})"


def _unusable(image: ImageInfo, stage: Stage, tried: list[str], too_old: list[Probe]) -> StageError:
    name = image.tags[0] if image.tags else image.id
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if stage.python is not None:
        message = (
            f'[tool.envpar.stages.{stage.name}] python = "{stage.python}" is not usable in image {name}.'
        )
        hint = (
            f"set python to the absolute path of a Python {oldest} or newer in the image, or remove the key"
        )
    elif too_old:
        old = too_old[0]
        message = (
            f"Stage {stage.name}: the Python of image {name} is {_dotted(old.version)} ({old.python}); "
            f"running a suite inside needs {oldest} or newer."
        )
        hint = f'choose an image with Python {oldest} or newer, or set python = "/path/to/another"'
    else:
        message = f"Stage {stage.name}: image {name} has no usable Python."
        hint = f'choose an image with Python {oldest} or newer, or set python = "/path/to/it/in/the/image"'
    return StageError(message, hint=hint, detail=tuple(tried))


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > 4096 or "\0" in value:
        raise ValueError(f"not a text: {str(value)[:40]!r}")
    return value


def _state(value: object) -> PathState:
    for state in get_args(PathState):
        if state == value:
            return cast("PathState", state)
    raise ValueError(f"not a state: {str(value)[:40]!r}")


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"not a number: {str(value)[:40]!r}")
    return value


def _path(value: object) -> PurePosixPath:
    path = PurePosixPath(_text(value))
    if not path.is_absolute():
        raise ValueError(f"not an absolute path: {str(path)[:40]!r}")
    return path
