"""What differs and what it means: the result that every report is written from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pytest_envpar.drift.model import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.drift.model import Change, ConfigChange, Level, NotCompared, PackageChange

FailOn = Literal["none", "any", "file", "config", "package", "runtime"]


@dataclasses.dataclass(frozen=True, slots=True)
class FileFinding:
    """A path that differs.

    Args:
        owner: The package it belongs to, as ``ecosystem:name``; empty if it is no package's.
        reported: Whether it is a finding of its own, or part of its package's line.
        instruction: What made the layer it is from, where that is known.
    """

    change: Change
    level: Level
    owner: str = ""
    reported: bool = True
    tampered: bool = False
    instruction: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PackageFinding:
    """A package that differs, with all of its files."""

    change: PackageChange
    level: Level

    @property
    def key(self) -> str:
        """``ecosystem:name``."""
        return f"{self.change.ecosystem}:{self.change.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFinding:
    """A field of the configuration, or a fact of the environment, that differs."""

    change: ConfigChange
    level: Level


@dataclasses.dataclass(frozen=True, slots=True)
class AllowanceFinding:
    """An allowance that no longer allows anything."""

    package: str
    reason: str
    until: str | None
    state: Literal["expired", "unused"]
    level: Level = "config"


@dataclasses.dataclass(frozen=True, slots=True)
class Hidden:
    """What is not shown, and why. ``names`` are paths, or packages as ``ecosystem:name``, in order."""

    reason: str
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Drift:
    """The answer to "what differs, and does it matter?", for a left and a right side.

    Args:
        route: How the answer was found; see :class:`~pytest_envpar.drift.model.Comparison`.
        packages: From the highest level to the lowest, then by name.
        files: Also those of packages, in the order of paths.
        hidden: By reason.
        allowed: Packages that differ and are allowed to; they are among the hidden.
    """

    left: str
    right: str
    route: str
    packages: tuple[PackageFinding, ...] = ()
    files: tuple[FileFinding, ...] = ()
    config: tuple[ConfigFinding, ...] = ()
    allowances: tuple[AllowanceFinding, ...] = ()
    hidden: tuple[Hidden, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    why: tuple[str, ...] = ()
    allowed: tuple[PackageChange, ...] = ()

    def levels(self) -> Iterator[Level]:
        """The level of each finding; a package with all of its files is one."""
        yield from (finding.level for finding in self.packages)
        yield from (finding.level for finding in self.config)
        yield from (finding.level for finding in self.files if finding.reported)
        yield from (finding.level for finding in self.allowances)

    @property
    def equal(self) -> bool:
        """Whether there is no finding above noise. What was hidden or not compared is told beside it."""
        return all(level == "noise" for level in self.levels())

    def count(self, level: Level) -> int:
        """How many findings of this level there are."""
        return sum(each == level for each in self.levels())

    def fails(self, on: FailOn) -> bool:
        """Whether a finding is of the level ``on`` or a higher one."""
        if on == "none":
            return False
        lowest = LEVELS.index("file" if on == "any" else on)
        return any(LEVELS.index(level) >= lowest for level in self.levels())
