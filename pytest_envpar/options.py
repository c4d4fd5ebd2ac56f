"""The command line: what the user asked, read once and frozen."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.errors import NotYetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

# Rules for help texts, after pytest's own: a whole sentence, no default where it is "off", the metavar in the text.
Kind = Literal["value", "flag", "optional"]
Scope = Literal["session", "module", "test"]


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of ours. ``not_yet`` is what has to be built before it can be used."""

    name: str
    kind: Kind
    metavar: str | None
    help: str
    not_yet: str | None = None

    @property
    def dest(self) -> str:
        """The attribute of ``config.option``."""
        return "envpar_" + self.name.strip("-").replace("-", "_").removeprefix("envpar_")


STAGE = Option(
    "--envpar-stage",
    "value",
    "STAGE",
    "Run the suite inside the container of STAGE, of several (STAGE,STAGE) or of all (long form of --env).",
)
SHORT = Option(
    "--env",
    "value",
    "STAGE",
    "Run the suite inside the container of STAGE, of several (STAGE,STAGE) or of all.",
)
ALL = "all"
"""Instead of a stage's name: every stage that is configured."""
ENGINE = Option(
    "--env-engine",
    "value",
    "URL",
    "Use the container engine at URL instead of the configured one; given several times, a pool of engines.",
)
FROZEN = Option(
    "--env-frozen", "flag", None, "Refuse a stage that is not in the lock file as it is configured."
)
UPDATE = Option(
    "--env-update", "flag", None, "Lock the stage anew, to what its tag or Dockerfile gives here."
)
KEEP = Option(
    "--env-keep",
    "value",
    "WHEN",
    "Keep the containers of stages and fixtures: never, failed (tests) or always.",
)
KEEP_WHEN = ("never", "failed", "always")
FRESH = Option(
    "--env-fresh", "value", "SCOPE", "Use a new container of the stage per session, module or test."
)
FRESH_SCOPES: tuple[Scope, ...] = ("session", "module", "test")
POLLUTION = Option(
    "--env-pollution", "flag", None, "Tell what each test left on the container's file system."
)
REUSE = Option(
    "--env-reuse",
    "flag",
    None,
    "Use a container that an earlier run has started, and start one for the next.",
)
DRIFT = Option(
    "--env-drift",
    "optional",
    "A..B",
    "Compare two environments and fail the run on drift; without A..B what [drift] compare says.",
)
REPORT = Option(
    "--env-report",
    "value",
    "PATH",
    "Write a report of the run; its suffix says which: .html .json .md .sarif.",
)
OPTIONS = (
    STAGE,
    ENGINE,
    DRIFT,
    POLLUTION,
    FROZEN,
    UPDATE,
    REPORT,
    KEEP,
    FRESH,
    REUSE,
    Option("--env-bisect", "value", "A..B", "Find the drift that makes tests fail.", "bisecting"),
)
OUR_NAMES = ("envpar", "pytest_envpar", "pytest_envpar.plugin")
ON_THE_HOST = ("xdist", "xdist.plugin", "xdist.looponfail", "pytest_cov", "pytest_cov.plugin")
"""Plugins that may be named with ``-p`` and do their work on this side."""
_STEPWISE = ("stepwise", "stepwise_skip", "stepwise_reset")
PASSIVE = ("help", "version", "markers", "cacheshow")
"""Options that pytest answers itself, with or without an engine."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a run with a stage was asked to do.

    Args:
        stages: The names of the stages, each once; ``all`` is alone.
        origin: Where it was named: the option as the user wrote it.
        engine: The engine's URL, if one was given.
        args: The command line as the user gave it, without what ini files and the environment add.
        module: pytest was started as ``python -m pytest``.
        frozen: Refuse what is not in the lock file.
        update: Rewrite the stage's entry in the lock file.
        keep: When containers are kept, see :func:`keep_when`.
        reuse: Use a container that waits for this run.
        fresh: How often a new container is used.
        engines: The engines' URLs, if several were given: a pool.
        pollution: Tell what each test left on the file system.
    """

    stages: tuple[str, ...]
    origin: str
    engine: str | None
    args: tuple[str, ...]
    module: bool
    frozen: bool = False
    update: bool = False
    keep: str = "never"
    fresh: Scope = "session"
    engines: tuple[str, ...] = ()
    pollution: bool = False
    reuse: bool = False

    @property
    def lock(self) -> Literal["frozen", "update"] | None:
        """How strictly the lock file was asked to bind; ``None`` lets the environment decide."""
        return "frozen" if self.frozen else "update" if self.update else None


