"""The initial conftests of a project, looked at and not imported: whose option ``--env`` is."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest


def declares_env(folders: Sequence[Path]) -> Path | None:
    """The initial ``conftest.py`` that declares ``--env`` itself, found without importing any.

    In a stage run conftests are not imported, so a look at their source decides whose option ``--env`` is.

    Args:
        folders: Host folders whose conftests pytest would load first.
    """
    for folder in folders:
        path = folder / "conftest.py"
        try:
            source = path.read_bytes()
        except OSError:
            continue
        if b"--env" in source and _declares(source):
            return path
    return None


def _declares(source: bytes) -> bool:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("addoption", "_addoption", "add_argument") and any(
                isinstance(argument, ast.Constant) and argument.value == "--env" for argument in node.args
            ):
                return True
    return False


def initial_folders(config: pytest.Config, paths: Sequence[str]) -> tuple[Path, ...]:
    """Folders whose conftests pytest loads before it parses the command line for good.

    Args:
        config: The configuration, early.
        paths: What looks like paths on the command line; may be empty.
    """
    here = config.invocation_params.dir
    starts = (
        [here / path.split("::", 1)[0] for path in paths]
        or [here / path for path in _testpaths(config)]
        or [here]
    )
    folders: dict[Path, None] = {}
    for start in starts:
        folder = start if start.is_dir() else start.parent
        for parent in (*reversed(folder.parents), folder):
            if parent == config.rootpath or config.rootpath in parent.parents:
                folders[parent] = None
        if folder.is_dir():
            for child in sorted(folder.glob("test*")):
                if child.is_dir():
                    folders[child] = None
    return tuple(folders)


def _testpaths(config: pytest.Config) -> list[str]:
    try:
        return [str(path) for path in config.getini("testpaths")]
    except (ValueError, TypeError):
        return []
