"""What an image says of itself; runs once inside, as ``python -c TEXT PROJECT``, and prints one line of JSON.

Standard library only, and no syntax or module newer than Python 3.6, so that a Python which is too old for
pytest answers with its version instead of a syntax error. ``site`` is active: the image's virtual
environment counts.
"""

import json
import os
import sys
from typing import Dict, Optional

MARK = "pytest-envpar-probe:"


def pytest_version() -> Optional[str]:
    """The version of the image's own pytest, ``None`` if there is none; imported only without metadata."""
    import importlib.util

    try:
        spec = importlib.util.find_spec("pytest")
        if spec is None or spec.origin is None:  # no origin: only a folder of that name
            return None
    except (ImportError, ValueError):
        return None
    try:
        from importlib.metadata import version

        return version("pytest")
    except Exception:  # noqa: BLE001 - Python 3.6 and 3.7 lack the module, and metadata may be damaged
        pass
    try:
        import pytest

        return str(pytest.__version__)
    except Exception:  # noqa: BLE001 - whatever a broken installation raises, it is no usable pytest
        return None


def coverage_version() -> Optional[str]:
    """The version of the image's own coverage.py by its metadata, ``None`` if there is none."""
    import importlib.util

    try:
        spec = importlib.util.find_spec("coverage")
        if spec is None or spec.origin is None:
            return None
        from importlib.metadata import version

        return version("coverage")
    except Exception:  # noqa: BLE001 - whatever a broken installation raises, it is none to measure with
        return None


def path_state(path: str) -> str:
    """``absent``, ``empty`` or ``nonempty``; what cannot be looked at counts as ``nonempty``."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return "absent"
    except OSError:
        return "nonempty"
    try:
        return "nonempty" if os.listdir(path) else "empty"
    except OSError:
        return "nonempty"


def reachable(path: str) -> bool:
    """Whether this user can pass through the parents that exist (the engine makes missing ones passable)."""
    parent = os.path.dirname(path)
    while True:
        # lexists is false below a folder that cannot be passed; that folder itself is met further up.
        if os.path.lexists(parent) and not os.access(parent, os.X_OK):
            return False
        if os.path.dirname(parent) == parent:
            return True
        parent = os.path.dirname(parent)


def facts(project: str) -> Dict[str, object]:
    """Everything the host wants to know; plain JSON values only."""
    import importlib.util
    import platform
    import sysconfig

    return {
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "cache_tag": sys.implementation.cache_tag,
        "magic": "".join("%02x" % byte for byte in bytearray(importlib.util.MAGIC_NUMBER)),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "prefix": sys.prefix,
        "scripts": sysconfig.get_path("scripts"),
        "pytest": pytest_version(),
        "coverage": coverage_version(),
        "soabi": sysconfig.get_config_var("SOABI") or "",
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "home": os.path.expanduser("~"),
        "project_path_state": path_state(project),
        "project_reachable": reachable(project),
    }


if __name__ == "__main__":
    # "-c" puts the working directory first, and what lies there is not part of the image's Python.
    sys.path[:] = [entry for entry in sys.path if entry]
    print(MARK + json.dumps(facts(sys.argv[1])))
