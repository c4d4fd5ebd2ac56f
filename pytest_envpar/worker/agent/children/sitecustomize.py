"""Python imports this at its start in a process that a test has started, if such processes are measured.

It begins to measure as a ``.pth`` file of coverage.py would, which an image without coverage.py cannot have, and then
makes way for the image's own module of this name.
"""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _measure() -> None:
    place = os.path.join(os.path.dirname(_HERE), "tracing.py")
    spec = importlib.util.spec_from_file_location("_envpar_tracing", place)
    if spec is None or spec.loader is None:
        return
    tracing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tracing)
    coverage = tracing.load(os.environ.get(tracing.HOME, ""))
    if os.environ.get("COVERAGE_PROCESS_START"):
        coverage.process_startup()


def _make_way() -> None:
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    _measure()
except Exception:  # noqa: BLE001 - another Python, or one without sqlite: then it is not measured, and runs as ever
    pass
_make_way()
