"""What users name on both sides of a comparison: a stage, an image, a container, a file, a locked stage, the host."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Literal, cast, get_args

from pytest_envpar.config.suggest import did_you_mean
from pytest_envpar.errors import ConfigError, ImageError, NotFoundError, UsageError
from pytest_envpar.images.pinned import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_envpar.config.model import Settings
    from pytest_envpar.engine.api import Engine

SideKind = Literal["stage", "image", "container", "file", "lock", "host"]
HOST: Literal["host"] = "host"
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Named:
    """A side as it was named. ``name`` is without the prefix that says what it is."""

    text: str
    kind: SideKind
    name: str


def parse(text: str, settings: Settings | None, here: Path, engine: Callable[[], Engine]) -> Named:
    """Find out what a name means. A prefix (``image:``, ``container:``, …) decides where it could mean several things.

    Without one it is, in this order: ``host``, a stage, a file or folder, an image, a container.

    Args:
        settings: The project's configuration, if there is one.
        here: The folder that paths are relative to (host).
        engine: Connects to the engine; only asked for images and containers.

    Raises:
        UsageError: It means nothing.
    """
    prefix, colon, rest = text.partition(":")
    stages = settings.stages if settings is not None else {}
    if colon and prefix in get_args(SideKind) and prefix != HOST:
        if not rest:
            raise UsageError(f"{text!r} names nothing", hint=f"write for example {prefix}:NAME")
        if prefix in ("stage", "lock") and rest not in stages:
            raise _no_stage(text, rest, settings)
        if prefix == "file" and not (here / rest).exists():
            raise UsageError(f"there is no file or folder {str(here / rest)!r}")
        if prefix == "image" and not _may_be_image(rest):
            raise ImageError(f"{text!r}: {rest!r} cannot be the name of an image")
        if prefix == "container" and not (_CONTAINER.fullmatch(rest) and _has_container(engine(), rest)):
            raise UsageError(f"{text!r}: {engine().info.kind} has no container {rest!r}")
        return Named(text, cast("SideKind", prefix), rest)
    if text == HOST:
        return Named(text, HOST, HOST)
    if text in stages:
        return Named(text, "stage", text)
    if _is_path(text, here):
        return Named(text, "file", text)
    connected = engine()
    if _may_be_image(text) and connected.inspect_image(text) is not None:
        return Named(text, "image", text)
    if _CONTAINER.fullmatch(text) and _has_container(connected, text):
        return Named(text, "container", text)
    kind = connected.info.kind
    hint = f"pull it: {kind} pull {text}" if _may_be_image(text) else None
    if stages:
        hint = did_you_mean(text, tuple(stages), what="stages")
    if text.endswith((".tar", ".tgz", ".tar.gz")):
        hint = "there is no file of this name in this folder"
    raise ImageError(
        f"{text!r} is no stage, no file, and neither an image nor a container that {kind} has",
        hint=hint,
    )


def split_pair(text: str) -> tuple[str, str]:
    """``A..B`` as it stands on a command line.

    Raises:
        UsageError: It is none.
    """
    left, dots, right = text.partition("..")
    if not dots or not left or not right:
        raise UsageError(f"{text!r} is no pair of environments", hint="write for example --env-drift=dev..qa")
    return left, right


def _may_be_image(text: str) -> bool:
    """Whether an engine may be asked for it: in its API a name is part of a path, where ``..`` leads elsewhere."""
    try:
        parse_reference(text)
    except ValueError:
        return False
    return not any(part in ("", ".", "..") for part in text.split("/"))


def _has_container(engine: Engine, name: str) -> bool:
    try:
        engine.inspect_container(name)
    except NotFoundError:
        return False
    return True


def _is_path(text: str, here: Path) -> bool:
    path = here / text
    try:
        return path.is_file() or (path.is_dir() and (path / "oci-layout").is_file())
    except (OSError, ValueError):
        return False


def _no_stage(text: str, name: str, settings: Settings | None) -> UsageError:
    if settings is None:
        return ConfigError(
            f"{text!r}: no stages are configured here", hint="`envpar init` writes a configuration"
        )
    return ConfigError(
        f"{text!r}: there is no stage {name!r}",
        hint=did_you_mean(name, tuple(settings.stages), what="stages"),
    )
