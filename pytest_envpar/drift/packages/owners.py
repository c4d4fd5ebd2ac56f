"""Which package a path that differs belongs to, and whether it is still what that package shipped."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.packages import SYSTEM
from pytest_envpar.drift.packages.base import spellings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_envpar.drift.model import Change, Entry, Package
    from pytest_envpar.drift.packages.base import Owned, PackageFormat, Reader
    from pytest_envpar.drift.packages.inventory import Pair

MAX_CHECKED_FILE = 64 << 20
"""Bytes of a file that is read to compare it with an md5 or sha1 that its package has of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a path is, on each side."""

    before: Owned | None = None
    after: Owned | None = None

    @property
    def package(self) -> Package:
        """The right side's owner, else the left side's."""
        found = self.after or self.before
        assert found is not None
        return found.package

    @property
    def config(self) -> bool:
        """Whether either side's package means the file to be edited."""
        return any(owned is not None and owned.config for owned in (self.before, self.after))


def owners(
    changes: Sequence[Change],
    paired: Sequence[Pair],
    formats: Iterable[PackageFormat],
    left: Reader,
    right: Reader,
) -> dict[str, Ownership]:
    """The owners of the paths that differ; folders are nobody's, because packages share them.

    What is installed alike on both sides is looked up once, on the right. Also looked up are the records of language
    packages that differ; see :func:`inner`.
    """
    plain = [change.path for change in changes if not is_folder(change)]
    plain += [mark for pair in paired if pair.differs for mark in _marks(pair)]
    spelled = {spelling: path for path in plain for spelling in spellings(path)}
    spelled |= {path: path for path in plain}
    if not spelled:
        return {}
    wanted = frozenset(spelled)
    alike = [pair.after for pair in paired if pair.before == pair.after and pair.after is not None]
    only_left = [pair.before for pair in paired if pair.before is not None and pair.before != pair.after]
    only_right = [pair.after for pair in paired if pair.after is not None and pair.before != pair.after]
    befores: dict[str, Owned] = {}
    afters: dict[str, Owned] = {}
    for each in formats:
        _look(each, left, only_left, wanted, spelled, (befores,))
        _look(each, right, only_right, wanted, spelled, (afters,))
        _look(each, right, alike, wanted, spelled, (befores, afters))
    return {
        path: Ownership(befores.get(path), afters.get(path)) for path in dict.fromkeys((*befores, *afters))
    }


def _look(
    each: PackageFormat,
    tree: Reader,
    packages: Sequence[Package],
    wanted: frozenset[str],
    spelled: dict[str, str],
    into: Sequence[dict[str, Owned]],
) -> None:
    mine = [package for package in packages if package.ecosystem == each.ecosystem]
    if not mine:
        return
    for owned in each.owned(tree, mine, wanted):
        path = spelled.get(owned.path)
        if path is not None:
            for found in into:
                # Of two packages of a system the later one has replaced the file (dpkg's Replaces is not kept);
                # the first in order is as good, and the same on every run.
                found.setdefault(path, owned)


def inner(paired: Sequence[Pair], found: dict[str, Ownership]) -> set[Pair]:
    """Packages of a language that are part of a system's package which says it already: Debian's ``python3-yaml`` has a
    ``PyYAML.egg-info``.
    """
    return {
        pair
        for pair in paired
        if any(mark in found and found[mark].package.ecosystem in SYSTEM for mark in _marks(pair))
    }


def _marks(pair: Pair) -> tuple[str, ...]:
    """The files that a system's package would list of a language package."""
    package = pair.either
    if package.ecosystem in SYSTEM or not package.origin:
        return ()
    return tuple(package.origin + name for name in ("", "/METADATA", "/PKG-INFO", "/package.json"))


def is_tampered(change: Change, owned: Ownership, left: Reader, right: Reader) -> bool:
    """Whether the file, on a side where it differs from the other, is not what its package shipped there.

    A file of which the package has no digest never is.
    """
    return _altered(change.before, owned.before, left) or _altered(change.after, owned.after, right)


def _altered(entry: Entry | None, owned: Owned | None, tree: Reader) -> bool:
    if entry is None or owned is None or not owned.digest or entry.type != "file":
        return False
    name, _, told = owned.digest.partition(":")
    if name == "sha256" and entry.digest:
        return entry.digest != told
    if entry.size > MAX_CHECKED_FILE:
        return False
    data = tree.read(entry.path, MAX_CHECKED_FILE)
    if data is None or len(data) != entry.size:
        return False
    return hashlib.new(name, data, usedforsecurity=False).hexdigest() != told


def is_folder(change: Change) -> bool:
    """Whether a path is a folder on each side that has it."""
    return all(entry is None or entry.type == "directory" for entry in (change.before, change.after))
