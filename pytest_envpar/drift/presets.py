"""What differs between any two builds of one Dockerfile and is never what broke a test, each with the reason."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from pytest_envpar.drift.globs import any_of

if TYPE_CHECKING:
    import re

    from pytest_envpar.drift.model import Change


@dataclasses.dataclass(frozen=True)
class Preset:
    """Noise of one kind.

    Args:
        name: For ``--no-presets=NAME``.
        reason: Why it does not matter, as it is shown beside the number of what was hidden.
        paths: Globs.
    """

    name: str
    reason: str
    paths: tuple[str, ...] = ()

    def hides(self, change: Change) -> bool:
        """Whether a change's path is this kind of noise."""
        return self._pattern.fullmatch(change.path) is not None

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        return any_of(self.paths)


MTIME = Preset("mtime", "only times differ")
CONTENT = Preset(
    "content", "files differ only in what every build writes anew (build id, time stamp, place of the source)"
)
DATABASES = Preset("databases", "package databases: what they record is compared")

PATHS = (
    Preset(
        "bytecode",
        "bytecode: Python makes it from the source",
        ("/**/__pycache__/**", "/**/__pycache__", "/**/*.pyc"),
    ),
    Preset(
        "ldconfig",
        "cache of the loader: ldconfig makes it from the libraries",
        ("/etc/ld.so.cache", "/var/cache/ldconfig/**"),
    ),
    Preset(
        "package-logs",
        "logs of package managers",
        (
            *("/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/bootstrap.log", "/var/log/apt/**"),
            *("/var/log/apk.log", "/var/log/yum.log", "/var/log/dnf*.log", "/var/log/hawkey.log", "/var/log/zypp/**"),
            *("/root/.npm/_logs/**", "/var/log/fontconfig.log"),
        ),
    ),
    Preset(
        "package-caches",
        "caches of package managers",
        (
            *("/var/cache/apt/**", "/var/cache/debconf/**", "/var/cache/apk/**", "/var/cache/yum/**"),
            *("/var/cache/dnf/**", "/var/cache/zypp/**", "/var/cache/man/**", "/var/cache/fontconfig/**"),
            *("/root/.cache/pip/**", "/root/.cache/uv/**", "/root/.npm/_cacache/**", "/opt/conda/pkgs/**"),
            *("/var/lib/dnf/**", "/var/lib/yum/**", "/var/lib/apt/periodic/**"),
        ),
    ),
    Preset("apt-lists", "lists of what could be installed, not of what is", ("/var/lib/apt/lists/**",)),
    Preset(
        "machine-id",
        "numbers that a machine makes up for itself",
        ("/etc/machine-id", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed", "/etc/ssh/ssh_host_*"),
    ),
    Preset(
        "account-backups",
        "copies that the account tools keep of their files",
        ("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"),
    ),
)  # fmt: skip
PRESETS = (*PATHS, MTIME, CONTENT, DATABASES)
"""All of them, in the order in which they are tried."""


def by_path(change: Change) -> Preset | None:
    """The preset that a change's path, or that only its time differs, falls under."""
    if change.attributes == ("mtime",):
        return MTIME
    return next((preset for preset in PATHS if preset.hides(change)), None)
