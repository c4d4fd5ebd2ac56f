"""Suites of other projects: source distributions from the package index, pinned, cached outside the checkout."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Suite:
    """One project's suite.

    Args:
        name: On the index.
        version: Pinned.
        arguments: For pytest, in the project's folder.
        needs: Pure Python packages that the suite imports, pinned; they are put beside the sources.
        daily: Part of every run of these tests, not only of the large set.
    """

    name: str
    version: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    daily: bool = False


SUITES = (
    Suite("iniconfig", "2.3.1", daily=True),
    Suite("cachetools", "8.0.1", daily=True),
    Suite("pluggy", "1.7.0", daily=True),
    # The image has no `less`.
    Suite("click", "8.5.1", ("-k", "not (test_echo_via_pager and less)"), daily=True),
    Suite(
        "itsdangerous",
        "2.2.0",
        needs=("freezegun==1.5.5", "python-dateutil==2.9.0.post0", "six==1.17.0"),
        daily=True,
    ),
    # Where the program of gettext is missing, as in the image, this test skips itself.
    Suite(
        "humanize",
        "4.17.0",
        ("-k", "not test_update_translations"),
        needs=("freezegun==1.5.5", "python-dateutil==2.9.0.post0", "six==1.17.0"),
    ),
    Suite("more-itertools", "11.2.1"),
    Suite(
        "packaging",
        "26.3",
        needs=("pretend==1.0.9", "tomli-w==1.2.0"),
        arguments=("--ignore=tests/property",),
    ),
)
NEEDS_FOLDER = ".needs"


class CannotFetchError(Exception):
    """The package index did not give what was asked for."""


def fetch(suite: Suite, cache: Path) -> Path:
    """A folder with the unpacked sources of ``suite`` and what its tests need, made on first use.

    Raises:
        CannotFetchError: pip could not download it.
    """
    content = hashlib.sha256(repr(suite).encode()).hexdigest()[:8]
    key = f"{suite.name}-{suite.version}-{content}"
    return _once(cache / "suites" / key, lambda folder: _unpack(suite, folder))


def _unpack(suite: Suite, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as downloads:
        _pip(
            "download",
            "--no-deps",
            "--no-binary=:all:",
            f"--dest={downloads}",
            f"{suite.name}=={suite.version}",
        )
        (archive,) = Path(downloads).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(downloads, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(
                downloads
            )
        (top,) = (entry for entry in Path(downloads).iterdir() if entry.is_dir())
        shutil.copytree(top, folder, dirs_exist_ok=True, symlinks=True)
    # The project's own wheel too, behind its sources: suites ask for the metadata of an installation.
    needs = (f"{suite.name}=={suite.version}", *suite.needs)
    _pip("install", "--no-deps", "--only-binary=:all:", f"--target={folder / NEEDS_FOLDER}", *needs)


def _pip(command: str, *arguments: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", command, "--quiet", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise CannotFetchError(f"pip {command} {' '.join(arguments)}: {ended.stderr[-500:]}")


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, made beside its place and then renamed: who finds it finds all of it."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        make(partial)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster; its folder has the same content
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
