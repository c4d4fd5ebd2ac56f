"""What is never shown: values and contents whose name says that they are secret. That they differ is."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.drift.model import ConfigChange

NOT_SHOWN = "(not shown)"
_NAMES = re.compile(
    r"PASS(WORD|WD|PHRASE)?($|_)|SECRET|TOKEN|CREDENTIAL|(API|ACCESS|PRIVATE|SIGNING|ENCRYPTION)_?KEY|(^|_)AUTH($|_)|COOKIE",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_FILES = re.compile(
    r"/etc/g?shadow-?|.*\.(key|p12|pfx|jks|keystore)|.*/(\.netrc|\.pgpass|\.htpasswd|\.env|\.npmrc|\.pypirc|\.git-credentials)"
    r"|.*/id_(rsa|dsa|ecdsa|ed25519)|/etc/ssh/ssh_host_[^/]*_key|.*/\.(docker|aws|kube|gnupg|ssh)/.*",
    re.DOTALL,
)


def shown(change: ConfigChange) -> ConfigChange:
    """A field with values that may be shown."""
    name = (
        change.field.rpartition(".")[2]
        if change.field.startswith(("env.", "labels.", "process.env."))
        else ""
    )
    return dataclasses.replace(change, before=_value(name, change.before), after=_value(name, change.after))


def is_secret_file(path: str, *contents: bytes) -> bool:
    """Whether a file's contents are not to be shown."""
    return _FILES.fullmatch(path) is not None or any(b"PRIVATE KEY-----" in data for data in contents)


def _value(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    return NOT_SHOWN if _NAMES.search(name) else _IN_URL.sub("***@", value)
