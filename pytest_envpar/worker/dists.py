"""Which pytest is brought into an image that has none, and where its sources come from.

The host's own pytest serves where it supports the image's Python, so that both sides run the same one and no
network is needed. Otherwise pinned versions are fetched once with pip, from whatever index the user's pip is
set up for. Only pure Python sources are taken: the image may have another architecture and another C library.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from pytest_envpar.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_envpar.engine.api import Progress

_FETCH_TIMEOUT_S = 300.0
_MAX_WHEEL_BYTES = 64 << 20

# Top-level names on sys.path of each distribution we know how to carry.
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pytest": ("pytest", "_pytest", "py.py"),
        "pluggy": ("pluggy",),
        "iniconfig": ("iniconfig",),
        "packaging": ("packaging",),
        "pygments": ("pygments",),
        "tomli": ("tomli",),
        "exceptiongroup": ("exceptiongroup",),
        "typing-extensions": ("typing_extensions.py",),
    }
)

# The newest pytest for a Python that the host's one may have dropped, with needs that still support that
# Python. Exact versions: the same image runs the same bytes on every machine.
_COMMON = {
    "iniconfig": "2.1.0",
    "packaging": "25.0",
    "pygments": "2.19.2",
    "tomli": "2.2.1",
    "exceptiongroup": "1.3.0",
    "typing-extensions": "4.13.2",
}
_PINS: Mapping[tuple[int, int], Mapping[str, str]] = MappingProxyType(
    {
        (3, 8): {"pytest": "8.3.5", "pluggy": "1.5.0", **_COMMON},
        (3, 9): {"pytest": "8.4.2", "pluggy": "1.6.0", **_COMMON},
    }
)
_NEWEST_PINNED = max(_PINS)
_NEEDED_BELOW_3_11 = ("tomli", "exceptiongroup", "typing-extensions")


@dataclasses.dataclass(frozen=True)
class Choice:
    """The distributions to bring in.

    Args:
        versions: Version by distribution name, pytest included.
        fetched: The names among them that the host does not have in this version and pip has to bring.
    """

    versions: Mapping[str, str]
    fetched: frozenset[str] = frozenset()


def choose(python: tuple[int, int, int]) -> Choice:
    """What to bring into an image with this Python; reads only the metadata of a few host distributions."""
    pins = _PINS.get(python[:2], _PINS[_NEWEST_PINNED])
    own = _host_version("pytest", python)
    if own is None:
        needs = _needs(python)
        versions = {name: pins[name] for name in ("pytest", *needs)}
        return Choice(MappingProxyType(versions), frozenset(versions))
    versions = {"pytest": own}
    fetched = set()
    limits = _limits(importlib.metadata.requires("pytest") or (), python)
    for name in _needs(python):
        version = _host_version(name, python)
        if version is None or not limits.get(name, SpecifierSet()).contains(version, prereleases=True):
            version = pins[name]
            fetched.add(name)
        versions[name] = version
    return Choice(MappingProxyType(versions), frozenset(fetched))


def sources(
    choice: Choice, python: tuple[int, int, int], cache_dir: Path, progress: Progress | None = None
) -> dict[str, dict[PurePosixPath, bytes]]:
    """The Python sources of every chosen distribution, by their path below ``sys.path``.

    Raises:
        StageError: Something has to be fetched and cannot be.
        UsageError: The cache folder cannot be used.
    """
    found = {name: _host_sources(name) for name in choice.versions if name not in choice.fetched}
    if choice.fetched:
        pins = {name: choice.versions[name] for name in sorted(choice.fetched)}
        for name, wheel in _wheels(pins, python, cache_dir, progress).items():
            found[name] = _wheel_sources(name, wheel)
    return found


def _needs(python: tuple[int, int, int]) -> tuple[str, ...]:
    needs: tuple[str, ...] = ("pluggy", "iniconfig", "packaging", "pygments")
    return needs + (_NEEDED_BELOW_3_11 if python < (3, 11) else ())


def _limits(requirements: Iterable[str], python: tuple[int, int, int]) -> dict[str, SpecifierSet]:
    inside = {
        "python_version": "{}.{}".format(*python),
        "python_full_version": "{}.{}.{}".format(*python),
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "extra": "",
    }
    limits: dict[str, SpecifierSet] = {}
    for text in requirements:
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate(inside):
            limits[canonicalize_name(need.name)] = need.specifier
    return limits


def _host_version(name: str, python: tuple[int, int, int]) -> str | None:
    """The version that the host has, if the image's Python may run it and its files are where we look."""
    version = supported_version(name, python)
    if version is None:
        return None
    found = importlib.metadata.distribution(name)
    return version if all(Path(str(found.locate_file(top))).exists() for top in PACKAGES[name]) else None


