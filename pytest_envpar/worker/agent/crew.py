"""pytest-xdist is the host's business: a worker inside runs tests one by one and distributes none.

Its options reach us with the command line and with ``addopts``. Where the image has no pytest-xdist they would be
unknown; where it has, they would start processes of its own in the container.
"""

import os
from typing import Any, Dict, Tuple

_VALUES = (
    "--numprocesses",
    "--maxprocesses",
    "--max-worker-restart",
    "--dist",
    "--testrunuid",
    "--maxschedchunk",
)
_LISTS = ("--tx", "--px", "--rsyncdir", "--rsyncignore")
_FLAGS = ("--looponfail", "--loadscope-reorder", "--no-loadscope-reorder")
_SHORT = {"--numprocesses": "-n", "--looponfail": "-f"}
MARK = "xdist_group(name): tests of one group run in the same worker of pytest-xdist"
_OFF: Tuple[Tuple[str, Any], ...] = (
    ("numprocesses", None),
    ("maxprocesses", None),
    ("dist", "no"),
    ("distload", False),
    ("tx", []),
    ("looponfail", False),
)


def accept_options(parser: Any) -> None:
    """Let the options of pytest-xdist pass where it is not installed."""
    if _knows(parser):
        return
    group = parser.getgroup("envpar")
    for names, more in ((_VALUES, {}), (_LISTS, {"action": "append"}), (_FLAGS, {"action": "store_true"})):
        for name in names:
            dest = "envpar_xdist_" + name.strip("-").replace("-", "_")
            text = "pytest-xdist, on the host"
            # Short names in lower case are pytest's own and its plugins' by this way.
            group._addoption(*([_SHORT[name]] if name in _SHORT else []), name, dest=dest, help=text, **more)
    group._addoption("-d", dest="envpar_xdist_d", action="store_true", help="pytest-xdist, on the host")


def _knows(parser: Any) -> bool:
    import pytest

    try:
        return "--numprocesses=1" not in parser.parse_known_and_unknown_args(["--numprocesses=1"])[1]
    except (pytest.UsageError, SystemExit):
        return True


def distribute_nothing(option: Any, by_host: bool) -> None:
    """Switch a pytest-xdist of the image off, before it acts on its options.

    Args:
        by_host: The host has pytest-xdist, too, and has done what they say.
    """
    if not by_host and (getattr(option, "numprocesses", None) or getattr(option, "tx", None)):
        import pytest

        raise pytest.UsageError(
            "pytest-xdist is in the image and not on the host, which is where it spreads the tests of a stage",
            "hint: install pytest-xdist beside pytest-envpar, or run with -n0",
        )
    for name, value in _OFF:
        if hasattr(option, name):
            setattr(option, name, value)


def pose(config: Any, given: Dict[str, Any]) -> None:
    """Be the worker of pytest-xdist that the process on the host is: its number, its variables, its input.

    ``worker_id``, ``conftest.py`` files and plugins ask for these; see "How to" in the documentation of pytest-xdist.
    """
    os.environ["PYTEST_XDIST_TESTRUNUID"] = str(given.get("testrunuid"))
    os.environ["PYTEST_XDIST_WORKER"] = str(given.get("workerid"))
    os.environ["PYTEST_XDIST_WORKER_COUNT"] = str(given.get("workercount"))
    config.workerinput = dict(given)
    config.workeroutput = {}
