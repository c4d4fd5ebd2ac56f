"""From a comparison to findings: hide noise, bring the rest together by package, give each its level."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from pytest_envpar.drift import presets, secret
from pytest_envpar.drift.findings import ConfigFinding, Drift, FileFinding, Hidden, PackageFinding
from pytest_envpar.drift.model import LEVELS, NotCompared, PackageChange, sort_key
from pytest_envpar.drift.noise import Budget, reasons
from pytest_envpar.drift.packages import own_formats
from pytest_envpar.drift.packages.base import Reader
from pytest_envpar.drift.packages.inventory import inventory, pairs
from pytest_envpar.drift.packages.owners import inner, is_folder, is_tampered, owners
from pytest_envpar.drift.policy import expired_finding
from pytest_envpar.drift.runtime import is_runtime_package, is_runtime_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_envpar.drift.findings import AllowanceFinding
    from pytest_envpar.drift.model import Change, Comparison, Level, Package
    from pytest_envpar.drift.packages.base import PackageFormat
    from pytest_envpar.drift.packages.inventory import Pair
    from pytest_envpar.drift.packages.owners import Ownership
    from pytest_envpar.drift.policy import Policy
    from pytest_envpar.drift.tree import Tree

_RUNTIME_FIELDS = ("architecture", "os", "platform", "variant", "python.version", "python.implementation")
# Images often leave it out of packages that list it.
_DOCUMENTATION = tuple(f"/usr/share/{name}/" for name in ("doc", "man", "info", "locale", "lintian", "help"))


def assess(
    compared: Comparison,
    left: Tree | None,
    right: Tree | None,
    policy: Policy,
    *,
    formats: Sequence[PackageFormat] | None = None,
    inventories: tuple[Sequence[Package], Sequence[Package]] | None = None,
    instruction_of: Callable[[Change], str | None] | None = None,
    classify: Callable[[Change, Level], Level | None] | None = None,
) -> Drift:
    """Say what a comparison means.

    Args:
        left: The left side's files, for package databases and contents; None if nothing of them can differ.
        formats: Package formats; our own by default.
        inventories: The packages of both sides, where they are known already, or there are no files to find them in.
        instruction_of: Which instruction made the layer that a path that differs is from, where that is known.
        classify: A second opinion on the level of a path that no package owns; None leaves ours.

    Raises:
        EngineError: An engine behind a side failed.
    """
    known = tuple(own_formats() if formats is None else formats)
    sides = (Reader(left), Reader(right)) if left is not None and right is not None else None
    budget = Budget()
    why = reasons(compared.changes, policy, sides, budget)
    shown = [change for change in compared.changes if change.path not in why]
    paired = pairs(*inventories) if inventories is not None else []
    found: dict[str, Ownership] = {}
    if sides is not None:
        if inventories is None:
            hints = [change.path for change in compared.changes]
            paired = pairs(*(inventory(side, known, hints) for side in sides))
        found = owners(shown, paired, known, *sides)
    parts = inner(paired, found)
    differing = [pair for pair in paired if pair.differs and pair not in parts]
    why |= _databases(shown, found, differing, known, policy)
    shown = [change for change in shown if change.path not in why]
    groups = _Groups(found, _by_package(shown, found, differing, known))
    altered: set[str] = set()
    if sides is not None:
        altered = {change.path for change in shown if _altered(change, found.get(change.path), sides, budget)}
    packages, allowances, accepted = _packages(differing, groups, altered, policy)
    hidden: dict[str, list[str]] = collections.defaultdict(list)
    for change in compared.changes:
        if change.path in why:
            hidden[why[change.path]].append(change.path)
    allowed = {f"{change.ecosystem}:{change.name}" for change, _ in accepted}
    for change_, reason in accepted:
        hidden[reason].append(f"{change_.ecosystem}:{change_.name}")
    files = [
        _file(change, groups, altered, instruction_of, classify)
        for change in shown
        if groups.key_of.get(change.path) not in allowed
    ]
    unread = [path for side in sides or () for path in side.too_large]
    return Drift(
        compared.left,
        compared.right,
        compared.route,
        packages,
        tuple(files),
        tuple(
            ConfigFinding(secret.shown(change), _level_of_field(change.field)) for change in compared.config
        ),
        allowances,
        tuple(Hidden(reason, tuple(names)) for reason, names in sorted(hidden.items())),
        (
            *compared.not_compared,
            *(NotCompared(path, "too large to be read") for path in dict.fromkeys(unread)),
            *(NotCompared(path, "not compared with what its package shipped") for path in budget.refused),
        ),
        compared.why,
        tuple(change for change, _ in accepted),
    )


@dataclasses.dataclass(frozen=True)
class _Groups:
    """Paths brought together: ``ecosystem:name`` by path."""

    found: Mapping[str, Ownership]
    key_of: Mapping[str, str]

    def paths(self) -> dict[str, list[str]]:
        by_key: dict[str, list[str]] = collections.defaultdict(list)
        for path, key in self.key_of.items():
            by_key[key].append(path)
        return by_key

    def version(self, paths: Sequence[str]) -> str:
        """Of a package that is the same on both sides."""
        return next((self.found[path].package.version for path in paths if path in self.found), "")


def _databases(
    shown: Sequence[Change],
    found: Mapping[str, Ownership],
    differing: Sequence[Pair],
    formats: Sequence[PackageFormat],
    policy: Policy,
) -> dict[str, str]:
    """Databases that are about all packages: what they record is compared, and is the finding.

    Without the preset they are left out only where a package that differs accounts for them.
    """
    accounted = {pair.either.ecosystem for pair in differing}
    hidden = {}
    for change in shown:
        about = None if change.path in found else _record(change.path, formats)
        if about is None or about[1]:
            continue
        if policy.has(presets.DATABASES.name) or about[0] in accounted:
            hidden[change.path] = presets.DATABASES.reason
    return hidden


def _record(path: str, formats: Sequence[PackageFormat]) -> tuple[str, str] | None:
    """Which ecosystem's database a path is part of, and which package it is about."""
    for each in formats:
        name = each.records(path)
        if name is not None:
            return each.ecosystem, name
    return None


