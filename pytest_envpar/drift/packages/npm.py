"""Node's packages: folders in ``node_modules`` with a ``package.json`` (docs.npmjs.com, "folders").

npm keeps no list of what it installed: all that lies in a package's folder is the package's, up to a ``node_modules``
further in.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import MAX_METADATA, MAX_PACKAGES, Owned, folders_named, text, word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.packages.base import Reader

_NAME = "node_modules"
_USUAL = tuple(
    f"{folder}/{_NAME}"
    for folder in ("", "/usr/lib", "/usr/local/lib", "/app", "/src", "/usr/src/app", "/home/node", "/opt/app")
)
_MAX_DEPTH = 12


class Npm:
    """npm, yarn (classic) and pnpm, which all write ``node_modules``."""

    ecosystem = "npm"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:
        """From the usual places and those in which something differs, scoped and nested ones included."""
        left = MAX_PACKAGES
        for folder in sorted({*_USUAL, *folders_named(hints, _NAME)}):
            for package in _walk(tree, folder, 0):
                left -= 1
                if left < 0:
                    return
                yield package

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:  # noqa: ARG002
        """The innermost package above a path."""
        by_folder = {package.origin: package for package in packages}
        for path in sorted(wanted):
            if f"/{_NAME}/" not in path:
                continue
            package = by_folder.get(_folder(path))
            if package is not None:
                yield Owned(path, package)

    def records(self, path: str) -> str | None:
        """Only the hidden lists that npm and yarn keep beside the packages."""
        return "" if path.endswith((f"/{_NAME}/.package-lock.json", f"/{_NAME}/.yarn-integrity")) else None


def _walk(tree: Reader, folder: str, depth: int) -> Iterator[Package]:
    for name in sorted(tree.list(folder)):
        if name.startswith("."):
            continue
        inner = (
            [f"{name}/{each}" for each in sorted(tree.list(f"{folder}/{name}"))] if name[0] == "@" else [name]
        )
        for each in inner:
            place = f"{folder}/{each}"
            data = tree.read(f"{place}/package.json", MAX_METADATA)
            if data is None:
                continue
            version = _version(data)
            if version and word(each):
                yield Package("npm", each, version, place)
            if depth < _MAX_DEPTH:
                yield from _walk(tree, f"{place}/{_NAME}", depth + 1)


def _version(data: bytes) -> str:
    try:
        told: Any = json.loads(text(data))
    except (ValueError, RecursionError):
        return ""
    return word(told.get("version")) if isinstance(told, dict) else ""


def _folder(path: str) -> str:
    """``/a/node_modules/@scope/name`` of any path in it."""
    head, _, rest = path.rpartition(f"/{_NAME}/")
    parts = rest.split("/")
    return f"{head}/{_NAME}/" + "/".join(parts[: 2 if parts[0].startswith("@") else 1])
