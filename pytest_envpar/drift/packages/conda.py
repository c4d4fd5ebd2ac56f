"""Conda's packages: ``PREFIX/conda-meta/*.json``, one file for each package, with conda-build's ``paths.json`` in."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import MAX_LIST, MAX_PACKAGES, Owned, folders_named, normal, text, word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.packages.base import Reader

_USUAL = tuple(
    f"/opt/{name}/conda-meta"
    for name in ("conda", "miniconda", "miniconda3", "miniforge3", "mambaforge", "anaconda3")
)
_SHA256 = re.compile("[0-9a-f]{64}")


class Conda:
    """Every prefix of conda, mamba and micromamba; environments below ``envs`` included."""

    ecosystem = "conda"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:
        """From the names of the usual prefixes, their environments, and prefixes in which something differs."""
        folders = {*_USUAL, *folders_named(hints, "conda-meta")}
        for folder in list(folders):
            envs = f"{folder.removesuffix('/conda-meta')}/envs"
            folders |= {f"{envs}/{name}/conda-meta" for name in tree.list(envs)}
        count = 0
        for folder in sorted(folders):
            for name in sorted(tree.list(folder)):
                if not name.endswith(".json") or count >= MAX_PACKAGES:
                    continue
                # NAME-VERSION-BUILD.json: the name may have dashes, the others have none.
                parts = name.removesuffix(".json").rsplit("-", 2)
                if len(parts) == 3 and all(map(word, parts)):
                    count += 1
                    yield Package("conda", parts[0], f"{parts[1]}-{parts[2]}", f"{folder}/{name}")

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:
        """What each package's file lists, with the digest of a file as it was put into the prefix."""
        for package in packages:
            prefix = package.origin.rpartition("/conda-meta/")[0]
            for path, digest in _paths(tree.read(package.origin, MAX_LIST) or b""):
                full = normal(f"{prefix}/{path}")
                if full in wanted:
                    yield Owned(full, package, digest)

    def records(self, path: str) -> str | None:
        """The files of ``conda-meta`` are about the package they are named for; ``history`` is about all."""
        folder, _, name = path.rpartition("/")
        if not folder.endswith("/conda-meta"):
            return "" if path.endswith("/conda-meta") else None
        return name.removesuffix(".json").rsplit("-", 2)[0] if name.endswith(".json") else ""


def _paths(data: bytes) -> Iterator[tuple[str, str]]:
    try:
        record: Any = json.loads(text(data))
    except (ValueError, RecursionError):
        return
    if not isinstance(record, dict):
        return
    told = record.get("paths_data")
    told = told.get("paths") if isinstance(told, dict) else None
    if isinstance(told, list) and told:
        for entry in told:
            if isinstance(entry, dict) and isinstance(entry.get("_path"), str):
                digest = entry.get("sha256_in_prefix") or entry.get("sha256")
                good = isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
                yield entry["_path"], f"sha256:{digest}" if good else ""
        return
    files = record.get("files")
    for path in files if isinstance(files, list) else ():
        if isinstance(path, str):
            yield path, ""
