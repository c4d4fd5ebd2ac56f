"""Registry credentials from the user's Docker configuration, through the ``docker`` package.

The package knows the formats and runs the credential helpers. It is imported only if the configuration has
credentials at all: most have none, and the import takes 0.1 s.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.translate import Where, translate

if TYPE_CHECKING:
    from docker.auth import AuthConfig

_CREDENTIAL_KEYS = ("auths", "credHelpers", "credsStore")


def header_for(reference: str, folder: Path | None = None) -> str | None:
    """The ``X-Registry-Auth`` header for the registry of ``reference``, or ``None`` without credentials."""
    config = _load(folder)
    if config is None:
        return None
    from docker import auth

    try:
        registry, _ = auth.resolve_repository_name(reference.partition("@")[0])
        found = auth.resolve_authconfig(config, registry)
    except Exception as cause:  # noqa: BLE001 - the package and its credential helpers throw what they like
        raise translate(cause, Where(f"image {reference}: credentials", "")) from None
    return _encoded(found) if found else None


def header_for_all(folder: Path | None = None) -> str | None:
    """The ``X-Registry-Config`` header: a build may pull from any registry."""
    config = _load(folder)
    if config is None:
        return None
    try:
        credentials: dict[str, Any] = config.get_all_credentials()  # type: ignore[no-untyped-call]
        return _encoded(credentials)
    except Exception as cause:  # noqa: BLE001 - as above
        raise translate(cause, Where("build: credentials", "")) from None


def docker_folder(environ: Any = os.environ) -> Path:
    """Where the Docker command keeps its configuration."""
    named = environ.get("DOCKER_CONFIG")
    return Path(named) if named else Path(environ.get("HOME") or Path.home()) / ".docker"


def _load(folder: Path | None) -> AuthConfig | None:
    file = (folder or docker_folder()) / "config.json"
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not any(content.get(key) for key in _CREDENTIAL_KEYS):
        return None
    from docker import auth

    try:
        return auth.load_config(config_path=str(file), config_dict=content)
    except Exception as cause:  # noqa: BLE001 - as above
        raise translate(cause, Where(f"{file}: credentials", "")) from None


def _encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