def supported_version(name: str, python: tuple[int, int, int]) -> str | None:
    """The version of a distribution that the host has, if it says that it supports this Python."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        supported = SpecifierSet(found.metadata["Requires-Python"] or "")
    except (InvalidSpecifier, KeyError):
        return None
    return found.version if supported.contains("{}.{}.{}".format(*python), prereleases=True) else None


def _host_sources(name: str) -> dict[PurePosixPath, bytes]:
    root = Path(str(importlib.metadata.distribution(name).locate_file("")))
    files: dict[PurePosixPath, bytes] = {}
    for top in PACKAGES[name]:
        place = root / top
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            files[PurePosixPath(path.relative_to(root).as_posix())] = path.read_bytes()
    return files


def _wheel_sources(name: str, wheel: Path) -> dict[PurePosixPath, bytes]:
    files: dict[PurePosixPath, bytes] = {}
    total = 0
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            # Nothing is extracted by its own path; this keeps odd names out of the tar that we write.
            if path.suffix != ".py" or path.parts[0] not in PACKAGES[name] or ".." in path.parts:
                continue
            total += member.file_size
            if total > _MAX_WHEEL_BYTES:
                raise StageError(
                    f"{wheel.name} unpacks to more than {_MAX_WHEEL_BYTES >> 20} MiB of sources."
                )
            files[path] = archive.read(member)
    return files


def _wheels(
    pins: Mapping[str, str], python: tuple[int, int, int], cache_dir: Path, progress: Progress | None
) -> dict[str, Path]:
    folder = cache_dir / "wheels"
    found = {name: _cached_wheel(folder, name, version) for name, version in pins.items()}
    missing = [f"{name}=={pins[name]}" for name, wheel in found.items() if wheel is None]
    if missing:
        if progress is not None:
            progress(f"fetching {', '.join(missing)} for Python {python[0]}.{python[1]} with pip")
        from pytest_envpar.containers import cachefolder

        cachefolder.make(folder)
        _download(missing, python, folder)
        found = {name: _cached_wheel(folder, name, version) for name, version in pins.items()}
    wheels = {name: wheel for name, wheel in found.items() if wheel is not None}
    if absent := sorted(set(pins) - set(wheels)):
        raise _cannot_fetch(missing, python, (f"pip brought no wheel for {', '.join(absent)}",))
    return wheels


def _cached_wheel(folder: Path, name: str, version: str) -> Path | None:
    for wheel in sorted(folder.glob(f"*-{version}-*.whl")):
        if canonicalize_name(wheel.name.partition("-")[0]) == name and zipfile.is_zipfile(wheel):
            return wheel
    return None


class FetchError(Exception):
    """pip brought nothing; the arguments are the last lines that it wrote."""


def _download(requirements: list[str], python: tuple[int, int, int], folder: Path) -> None:
    try:
        download(
            requirements, python, folder, ("--platform", "any", "--implementation", "py", "--abi", "none")
        )
    except FetchError as error:
        raise _cannot_fetch(requirements, python, error.args) from error


def download(
    requirements: list[str], python: tuple[int, int, int], folder: Path, tags: tuple[str, ...]
) -> None:
    """Have pip put wheels for another Python into ``folder``.

    Args:
        tags: pip's options for the platform, the implementation and the ABI.

    Raises:
        FetchError: It did not.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--only-binary", ":all:", "--python-version", f"{python[0]}.{python[1]}"]
    command += tags
    # Into a folder of its own, then renamed: another process may be fetching the same, or pip may be killed.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as beside:
        try:
            done = subprocess.run(
                [*command, "--dest", beside, *requirements],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_FETCH_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(str(error)) from error
        if done.returncode:
            tail = done.stderr.decode(errors="replace").strip().splitlines()[-6:]
            raise FetchError(*tail)
        for wheel in Path(beside).glob("*.whl"):
            wheel.replace(folder / wheel.name)


def _cannot_fetch(
    requirements: list[str], python: tuple[int, int, int], detail: tuple[str, ...]
) -> StageError:
    version = "{}.{}".format(*python)
    return StageError(
        f"The image has Python {version} and no pytest of its own, and this machine's own packages do not "
        f"serve that Python. Fetching {', '.join(requirements)} with pip failed.",
        hint="install pytest in the image, or run once with pip and a package index at hand (it is kept)",
        detail=detail,
    )
