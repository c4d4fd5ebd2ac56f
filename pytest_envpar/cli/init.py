"""``envpar init``: a first configuration. Nothing that exists is overwritten."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from pytest_envpar.config.find import PYPROJECT, has_table, parse
from pytest_envpar.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OWN_FILE = "envpar.toml"
JSON_VERSION = 1
_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = ("all", "envpar", "host")
_TEXT = """\
# Stages for pytest-envpar: `pytest --env={stage}` runs the suite inside a container of the stage's image.
# How the project gets in: overlay (writable inside, untouched here), mount, mount-rw or copy.
# source = "overlay"
# Files written inside that are brought back:
# artifacts = ["reports/**"]
{top}
[{prefix}stages.{stage}]
image = "{image}"
# env = {{ APP_ENV = "{stage}" }}
# pass-env = ["CI"]
# network = "none"
# memory = "512m"

# A second stage, built from a Dockerfile. It has what the first one has, unless it says otherwise.
# [{prefix}stages.qa]
# extends = "{stage}"
# build = {{ context = ".", dockerfile = "Dockerfile" }}
"""


@dataclasses.dataclass(frozen=True)
class Written:
    """What ``init`` wrote: the file (host, absolute), and the stage in it."""

    file: str
    stage: str
    image: str


def write(folder: Path, *, stage: str, image: str | None, pyproject: bool) -> Written:
    """Write a first configuration into ``folder``.

    Args:
        folder: The project's folder (host).
        stage: Name of the first stage.
        image: Its image; ``None`` takes the official image of the Python that runs this.
        pyproject: Add a table to ``pyproject.toml`` instead of writing ``envpar.toml``.

    Raises:
        UsageError: There is a configuration already, or a name is not possible.
        ConfigError: ``pyproject.toml`` cannot be read or written.
    """
    if not _STAGE.fullmatch(stage) or stage in _RESERVED:
        raise UsageError(
            f"--stage={stage} cannot be the name of a stage",
            hint="lower-case letters, digits and _, beginning with a letter; not all, envpar or host",
        )
    image = image or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    if not image.isprintable() or set(image) & set(" \"'\\"):
        raise UsageError(f"--image={image!r} cannot be the name of an image")
    own, table = folder / OWN_FILE, folder / PYPROJECT
    if own.exists() or own.is_symlink():
        raise UsageError(f"{own} exists already", hint="nothing was changed; edit the file")
    old = ""
    if table.exists():
        if has_table(parse(table)):
            raise UsageError(f"{table} has [tool.envpar] already", hint="nothing was changed; edit the file")
        old = table.read_bytes().decode()
    elif pyproject:
        raise UsageError(f"{table} does not exist", hint="leave --pyproject out: envpar.toml is written")
    prefix = "tool.envpar." if pyproject else ""
    top = "\n[tool.envpar]\n" if pyproject else ""
    text = _TEXT.format(stage=stage, image=image, prefix=prefix, top=top)
    if not pyproject:
        _place(own, text, replace=False)
        return Written(str(own), stage, image)
    # The keys in comments belong below the table's own header.
    head, _, rest = text.partition("\n[tool.envpar]\n")
    text = f"[tool.envpar]\n{head}\n{rest.lstrip()}"
    _place(table, _joined(old, text), replace=True)
    return Written(str(table), stage, image)


def tell(written: Mapping[str, Any], form: str) -> None:
    """Say what was written, and what to do next."""
    if form == "json":
        sys.stdout.write(json.dumps({"version": JSON_VERSION, **written}, indent=2, sort_keys=True) + "\n")
        return
    sys.stdout.write(f"wrote {written['file']}: stage {written['stage']}, image {written['image']}\n")
    sys.stdout.write(f"next: pytest --env={written['stage']}\n")


def _joined(old: str, text: str) -> str:
    newline = "\r\n" if "\r\n" in old else "\n"
    gap = "" if not old else newline if old.endswith(("\n", "\r\n")) else newline * 2
    return old + gap + text.replace("\n", newline)


def _place(file: Path, text: str, *, replace: bool) -> None:
    """Write beside, then rename or link: never half a file, and never over one that appeared meanwhile."""
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
                stream.write(text)
            os.chmod(beside, file.stat().st_mode & 0o7777 if replace else 0o666 & ~_umask())  # noqa: PTH101
            if replace:
                os.replace(beside, file.resolve())  # noqa: PTH105
            else:
                os.link(beside, file)
        finally:
            if os.path.exists(beside):  # noqa: PTH110
                os.unlink(beside)  # noqa: PTH108
    except FileExistsError:
        raise UsageError(f"{file} exists already", hint="nothing was changed; edit the file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
