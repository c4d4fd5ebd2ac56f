"""Finds the configuration file. Asked in runs that use no stage as well, so it loads the TOML parser only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under its older name
    import tomli as tomllib

_OWN_FILE = "envpar.toml"
PYPROJECT = "pyproject.toml"


def find_config(start: Path) -> Path | None:
    """The configuration file for what lies in ``start``.

    Args:
        start: A folder of the host, usually pytest's rootdir.

    Returns:
        The first ``envpar.toml``, or ``pyproject.toml`` with ``[tool.envpar]``, in ``start`` or above it, as
        an absolute path; ``None`` if there is none.

    Raises:
        ConfigError: Both are in the same folder, or a file on the way cannot be read or parsed.
    """
    # Not resolve(): pytest keeps symbolic links in its rootdir, and paths of the two must match.
    first = Path(os.path.abspath(start))  # noqa: PTH100
    for folder in (first, *first.parents):
        own, pyproject = folder / _OWN_FILE, folder / PYPROJECT
        has_own = _is_file(own)
        in_pyproject = _is_file(pyproject) and has_table(parse(pyproject))
        if has_own and in_pyproject:
            raise ConfigError(
                f"both {own} and {pyproject} with [tool.envpar] configure this project",
                hint="keep one of the two",
            )
        if has_own or in_pyproject:
            return own if has_own else pyproject
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be looked at: {error.strerror}") from error


def parse(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It cannot be read, decoded or parsed; the message has the line and the column.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file}: does not exist") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        # The column counts characters; what stands before the bad byte on its line is good UTF-8.
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode()) + 1
        raise ConfigError(
            f"{file}: not UTF-8: byte 0x{data[error.start]:02x} (at line {line}, column {column})",
            hint="save the file as UTF-8",
        ) from error
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply to be read") from None
    except ValueError as error:  # TOMLDecodeError is one; so is what int() raises for thousands of digits
        hint = "remove the byte order mark at its beginning" if text.startswith("\ufeff") else None
        raise ConfigError(f"{file}: is not valid TOML: {error}", hint=hint) from error


def has_table(data: Mapping[str, Any]) -> bool:
    """Whether a parsed ``pyproject.toml`` configures us."""
    tool = data.get("tool")
    return isinstance(tool, dict) and "envpar" in tool
