"""Package databases: what is installed on a side, which paths belong to it, and what it shipped there.

One module for each format behind :class:`~pytest_envpar.drift.packages.base.PackageFormat`. They read through a
:class:`~pytest_envpar.drift.tree.Tree`, so that a layer, a container and this machine's own file system look
alike. What they read is hostile: every parser is bounded and makes of garbage nothing, never an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.drift.packages.base import PackageFormat

SYSTEM = ("dpkg", "rpm", "apk")
"""Ecosystems that own the system's files: what they list is theirs, whoever else lists it, too."""


def own_formats() -> tuple[PackageFormat, ...]:
    """The formats of this package; of two that list a path the earlier owns it."""
    from pytest_envpar.drift.packages.apk import Apk
    from pytest_envpar.drift.packages.conda import Conda
    from pytest_envpar.drift.packages.dpkg import Dpkg
    from pytest_envpar.drift.packages.npm import Npm
    from pytest_envpar.drift.packages.pip import Pip
    from pytest_envpar.drift.packages.rpm import Rpm

    return (Dpkg(), Rpm(), Apk(), Conda(), Pip(), Npm())
