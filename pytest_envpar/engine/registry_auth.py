"""Registry credentials from the user's Docker configuration and its credential helpers.

The file: https://docs.docker.com/reference/cli/docker/#configuration-files. Helpers are programs, spoken to by
https://github.com/docker/docker-credential-helpers#development. They are read here and not by the ``docker`` package,
which lets a helper's own words through to the terminal and into its errors, and they can be the secret; and its import
takes 0.1 s of every run of a user who is logged in anywhere.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.parse.shapes import table
from pytest_envpar.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_HUB = "https://index.docker.io/v1/"
_HUB_KEYS = (_HUB, "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER = "docker-credential-"
_HELPER_TIMEOUT_S = 60.0
_NO_CREDENTIALS = b"credentials not found in native keychain"
_IS_TOKEN = "<token>"
"""What helpers say instead of a user's name."""


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What a registry is shown: a user and a password, or an identity token. Their text never tells them."""

    username: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)

    def plain(self, server: str) -> dict[str, str]:
        """As engines take it."""
        if self.identity_token:
            return {"identitytoken": self.identity_token, "serveraddress": server}
        return {"username": self.username, "password": self.password, "serveraddress": server}


def credentials_for(
    reference: str, folder: Path | None = None, also: Sequence[Path] = ()
) -> Credentials | None:
    """The credentials for the registry of ``reference``; ``None`` if there are none.

    Args:
        folder: The Docker configuration folder; by default the user's.
        also: Further files of the same form (Podman's ``auth.json``).

    Raises:
        ImageError: A file or a credential helper is broken.
    """
    for file in ((folder or docker_folder()) / "config.json", *also):
        found = _found(_load(file), file, reference)
        if found:
            return found
    return None


def header_for(reference: str, folder: Path | None = None) -> str | None:
    """The ``X-Registry-Auth`` header for the registry of ``reference``, or ``None`` without credentials.

    Raises:
        ImageError: As :func:`credentials_for`.
    """
    found = credentials_for(reference, folder)
    host = registry_of(reference)[0]
    return _encoded(found.plain(_HUB if host == "docker.io" else host)) if found else None


def header_for_all(folder: Path | None = None) -> str | None:
    """The ``X-Registry-Config`` header: a build may pull from any registry.

    A helper that fails leaves its registries out: a build that does not need them must not fail for it.

    Raises:
        ImageError: The configuration file is broken.
    """
    file = (folder or docker_folder()) / "config.json"
    config = _load(file)
    if not config:
        return None
    found: dict[str, Credentials | None] = {}
    store = config.get("credsStore")
    for server in _listed(str(store)) if store else ():
        found[server] = _or_none(str(store), server)
    for server, entry in table(config.get("auths")).items():
        found[server] = _entry(file, server, table(entry)) or found.get(server)
    for server, helper in table(config.get("credHelpers")).items():
        found[server] = _or_none(str(helper), server) or found.get(server)
    plain = {server: each.plain(server) for server, each in found.items() if each}
    return _encoded(plain) if plain else None


def registry_of(reference: str) -> tuple[str, str]:
    """``host[:port]`` and the repository's name, without tag and digest; the public registry is ``docker.io``."""
    text = reference.partition("@")[0]
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or any(sign in first for sign in ".:")):
        first, rest = "docker.io", text
    head, slash, last = rest.rpartition("/")
    hub = first in _HUB_KEYS
    return "docker.io" if hub else first, f"{head}{slash}{last.partition(':')[0]}"


def docker_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the Docker command keeps its configuration."""
    named = environ.get("DOCKER_CONFIG")
    return Path(named) if named else Path(environ.get("HOME") or Path.home()) / ".docker"


def podman_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where Podman keeps what ``podman login`` was told (containers-auth.json(5))."""
    named, runtime = environ.get("REGISTRY_AUTH_FILE"), environ.get("XDG_RUNTIME_DIR")
    if named:
        return (Path(named),)
    config = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home(), ".config"))
    folders = [Path("/run/containers/0")] if os.geteuid() == 0 else []
    folders += [Path(each, "containers") for each in (runtime, config) if each]
    return tuple(folder / "auth.json" for folder in folders)


def _load(file: Path) -> Mapping[str, Any]:
    problem = ""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        problem = error.strerror or "it cannot be read"
    except ValueError as error:
        # What the parser could not read may be a password: only the place is told.
        problem = f"it is not JSON (line {getattr(error, 'lineno', 1)})"
    else:
        if isinstance(content, dict):
            return content
        problem = "it is not an object"
    raise ImageError(f"registry credentials: {file}: {problem}", hint=f"mend or remove {file}")


