"""What is looked at, what is accepted, and what fails: the table ``[drift]``, with what the command line says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fnmatch
from typing import TYPE_CHECKING

from pytest_envpar.drift.findings import AllowanceFinding
from pytest_envpar.drift.globs import matches
from pytest_envpar.drift.presets import PRESETS, by_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pytest_envpar.config.model import Allow, DriftPolicy, Ignore
    from pytest_envpar.drift.model import Change, PackageChange

EVERY_PRESET = frozenset(preset.name for preset in PRESETS)


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a comparison is judged by.

    Args:
        today: The day on which allowances are judged.
        presets: Names of the presets that are on.
    """

    today: dt.date
    ignore: tuple[Ignore, ...] = ()
    allow: tuple[Allow, ...] = ()
    presets: Collection[str] = EVERY_PRESET

    @classmethod
    def of(cls, table: DriftPolicy, today: dt.date, *, without: Collection[str] = ()) -> Policy:
        """The policy of a configuration.

        Args:
            without: Names of presets that are off besides those that the configuration switches off.
        """
        off = EVERY_PRESET if "all" in table.no_presets else {*table.no_presets, *without}
        return cls(today, table.ignore, table.allow, EVERY_PRESET - set(off))

    def hides(self, change: Change) -> str | None:
        """The reason for which a change is not shown, if there is one."""
        for entry in self.ignore:
            if matches(entry.path, change.path):
                return f"ignored: {entry.reason}"
        preset = by_path(change)
        return preset.reason if preset is not None and preset.name in self.presets else None

    def has(self, preset: str) -> bool:
        """Whether a preset is on."""
        return preset in self.presets

    def allowance(self, change: PackageChange) -> Allow | None:
        """The allowance that is about a package, expired or not; the one that ends last."""
        about = [entry for entry in self.allow if _is_about(entry, change)]
        return max(about, key=lambda entry: entry.until or "9999-12-31", default=None)

    def expired(self, entry: Allow) -> bool:
        """Whether its last day is over."""
        return entry.until is not None and dt.date.fromisoformat(entry.until) < self.today


def expired_finding(entry: Allow) -> AllowanceFinding:
    """What is said of an allowance whose last day is over while the package still differs."""
    return AllowanceFinding(entry.package, entry.reason, entry.until, "expired")


def unused(policy: Policy, seen: Iterable[PackageChange]) -> tuple[AllowanceFinding, ...]:
    """The allowances that allow nothing in any comparison of a run; one that is over is told as such.

    Args:
        seen: Every package that differs in one of them, allowed or not.
    """
    changes = list(seen)
    return tuple(
        AllowanceFinding(
            entry.package, entry.reason, entry.until, "expired" if policy.expired(entry) else "unused"
        )
        for entry in policy.allow
        if not any(_is_about(entry, change) for change in changes)
    )


def _is_about(entry: Allow, change: PackageChange) -> bool:
    return any(
        fnmatch.fnmatchcase(name, entry.package)
        for name in (change.name, f"{change.ecosystem}:{change.name}")
    )
