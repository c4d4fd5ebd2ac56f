"""Paths of a container, as those who use its handle write them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TypeAlias

from pytest_envpar.errors import UsageError

ContainerPath: TypeAlias = PurePosixPath | str


def absolute(path: ContainerPath) -> PurePosixPath:
    """The path with ``..`` resolved by name. UsageError if it is not absolute."""
    place = PurePosixPath(path)
    if not place.is_absolute() or "\0" in str(place):
        raise UsageError(f"{path!s} is no absolute path of a container", hint="begin it with /")
    return _normal(place)


def resolved(place: PurePosixPath, target: str) -> PurePosixPath:
    """Where a symbolic link at ``place`` leads."""
    return _normal(place.parent / target)


def _normal(place: PurePosixPath) -> PurePosixPath:
    parts: list[str] = []
    for part in place.parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return PurePosixPath("/", *parts)