def _found(config: Mapping[str, Any], file: Path, reference: str) -> Credentials | None:
    host, name = registry_of(reference)
    helpers = table(config.get("credHelpers"))
    for server in _servers(host):
        helper = helpers.get(server) or config.get("credsStore")
        if helper:
            made = _ask(str(helper), server)
            if made:
                return made
    auths = {_bare(key): (key, table(entry)) for key, entry in table(config.get("auths")).items()}
    for candidate in _candidates(host, name):
        if candidate in auths:
            key, entry = auths[candidate]
            found = _entry(file, key, entry)
            if found:
                return found
    return None


def _servers(host: str) -> tuple[str, ...]:
    """The names under which a helper may know a registry."""
    return (_HUB, "index.docker.io", "docker.io") if host == "docker.io" else (host,)


def _candidates(host: str, name: str) -> Iterator[str]:
    """Keys of ``auths``, the most exact first: Podman's may name a repository or a part of its path."""
    hosts = ("index.docker.io", "docker.io", "registry-1.docker.io") if host == "docker.io" else (host,)
    path = name
    while path:
        yield from (f"{each}/{path}" for each in hosts)
        path = path.rpartition("/")[0]
    yield from hosts


def _bare(key: str) -> str:
    """A key without scheme and API version: old ones are URLs."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, slash, path = bare.partition("/")
    return host if key != bare and (not slash or path in ("v1", "v2")) else bare


def _entry(file: Path, key: str, entry: Mapping[str, Any]) -> Credentials | None:
    token = entry.get("identitytoken")
    if token:
        return Credentials(identity_token=str(token))
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    if not entry.get("auth"):
        return None
    try:
        decoded = base64.b64decode(str(entry["auth"]), validate=True).decode("utf-8").rstrip("\0")
    except (binascii.Error, UnicodeError, ValueError):
        decoded = ""
    # A password may have colons, a user's name has none.
    username, colon, password = decoded.partition(":")
    if not colon:
        raise ImageError(
            f"registry credentials: {file}: the entry for {key} cannot be read",
            hint=f"docker logout {key}; docker login {key}",
        )
    return Credentials(username, password)


def _ask(helper: str, server: str) -> Credentials | None:
    """What a credential helper has for a server.

    Its words are never shown, not even when it fails: nobody can tell whether the secret is among them.
    """
    code, answer = _run(helper, "get", server)
    if code != 0 and _NO_CREDENTIALS in answer.lower():
        return None
    made: Any = None
    if code == 0:
        try:
            made = json.loads(answer)
        except ValueError:
            made = None
    if not isinstance(made, dict):
        how = f"ended with {code}" if code else "answered with something else than JSON"
        raise ImageError(
            f"registry credentials: the helper {_HELPER}{helper} {how} when asked for {server}",
            hint=f"see what it says: echo {server} | {_HELPER}{helper} get",
        )
    username, secret = str(made.get("Username") or ""), str(made.get("Secret") or "")
    if username == _IS_TOKEN:
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if username and secret else None


def _or_none(helper: str, server: str) -> Credentials | None:
    try:
        return _ask(helper, server)
    except ImageError:
        return None


def _listed(helper: str) -> tuple[str, ...]:
    """The servers that a helper knows."""
    try:
        code, answer = _run(helper, "list", "")
        return tuple(table(json.loads(answer))) if code == 0 else ()
    except (ImageError, ValueError):
        return ()


def _run(helper: str, verb: str, text: str) -> tuple[int, bytes]:
    program = None if "/" in helper else shutil.which(_HELPER + helper)
    problem = f"{_HELPER}{helper} is not on PATH"
    if program is not None:
        try:
            done = subprocess.run(
                [program, verb],
                input=text.encode(),
                capture_output=True,
                timeout=_HELPER_TIMEOUT_S,
                check=False,
            )
            return done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            problem = f"{_HELPER}{helper} did not answer within {_HELPER_TIMEOUT_S:.0f} s"
        except OSError as error:
            problem = f"{_HELPER}{helper} cannot be started: {error.strerror}"
    raise ImageError(
        f"registry credentials: the helper {problem}",
        hint=f"install it, or remove {helper!r} from credsStore and credHelpers in the Docker configuration",
    )


def _encoded(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
