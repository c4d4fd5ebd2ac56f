"""The pytest plugin: a thin entry. Without a stage nothing below it is imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.worker.agent import marks, services

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

pytest_plugins = ["pytest_envpar.fixtures"]


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our options; in a stage run also keep the project's ini settings from stopping the host."""
    options.register(parser)
    config = pluginmanager.get_plugin("pytestconfig")
    if isinstance(config, pytest.Config) and _may_be_stage_run(config.invocation_params.args):
        from pytest_envpar.session import host_side

        host_side.calm_plugin_check(config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    """Decide whether this is a stage run; if it is, keep the user's conftests out of this process."""
    from_stage = None
    options.separate_drift(args)
    if _may_be_stage_run(args) or _long_form(early_config):
        from pytest_envpar.session import host_side

        from_stage = host_side.enter(early_config, parser, args, sys.argv)
    result = yield
    if from_stage is None:
        options.register_short(parser)
    return result


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins can implement."""
    from pytest_envpar import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register our markers and fixtures, and the gate if it was asked for."""
    for line in marks.LINES:
        config.addinivalue_line("markers", line)
    if not config.pluginmanager.has_plugin("envpar-run"):
        config.pluginmanager.register(services.module(None), "envpar-services")
        _refuse_without_stage(config)
    if getattr(config.option, options.DRIFT.dest, None):
        from pytest_envpar.session import gate

        gate.register(config)
    if getattr(config.option, options.REPORT.dest, None):
        from pytest_envpar.session import report_files

        report_files.register(config)


def _refuse_without_stage(config: pytest.Config) -> None:
    """An option that looks at a stage's container would be of no effect, and nobody would notice."""
    if getattr(config.option, options.POLLUTION.dest, False) and not any(
        getattr(config.option, name, False) for name in options.PASSIVE
    ):
        raise pytest.UsageError(
            f"{options.POLLUTION.name} tells what tests leave in the container of a stage, and this run has none",
            f"hint: add {options.SHORT.name}=STAGE, or run without {options.POLLUTION.name}",
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what belongs to a stage in a run without one; in a stage run this is decided inside."""
    if not config.pluginmanager.has_plugin("envpar-run"):
        marks.apply(items, None)


def _may_be_stage_run(args: Sequence[str]) -> bool:
    return any(str(arg).startswith(("--env", "--envpar")) for arg in args)


def _long_form(config: pytest.Config) -> bool:
    return bool(getattr(config.known_args_namespace, options.STAGE.dest, None))
