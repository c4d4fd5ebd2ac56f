"""Which packages differ between two sides."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_envpar.drift.model import Package
    from pytest_envpar.drift.packages.base import PackageFormat, Reader


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One package on both sides; ``None`` where it is not installed."""

    before: Package | None
    after: Package | None

    @property
    def either(self) -> Package:
        """The right side's, if it has the package."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def differs(self) -> bool:
        """Whether the versions do; where it is installed does not matter."""
        return self.before is None or self.after is None or self.before.version != self.after.version


def inventory(
    tree: Reader, formats: Iterable[PackageFormat], hints: Sequence[str] = ()
) -> tuple[Package, ...]:
    """All packages of a side, in the order of ecosystem, name, version and place.

    Args:
        hints: Paths that differ; see :meth:`PackageFormat.installed`.
    """
    found = {package for each in formats for package in each.installed(tree, hints)}
    return tuple(sorted(found, key=_key))


def pairs(left: Iterable[Package], right: Iterable[Package]) -> list[Pair]:
    """Bring together what is the same package on both sides.

    Several installations of one package (two virtual environments, two architectures) are paired by their place first,
    then by equal versions, then in order.
    """
    by_name: dict[tuple[str, str], tuple[list[Package], list[Package]]] = collections.defaultdict(
        lambda: ([], [])
    )
    for side, packages in enumerate((left, right)):
        for package in packages:
            by_name[package.ecosystem, package.name][side].append(package)
    found: list[Pair] = []
    for name in sorted(by_name):
        before, after = (sorted(side, key=_key) for side in by_name[name])
        for same in (_same_place, _same_version, _anything):
            found += _matched(before, after, same)
        found += [Pair(package, None) for package in before]
        found += [Pair(None, package) for package in after]
    return found


def _matched(
    before: list[Package], after: list[Package], same: Callable[[Package, Package], bool]
) -> list[Pair]:
    """Take out of both lists what is ``same``."""
    found = []
    for package in list(before):
        other = next((each for each in after if same(package, each)), None)
        if other is not None:
            before.remove(package)
            after.remove(other)
            found.append(Pair(package, other))
    return found


def _same_place(one: Package, other: Package) -> bool:
    return one.origin == other.origin


def _same_version(one: Package, other: Package) -> bool:
    return one.version == other.version


def _anything(one: Package, other: Package) -> bool:  # noqa: ARG001
    return True


def _key(package: Package) -> tuple[str, str, str, str]:
    return (package.ecosystem, package.name, package.version, package.origin)