def keep_when(option: Any) -> str:
    """When containers are kept: ``never``, ``failed`` or ``always``.

    Raises:
        UsageError: The value is none of these.
    """
    values = getattr(option, KEEP.dest, None) or ["never"]
    if values[-1] not in KEEP_WHEN:
        raise UsageError(f"{KEEP.name}={values[-1]}: not one of {', '.join(KEEP_WHEN)}")
    return str(values[-1])


def _fresh_scope(option: Any) -> Scope:
    values = getattr(option, FRESH.dest, None) or ["session"]
    for scope in FRESH_SCOPES:
        if values[-1] == scope:
            if scope != "session" and any(getattr(option, name, False) for name in _STEPWISE):
                raise UsageError(
                    f"{FRESH.name}={scope} and --stepwise contradict each other: one session keeps the place",
                    hint=f"run without one of them; -x and --lf work with {FRESH.name}",
                )
            return scope
    raise UsageError(f"{FRESH.name}={values[-1]}: not one of {', '.join(FRESH_SCOPES)}")


def register(parser: pytest.Parser) -> None:
    """Declare our options, except for the short form of the first (see :func:`register_short`)."""
    group = parser.getgroup("envpar", "environment parity")
    for option in OPTIONS:
        _add(group, option)


def register_short(parser: pytest.Parser) -> bool:
    """Declare ``--env``; False if the user's own ``conftest.py`` or a plugin has taken the name."""
    if _is_declared(parser, SHORT.name):
        return False
    _add(parser.getgroup("envpar"), SHORT)
    return True


def _is_declared(parser: pytest.Parser, name: str) -> bool:
    """Whether someone else has declared an option; pytest itself looks at conflicts within one group only."""
    import pytest

    probe = f"{name}=probe"
    try:
        unknown = parser.parse_known_and_unknown_args([probe])[1]
    except (pytest.UsageError, SystemExit):  # a flag, or a value that is none of their choices
        return True
    return probe not in unknown


def _add(group: Any, option: Option) -> None:
    more: dict[str, Any] = {"dest": option.dest, "help": option.help}
    if option.not_yet:
        more["help"] += " Not yet available."
    if option.kind == "flag":
        group.addoption(option.name, action="store_true", default=False, **more)
    elif option.kind == "optional":
        group.addoption(option.name, nargs="?", action="append", default=None, metavar=option.metavar, **more)
    else:
        group.addoption(option.name, action="append", default=None, metavar=option.metavar, **more)


def separate_drift(args: list[str]) -> None:
    """Keep ``--env-drift`` from taking the argument behind it, which is a path: it has a value with ``=`` only."""
    end = args.index("--") if "--" in args else len(args)
    args[:end] = [f"{DRIFT.name}=" if arg == DRIFT.name else arg for arg in args[:end]]


def short_values(args: Sequence[str]) -> tuple[str, ...]:
    """The values of ``--env`` on a command line, before it is known whose option that is."""
    values = []
    for index, arg in enumerate(args):
        if arg.startswith("--env="):
            values.append(arg.removeprefix("--env="))
        elif arg == "--env" and index + 1 < len(args):
            values.append(args[index + 1])
    return tuple(values)


def refuse_not_yet(option: Any) -> None:
    """Raise NotYetError for a documented option that this version cannot serve."""
    for ours in OPTIONS:
        if ours.not_yet and getattr(option, ours.dest, None):
            raise NotYetError(
                f"{ours.name}: {ours.not_yet} is not yet part of this version",
                hint=f"run without {ours.name}",
            )


