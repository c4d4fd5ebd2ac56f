"""The options of pytest-cov are the host's business: it knows what to measure, and reports.

They reach us with the command line and with ``addopts``. Where the image has no pytest-cov they would be unknown; where
it has, it would measure a second time and report in the container.
"""

from typing import Any

import pytest

_VALUES = ("--cov-report", "--cov-config", "--cov-fail-under", "--cov-precision", "--cov-context")
_FLAGS = ("--cov-reset", "--no-cov-on-fail", "--no-cov", "--cov-append", "--cov-branch")


def accept_options(parser: Any) -> None:
    """Let the options of pytest-cov pass where it is not installed."""
    try:
        if "--cov=x" not in parser.parse_known_and_unknown_args(["--cov=x"])[1]:
            return
    except (pytest.UsageError, SystemExit):
        return
    group = parser.getgroup("envpar")
    text = "pytest-cov, on the host"
    group.addoption("--cov", nargs="?", action="append", dest="envpar_cov", help=text)
    for names, more in ((_VALUES, {"action": "append"}), (_FLAGS, {"action": "store_true"})):
        for name in names:
            group.addoption(name, dest="envpar_" + name.strip("-").replace("-", "_"), help=text, **more)


class Fixtures:
    """What tests use of pytest-cov, where the image has none.

    Args:
        measure: What measures, if anything does.
    """

    def __init__(self, measure: Any) -> None:
        self._measure = measure

    @pytest.fixture
    def no_cover(self) -> None:
        """A pytest fixture to disable coverage."""

    @pytest.fixture
    def cov(self) -> Any:
        """A pytest fixture to provide access to the underlying coverage object."""
        return getattr(self._measure, "cov", None)


def provide(config: Any, measure: Any) -> None:
    """Have the marker and the fixtures of pytest-cov."""
    if not config.pluginmanager.has_plugin("pytest_cov"):
        config.addinivalue_line("markers", "no_cover: disable coverage for this test.")
        config.pluginmanager.register(Fixtures(measure), "envpar-coverage-fixtures")


def measure_nothing(config: Any) -> None:
    """Keep a pytest-cov of the image from starting; its fixtures and marker stay."""
    known = config.known_args_namespace
    if hasattr(known, "cov_source"):
        known.cov_source = []
