"""Python's packages: ``*.dist-info`` and ``*.egg-info`` in the folders that an interpreter imports from.

The formats are those of the Python Packaging User Guide ("Recording installed projects", "Core metadata", "Recording
the direct URL origin") and of setuptools ("Python egg formats"). The folders are the usual ones, those of virtual
environments, and all in which something differs.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import re
from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import (
    MAX_LIST,
    MAX_METADATA,
    MAX_PACKAGES,
    Owned,
    folders_named,
    lines,
    normal,
    text,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.packages.base import Reader

_SITES = ("site-packages", "dist-packages")
_LIBS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/root/.local/lib", "/opt/conda/lib")
_VENVS = ("/venv", "/.venv", "/env", "/app/venv", "/app/.venv", "/src/.venv", "/opt/venv", "/opt/.venv")
_PYTHON = re.compile(r"(python|pypy)3?(\.\d+)?t?")
_KINDS = (".dist-info", ".egg-info", ".egg-link")


class Pip:
    """Everything that pip, uv, setuptools, Debian's and Fedora's packages install for Python."""

    ecosystem = "pip"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:
        """What the folders' own records say; an editable installation says so in its version."""
        count = 0
        for folder in sorted(_folders(tree, hints)):
            for name in sorted(tree.list(folder)):
                if not name.endswith(_KINDS) or count >= MAX_PACKAGES:
                    continue
                package = _read(tree, folder, name)
                if package is not None:
                    count += 1
                    yield package

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:
        """From ``RECORD`` or ``installed-files.txt``; an installation without either owns its own record only."""
        for package in packages:
            origin = package.origin
            site = origin.rpartition("/")[0]
            for path in (f"{origin}/{name}" for name in ("RECORD", "METADATA", "PKG-INFO", "INSTALLER")):
                if path in wanted:
                    yield Owned(path, package)
            if origin.endswith(".dist-info"):
                rows = _record(tree.read(f"{origin}/RECORD", MAX_LIST) or b"")
            else:
                listed = tree.read(f"{origin}/installed-files.txt", MAX_LIST) or b""
                rows, site = ((path, "") for path in lines(listed) if path), origin
            for path, digest in rows:
                full = normal(path if path.startswith("/") else f"{site}/{path}")
                if full in wanted:
                    yield Owned(full, package, digest)

    def records(self, path: str) -> str | None:
        """What lies in a ``.dist-info`` or ``.egg-info`` folder is about the package it is named for."""
        for part in path.split("/"):
            for kind in _KINDS:
                if part.endswith(kind):
                    return normalised(part.removesuffix(kind).partition("-")[0])
        return None


def normalised(name: str) -> str:
    """A project's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _folders(tree: Reader, hints: Sequence[str]) -> set[str]:
    found = folders_named(hints, *_SITES)
    found.add("/usr/lib/python3/dist-packages")
    libs = [*_LIBS, *(f"{venv}/lib" for venv in _VENVS)]
    for lib in libs:
        for name in tree.list(lib):
            if _PYTHON.fullmatch(name):
                found |= {f"{lib}/{name}/{site}" for site in _SITES}
    return found


def _read(tree: Reader, folder: str, entry: str) -> Package | None:
    origin = f"{folder}/{entry}"
    kind = entry[entry.rfind(".") :]
    if kind == ".dist-info":
        name, version = _headers(tree.read(f"{origin}/METADATA", MAX_METADATA))
    elif kind == ".egg-info":
        data = tree.read(f"{origin}/PKG-INFO", MAX_METADATA)
        name, version = _headers(tree.read(origin, MAX_METADATA) if data is None else data)
    else:
        source = next(iter(lines(tree.read(origin, MAX_METADATA) or b"")), "").strip()
        stem = entry.removesuffix(kind)
        data = tree.read(f"{normal(source)}/{stem.replace('-', '_')}.egg-info/PKG-INFO", MAX_METADATA)
        name, version = _headers(data)
        name, version = name or word(stem), f"{version or 'unknown'} (editable)"
    if not name or not version:
        return None
    if kind == ".dist-info" and _editable(tree.read(f"{origin}/direct_url.json", MAX_METADATA)):
        version += " (editable)"
    return Package("pip", normalised(name), version, origin)


def _headers(data: bytes | None) -> tuple[str, str]:
    name = version = ""
    for line in lines(data or b""):
        if not line.strip():
            break
        key, _, value = line.partition(":")
        if key.lower() == "name":
            name = name or word(value)
        elif key.lower() == "version":
            version = version or word(value)
    return name, version


def _editable(data: bytes | None) -> bool:
    try:
        told: Any = json.loads(text(data or b"null"))
    except (ValueError, RecursionError):
        return False
    info = told.get("dir_info") if isinstance(told, dict) else None
    return isinstance(info, dict) and info.get("editable") is True


def _record(data: bytes) -> Iterator[tuple[str, str]]:
    rows = csv.reader(lines(data))
    while True:
        try:
            row = next(rows, None)
        except csv.Error:
            continue
        if row is None:
            return
        if row and row[0]:
            yield row[0], _digest(row[1]) if len(row) > 1 else ""


def _digest(told: str) -> str:
    name, _, value = told.partition("=")
    if name != "sha256":
        return ""
    try:
        raw = base64.urlsafe_b64decode(value.encode("ascii", "replace") + b"=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return ""
    return f"sha256:{raw.hex()}" if len(raw) == 32 else ""
