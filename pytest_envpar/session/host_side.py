"""The host's part of a stage run, before the session: make room for what happens inside.

The host's pytest parses, prints and counts; it must not import the project's conftests, judge its ini settings, or
stumble over options that only the inside knows. Everything here runs before pytest parses the command line for good.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.errors import EngineError, EnvparError
from pytest_envpar.session import conftests, foreign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.session.controller import Controller
    from pytest_envpar.session.stage_run import StageRun

# Selection and order are decided inside, where conftests and plugins are; the host would decide twice.
_DECIDED_INSIDE: tuple[tuple[str, Any], ...] = (
    ("keyword", ""),
    ("markexpr", ""),
    ("deselect", None),
    ("lf", False),
    ("failedfirst", False),
    ("newfirst", False),
    ("stepwise", False),
    ("stepwise_skip", False),
    ("stepwise_reset", False),
    ("ignore", None),
    ("ignore_glob", None),
    ("pyargs", False),
    ("doctestmodules", False),
    ("doctestglob", []),
    ("log_file", None),
    ("pythonwarnings", None),
    ("strict_config", False),
    ("strict_markers", False),
    ("strict", False),
    ("noconftest", True),
    ("cov_source", []),  # of pytest-cov: see session/coverage
)
# Plugins of pytest itself that would look at tests, warnings and logs which the host never sees.
_NOT_NEEDED = ("warnings", "logging", "faulthandler", "unraisableexception", "threadexception", "assertion")


def calm_plugin_check(config: pytest.Config) -> None:
    """Empty ``required_plugins`` before pytest looks at it: they are required inside."""
    args = [str(arg) for arg in config.invocation_params.args]
    args += shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    if options.short_values(args) or any(arg.startswith(options.STAGE.name) for arg in args):
        _empty(config, "required_plugins")


def enter(
    config: pytest.Config, parser: pytest.Parser, args: list[str], argv: Sequence[str]
) -> Controller | StageRun | None:
    """Turn this process into the host of a stage run, if one was asked for.

    Args:
        config: pytest's configuration, early.
        parser: pytest's parser, with the options of all plugins but not of conftests.
        args: The arguments in force; emptied in place, because what is on them is for the inside.
        argv: The process's own command line.

    Raises:
        pytest.UsageError: The request cannot be served; the message says why and what to do.
    """
    try:
        return _enter(config, parser, args, argv)
    except EnvparError as error:
        raise pytest.UsageError(*error.lines()) from None


def _enter(
    config: pytest.Config, parser: pytest.Parser, args: list[str], argv: Sequence[str]
) -> Controller | StageRun | None:
    known = parser.parse_known_args(args, namespace=copy.copy(config.option))
    if options.short_values(args) and not getattr(known, options.STAGE.dest):
        folders = conftests.initial_folders(config, [str(path) for path in known.file_or_dir])
        if conftests.declares_env(folders) is not None or not options.register_short(parser):
            return None
        known = parser.parse_known_args(args, namespace=copy.copy(config.option))
    # Markers are the project's own: its conftest and the plugins inside declare them.
    if any(getattr(known, name, False) for name in options.PASSIVE if name != "markers"):
        return None
    given = config.pluginmanager.get_plugin("envpar-tolerant")
    verbatim = given.args if given is not None else [str(arg) for arg in config.invocation_params.args]
    request = options.read(known, verbatim, module=options.started_as_module(argv))
    if request is None:
        return None
    crew = options.is_crew(argv)
    if crew:
        request = dataclasses.replace(request, update=False)  # the controller has done that, for all

    from pytest_envpar.session import launch
    from pytest_envpar.session.coverage import run as coverage

    settings, stages = launch.configured(config.rootpath, config.invocation_params.dir, request)
    settings = coverage.settle(settings, known, request.args)
    names = [stage.name for stage in stages]
    options.refuse_debugging(known, names)
    stages = launch.asked(stages, [str(word) for word in known.file_or_dir])
    spread = options.distributes(known) and not crew
    launched = given.take(settings, stages, request.engine, request.lock) if given is not None else None
    for each in launched or ():
        config.add_cleanup(each.close)
    if launched is not None and (spread or launched[0].places.reuses != request.reuse):
        for each in launched:
            each.close()
        launched = None
    if launched is None:
        # Workers of pytest-xdist take the engines of a pool in turn. What the controller prepares on the first one
        # it prepares on all of them.
        number = options.crew_number() if crew else 0
        turn = {"only_prepare": True} if spread else {"first": number}
        launched = launch.begin(
            settings,
            stages,
            request.engine,
            request.lock,
            # Also where pytest gives up before it has configured itself.
            owned=config.add_cleanup,
            reuse=request.reuse and not crew,
            **turn,
        )

    # Only now: the engine is busy with the container, and this takes time, too.
    coverage.register(config, settings, known, request.args, os.environ, crew=crew)
    run: Controller | StageRun
    if spread:
        from pytest_envpar.session.controller import Controller
        from pytest_envpar.session.parity import narrowed

        pollution = None
        if request.pollution:
            from pytest_envpar.session.pollution import PollutionReport

            pollution = PollutionReport()
        run = Controller(
            config,
            launched,
            names,
            narrowed=narrowed(known, names),
            quiet=bool(getattr(known, "no_header", False)),
            pollution=pollution,
        )
    else:
        from pytest_envpar.session.stage_run import StageRun

        run = StageRun(config, request, launched, known, names)
    _stand_aside(config, parser, known)
    args.clear()
    config.pluginmanager.register(run, "envpar-run")
    return run


def _stand_aside(config: pytest.Config, parser: pytest.Parser, known: Any) -> None:
    for name, value in vars(known).items():
        if name != "file_or_dir":  # pytest's parser fills it, and finds nothing: see ``enter``
            setattr(config.option, name, value)
    for name, value in _DECIDED_INSIDE:
        for namespace in (config.option, config.known_args_namespace):
            if hasattr(namespace, name):
                setattr(namespace, name, copy.copy(value))
    # The header is the inside's: it is written by the run itself.
    config.option.no_header = True
    _empty(config, "filterwarnings")
    _declare_unknown_settings(config, parser)
    manager = config.pluginmanager
    for name in _NOT_NEEDED:
        if manager.has_plugin(name):
            manager.unregister(name=name)
    foreign.stand_aside(manager)


def _empty(config: pytest.Config, name: str) -> None:
    """Empty a list setting in place: pytest keeps the list that it hands out."""
    try:
        value = config.getini(name)
    except (ValueError, KeyError):
        return
    if isinstance(value, list):
        value.clear()


def _declare_unknown_settings(config: pytest.Config, parser: pytest.Parser) -> None:
    """Settings of plugins that exist only inside are not unknown: the inside judges them."""
    # The public name warns in newer releases, and is the only one in older ones.
    given = getattr(config, "_inicfg", None)
    if given is None:
        given = config.inicfg
    for name in list(given):
        try:
            config.getini(name)
        except (ValueError, KeyError):
            parser.addini(name, "a setting that is read inside")
        except pytest.UsageError:
            pass


def explain(error: EnvparError) -> int:
    """Write an error that pytest would not show without a traceback of ours; returns the exit status."""
    for line in error.lines():
        sys.stderr.write(f"ERROR: {line}\n")
    sys.stderr.write("\n")
    return status_of(error)


def status_of(error: EnvparError) -> int:
    """The exit status that an error ends pytest with."""
    return int(
        pytest.ExitCode.INTERNAL_ERROR if isinstance(error, EngineError) else pytest.ExitCode.USAGE_ERROR
    )