def _by_package(
    shown: Sequence[Change],
    found: Mapping[str, Ownership],
    differing: Sequence[Pair],
    formats: Sequence[PackageFormat],
) -> dict[str, str]:
    """``ecosystem:name`` for each path that is part of a package's line."""
    changed = {_key(pair) for pair in differing}
    by_path: dict[str, str] = {}
    for change in shown:
        owned = found.get(change.path)
        if owned is not None:
            by_path[change.path] = f"{owned.package.ecosystem}:{owned.package.name}"
        elif (about := _record(change.path, formats)) is not None and f"{about[0]}:{about[1]}" in changed:
            by_path[change.path] = f"{about[0]}:{about[1]}"
    # A folder that came or went with a package's files is that package's.
    inside: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for change in reversed(shown):
        path = change.path
        if path not in by_path and change.kind != "modified" and is_folder(change):
            within = list(inside[path])
            if within and "" not in within:
                by_path[path] = within[-1]
        inside[path.rpartition("/")[0] or "/"][by_path.get(path, "")] = None
    return by_path


def _altered(change: Change, owned: Ownership | None, sides: tuple[Reader, Reader], budget: Budget) -> bool:
    """Whether a file of a package is not what the package shipped, or is gone though it still lists it."""
    if owned is None:
        return False
    if change.kind == "removed" and owned.after is not None:
        return not owned.config and not change.path.startswith(_DOCUMENTATION)
    if change.kind == "modified" and not {"content", "type"} & set(change.attributes):
        return False
    digests = {each.digest.partition(":")[0] for each in (owned.before, owned.after) if each is not None}
    size = sum(entry.size for entry in (change.before, change.after) if entry is not None)
    if digests <= {"sha256", ""} or budget.afford(change.path, size):
        return is_tampered(change, owned, *sides)
    return False


def _packages(
    differing: Sequence[Pair], groups: _Groups, altered: set[str], policy: Policy
) -> tuple[tuple[PackageFinding, ...], tuple[AllowanceFinding, ...], list[tuple[PackageChange, str]]]:
    """Findings, allowances that are over, and what is allowed with the reason."""
    versions: dict[str, list[tuple[str | None, str | None]]] = collections.defaultdict(list)
    for pair in differing:
        before, after = pair.before, pair.after
        versions[_key(pair)].append((before.version if before else None, after.version if after else None))
    paths = groups.paths()
    for key in paths:
        if key not in versions:
            version = groups.version(paths[key])
            versions[key].append((version, version))
    findings: list[PackageFinding] = []
    allowances: dict[AllowanceFinding, None] = {}
    allowed: list[tuple[PackageChange, str]] = []
    for key, told in versions.items():
        ecosystem, _, name = key.partition(":")
        mine = sorted(paths.get(key, ()), key=sort_key)
        broken = tuple(path for path in mine if path in altered and not _is_edited(path, groups, altered))
        own = sum(not _is_edited(path, groups, altered) for path in mine)
        for index, (old, new) in enumerate(told):
            # Files of a package that is installed more than once are told with the first.
            count, tampered = (own, broken) if index == 0 else (0, ())
            if old == new and not count:
                continue
            change = PackageChange(ecosystem, name, old, new, count, tampered)
            entry = policy.allowance(change)
            if entry is not None and policy.expired(entry):
                allowances[expired_finding(entry)] = None
            elif entry is not None and not tampered:
                allowed.append((change, f"allowed: {entry.reason}"))
                continue
            findings.append(PackageFinding(change, _package_level(key)))
    findings.sort(key=_package_order)
    return tuple(findings), tuple(allowances), allowed


def _file(
    change: Change,
    groups: _Groups,
    altered: set[str],
    instruction_of: Callable[[Change], str | None] | None,
    classify: Callable[[Change, Level], Level | None] | None,
) -> FileFinding:
    key = groups.key_of.get(change.path, "")
    if _is_edited(change.path, groups, altered):
        return FileFinding(change, "config", key)
    if key:
        return FileFinding(change, _package_level(key), key, False, change.path in altered)
    level = _path_level(change.path)
    if classify is not None:
        level = classify(change, level) or level
    instruction = instruction_of(change) if instruction_of is not None else None
    return FileFinding(change, level, instruction=instruction or "")


def _is_edited(path: str, groups: _Groups, altered: set[str]) -> bool:
    """Whether a file that its package means to be edited was edited: a finding of its own, and no tampering."""
    return path in altered and path in groups.found and groups.found[path].config


def _key(pair: Pair) -> str:
    return f"{pair.either.ecosystem}:{pair.either.name}"


def _package_level(key: str) -> Level:
    ecosystem, _, name = key.partition(":")
    return "runtime" if is_runtime_package(ecosystem, name) else "package"


def _path_level(path: str) -> Level:
    if is_runtime_path(path):
        return "runtime"
    return "config" if path == "/etc" or path.startswith("/etc/") else "file"


def _level_of_field(field: str) -> Level:
    return "runtime" if field in _RUNTIME_FIELDS else "config"


def _package_order(finding: PackageFinding) -> tuple[int, str, str, str, str]:
    change = finding.change
    place = len(LEVELS) - LEVELS.index(finding.level)
    return (place, change.ecosystem, change.name, change.before or "", change.after or "")
