"""Interpreters as inventories: facts and the packages that they can import."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import Reader
from pytest_envpar.drift.packages.pip import normalised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.packages.base import PackageFormat
    from pytest_envpar.drift.tree import Tree


@dataclasses.dataclass(frozen=True)
class Inventory:
    """An interpreter: facts about it by field, and the packages that it can import."""

    facts: Mapping[str, str]
    packages: tuple[Package, ...]


def host_inventory() -> Inventory:
    """The interpreter that runs this process."""
    import importlib.metadata
    import platform
    import sys

    found: dict[str, Package] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:
            package = Package("pip", normalised(name), each.version, str(each.locate_file("")))
            found.setdefault(package.name, package)  # the first on sys.path is the one that is imported
    facts = {
        "python.version": platform.python_version(),
        "python.implementation": sys.implementation.name,
        "architecture": platform.machine(),
    }
    return Inventory(facts, tuple(found.values()))


def python_packages(tree: Tree | None, formats: Sequence[PackageFormat], prefix: str) -> tuple[Package, ...]:
    """Those of the interpreter with this prefix; a virtual environment does not see the system's."""
    if tree is None:
        return ()
    reader = Reader(tree)
    hints = [f"{prefix}/lib/{name}/site-packages/x" for name in reader.list(f"{prefix}/lib")]
    found = [
        package
        for each in formats
        if each.ecosystem == "pip"
        for package in each.installed(reader, hints)
        if package.origin.startswith(f"{prefix.rstrip('/')}/") or prefix in ("/usr", "/usr/local")
    ]
    return tuple({package.name: package for package in reversed(found)}.values())
