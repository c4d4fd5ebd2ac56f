"""What of a comparison is not shown, and why."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from pytest_envpar.drift import content, presets
from pytest_envpar.drift.packages.owners import is_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.packages.base import Reader
    from pytest_envpar.drift.policy import Policy

MAX_READ = 512 << 20
"""Bytes that are read of both sides of one comparison to look past their noise and at what packages shipped."""


class Budget:
    """How much may still be read; counts what there was no more budget for."""

    def __init__(self, size: int = MAX_READ) -> None:
        self._left = size
        self.refused: list[str] = []

    def afford(self, path: str, size: int) -> bool:
        """Whether ``size`` bytes of ``path`` may be read; they count as read."""
        if size > self._left:
            self.refused.append(path)
            return False
        self._left -= size
        return True


def reasons(
    changes: Sequence[Change], policy: Policy, sides: tuple[Reader, Reader] | None, budget: Budget
) -> dict[str, str]:
    """Why each path that is not to be shown is not.

    Args:
        sides: Both sides' files; None looks at no content.
    """
    found: dict[str, str | None] = {}
    for change in changes:
        reason = policy.hides(change)
        if (
            reason is None
            and sides is not None
            and policy.has(presets.CONTENT.name)
            and _alike(change, sides, budget)
        ):
            reason = presets.CONTENT.reason
        found[change.path] = reason
    _fold_folders(changes, found)
    return {path: reason for path, reason in found.items() if reason is not None}


def _fold_folders(changes: Sequence[Change], found: dict[str, str | None]) -> None:
    """A folder that came or went with nothing but noise in it is noise as well."""
    inside: dict[str, dict[str | None, None]] = collections.defaultdict(dict)
    for change in reversed(changes):
        path = change.path
        if change.kind != "modified" and is_folder(change) and found[path] is None:
            within = list(inside[path])
            if within and None not in within:
                found[path] = within[-1]
        inside[path.rpartition("/")[0] or "/"][found[path]] = None


def _alike(change: Change, sides: tuple[Reader, Reader], budget: Budget) -> bool:
    before, after = change.before, change.after
    if before is None or after is None or change.attributes not in (("content",), ("content", "mtime")):
        return False
    if before.size != after.size and not content.may_change_size(change.path):
        return False
    size = before.size + after.size
    if max(before.size, after.size) > content.MAX_COMPARED or not budget.afford(change.path, size):
        return False
    one = sides[0].read(change.path, content.MAX_COMPARED)
    if one is None or not content.worth_reading(change.path, one[:4]):
        return False
    other = sides[1].read(change.path, content.MAX_COMPARED)
    return other is not None and content.alike_but_for_noise(change.path, one, other)