def read(option: Any, args: Sequence[str], *, module: bool) -> Request | None:
    """Build the request, or None for a run without a stage.

    Args:
        option: pytest's namespace.
        args: The command line as the user gave it.
        module: pytest was started as ``python -m pytest``.

    Raises:
        UsageError: No stage behind the option, or options that contradict each other.
    """
    long = tuple(getattr(option, STAGE.dest, None) or ())
    short = tuple(getattr(option, SHORT.dest, None) or ()) if hasattr(option, SHORT.dest) else ()
    values = long or short
    if not values:
        return None
    name = STAGE.name if long else SHORT.name
    # Like most options of pytest: the last one on the command line wins over ini files.
    asked = values[-1]
    stages = tuple(dict.fromkeys(part.strip() for part in asked.split(",")))
    if not all(stages):
        raise UsageError(f"{name} needs the name of a stage", hint=f"for example {name}=qa or {name}=dev,qa")
    if ALL in stages:
        stages = (ALL,)
    engines = tuple(getattr(option, ENGINE.dest, None) or ())
    refuse_not_yet(option)
    _refuse_gateways(option)
    frozen, update = (bool(getattr(option, each.dest, False)) for each in (FROZEN, UPDATE))
    if frozen and update:
        raise UsageError(
            f"{FROZEN.name} and {UPDATE.name} contradict each other", hint="one leaves the lock file as it is"
        )
    if getattr(option, REUSE.dest, False) and distributes(option):
        raise UsageError(
            f"{REUSE.name} and -n contradict each other: one container waits for the next run, not one for each worker",
            hint="run without one of them",
        )
    engine = engines[0] if len(engines) == 1 else None
    pool = engines if len(engines) > 1 else ()
    return Request(
        stages,
        f"{name}={asked}",
        engine,
        _without_us(args),
        module,
        frozen,
        update,
        keep_when(option),
        _fresh_scope(option),
        pool,
        bool(getattr(option, POLLUTION.dest, False)),
        bool(getattr(option, REUSE.dest, False)),
    )


def _without_us(args: Sequence[str]) -> tuple[str, ...]:
    """The command line without ``-p`` for this very plugin and others that are not inside."""
    kept: list[str] = []
    for arg in args:
        named = arg.removeprefix("-p").strip() if arg.startswith("-p") else arg
        if named in (*OUR_NAMES, *ON_THE_HOST) and (arg.startswith("-p") or kept[-1:] == ["-p"]):
            if not arg.startswith("-p"):
                kept.pop()
            continue
        kept.append(arg)
    return tuple(kept)


def refuse_debugging(option: Any, stages: Sequence[str]) -> None:
    """Raise UsageError for a debugger in several stages at once: they would share the user's terminal."""
    for present, name in (
        (getattr(option, "usepdb", False), "--pdb"),
        (getattr(option, "trace", False), "--trace"),
    ):
        if present and len(stages) > 1:
            raise UsageError(
                f"{name} needs one stage, and this run has {len(stages)}: {', '.join(stages)}",
                hint=f"pick one, for example --env={stages[0]} {name}",
            )


def lists(option: Any) -> bool:
    """Whether the run only lists what the inside knows of fixtures or markers."""
    return any(getattr(option, name, False) for name in ("showfixtures", "show_fixtures_per_test", "markers"))


def distributes(option: Any) -> bool:
    """Whether pytest-xdist will spread the tests over processes."""
    if getattr(option, "collectonly", False) or lists(option):
        return False
    spread = getattr(option, "dist", "no") != "no" or getattr(option, "distload", False)
    processes = getattr(option, "numprocesses", None)
    if processes in ("auto", "logical") and getattr(option, "usepdb", False):
        return False  # as pytest-xdist has it
    return bool(processes) or bool(processes is None and spread and getattr(option, "tx", None))


def _refuse_gateways(option: Any) -> None:
    """Gateways of pytest-xdist to other machines need to know where the project is there."""
    for spec in getattr(option, "tx", None) or ():
        if "popen" not in str(spec) and "//chdir=" not in str(spec):
            raise UsageError(
                f"--tx {spec}: a stage needs the project on the far side",
                hint=f"name the folder of a checkout there: --tx {spec}//chdir=/path/to/it",
            )


def is_crew(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process is a worker of pytest-xdist, before pytest itself can say so.

    Args:
        argv: The process's own command line.
        environ: The environment; this process's own by default.
    """
    # Not the variable alone: processes that a worker's tests start inherit it.
    source = os.environ if environ is None else environ
    return list(argv[:1]) == ["-c"] and "PYTEST_XDIST_WORKER" in source


def crew_number(environ: Mapping[str, str] | None = None) -> int:
    """The number of a worker of pytest-xdist: 3 for ``gw3``."""
    source = os.environ if environ is None else environ
    digits = source.get("PYTEST_XDIST_WORKER", "").lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def started_as_module(argv: Sequence[str]) -> bool:
    """Whether pytest was started as ``python -m pytest``, which puts the working directory on ``sys.path``."""
    return bool(argv) and Path(argv[0]).name == "__main__.py"


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of the host that steer pytest itself and so belong inside, too."""
    source = os.environ if environ is None else environ
    names = (
        "PYTEST_ADDOPTS",
        "PYTEST_PLUGINS",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
        "PYTEST_THEME",
        "PYTEST_THEME_MODE",
        "PYTHONBREAKPOINT",
    )
    return {name: source[name] for name in names if name in source}
