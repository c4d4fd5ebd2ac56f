"""What ``setup`` steps are made from: their text, who runs them, and the files of the project that they name.

Nobody can tell which files a command reads. What counts is what its words name: a word that is a file or a folder of
the project is an input, as are the files that a named requirements file names in turn. Whatever else a step reads has
to be named in it to count.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shlex
import stat
import time
from typing import TYPE_CHECKING

from pytest_envpar.errors import ImageError
from pytest_envpar.images.digests import Digests, times
from pytest_envpar.images.turns import writable_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from pytest_envpar.config.model import Stage

_REBUILT = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".venv", "node_modules", ".tox", ".nox"}
    | {".mypy_cache", ".ruff_cache"}
)
"""Folders inside a named folder that are no inputs: tools make them anew."""
_REQUIREMENTS = ("-r", "-c", "--requirement", "--constraint")
_LOCAL = ("-e", "-f", "--editable", "--find-links")
_EXTRAS = re.compile(r"\[[\w\s,.-]*\]\Z")
_SEPARATORS = frozenset(";&|()")
_MAX_BYTES = 4 << 20


def setup_hash(stage: Stage, root: Path, leave_out: Collection[Path] = ()) -> str:
    """The hash of what the configuration and this machine's files give to a stage's steps; asks no engine.

    It holds no path of this machine, and of modes only whether a file may be executed, so that every checkout gives the
    same.

    Args:
        root: The project root (host).
        leave_out: What a run writes (host).

    Raises:
        ImageError: A named file cannot be read.
    """
    files = []
    place = hashlib.sha256(os.fsencode(root) + b"\0setup\0" + stage.name.encode()).hexdigest()[:24]
    known = Digests(writable_folder("digests") / place, time.time_ns())
    for name in named_files(stage.setup, root, leave_out):
        try:
            files.append((_text(name), *_described(root / name, name, known)))
        except OSError as error:
            raise ImageError(
                f"stage {stage.name!r}: {name}, which a setup step names, cannot be read: {error.strerror}",
                hint=f"correct its rights, or leave it out of [tool.envpar.stages.{stage.name}] setup",
            ) from error
    known.keep()
    content = {
        "steps": list(stage.setup),
        "env": dict(stage.env),
        "pass-env": sorted(stage.pass_env),
        "user": stage.user,
        "workdir": None if stage.workdir is None else str(stage.workdir),
        "platform": stage.platform,
        "files": files,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _described(path: Path, name: str, known: Digests) -> tuple[str, str]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "link", _text(os.fspath(path.readlink()))
    return "program" if status.st_mode & 0o100 else "file", known.of(os.fspath(path), name, times(status))


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def named_files(steps: Collection[str], root: Path, leave_out: Collection[Path] = ()) -> tuple[str, ...]:
    """The files that ``steps`` name, relative to ``root``, sorted; of a folder all that it holds."""
    found = _Named(root, frozenset(os.path.normpath(path) for path in leave_out))
    for step in steps:
        found.command(step)
    return tuple(sorted(found.files))


class _Named:
    """Collects what is named; grows with every word."""

    def __init__(self, root: Path, leave_out: frozenset[str]) -> None:
        self._root = os.path.normpath(root)
        self._leave_out = leave_out
        self._read: set[str] = set()
        self.files: set[str] = set()

    def command(self, text: str) -> None:
        before, first = "", True
        for word in _words(text):
            if word and not set(word) - _SEPARATORS:
                before, first = "", True
                continue
            if re.search(r"\s", word):
                self.command(word)  # as in sh -c "..."
            # The word "." in front is the shell's, not the project's folder.
            for candidate in () if first and word == "." else _candidates(word):
                for path in self._matching(candidate, self._root):
                    self._add(path)
            self._follow(before, word, self._root)
            before, first = word, False

    def _follow(self, before: str, word: str, folder: str) -> None:
        """Read the requirements file that an option names, if it is one."""
        name = word if before in _REQUIREMENTS else None
        for option in _REQUIREMENTS:
            if word.startswith(option) and len(word) > len(option):
                name = word[len(option) :].removeprefix("=")
        if name:
            for path in self._matching(name, folder):
                self._add(path)
                self._requirements(path)

    def _requirements(self, path: str) -> None:
        """What a requirements file names, by the rules of pip: other files beside it, local projects from where pip is
        started (https://pip.pypa.io/en/stable/reference/requirements-file-format/)."""
        if path in self._read:
            return
        self._read.add(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                lines = file.read(_MAX_BYTES).decode("utf-8", "surrogateescape")
        except OSError:
            return  # told when it is hashed
        for line in re.sub(r"\\\r?\n", " ", lines).splitlines():
            before = ""
            for word in re.sub(r"(^|\s)#.*", "", line).split():
                self._follow(before, word, os.path.dirname(path))  # noqa: PTH120
                bare = _EXTRAS.sub("", word)
                if before in _LOCAL or bare.startswith(".") or "/" in bare:
                    for candidate in _candidates(bare):
                        for each in self._matching(candidate, self._root):
                            self._add(each)
                before = word

    def _matching(self, text: str, folder: str) -> Iterator[str]:
        """The paths that ``text`` names seen from ``folder``, if they are in the project."""
        path = os.path.normpath(os.path.join(folder, text))  # noqa: PTH118
        paths = [path]
        if not os.path.lexists(path) and glob.has_magic(text):
            paths = glob.glob(path)  # noqa: PTH207
        for each in paths:
            if (each == self._root or each.startswith(self._root + os.sep)) and os.path.lexists(each):
                yield each

    def _add(self, path: str) -> None:
        if os.path.islink(path):  # noqa: PTH114
            self._keep(path)
            real = os.path.realpath(path)
            for each in self._matching(real, self._root):
                if each != path and not os.path.islink(each):  # noqa: PTH114
                    self._add(each)
        elif os.path.isdir(path):  # noqa: PTH112
            for folder, names, files in os.walk(path):
                names[:] = [
                    name
                    for name in names
                    if name not in _REBUILT and f"{folder}{os.sep}{name}" not in self._leave_out
                ]
                links = [name for name in names if os.path.islink(f"{folder}{os.sep}{name}")]  # noqa: PTH114
                for name in (*files, *links):
                    if not name.endswith(".pyc"):
                        self._keep(f"{folder}{os.sep}{name}")
        else:
            self._keep(path)

    def _keep(self, path: str) -> None:
        mode = os.lstat(path).st_mode
        if path not in self._leave_out and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            self.files.add(os.path.relpath(path, self._root))


def _words(command: str) -> list[str]:
    try:
        split = shlex.shlex(command, posix=True, punctuation_chars=";&|()<>")
        split.whitespace_split = True
        split.commenters = ""
        return list(split)
    except ValueError:
        # Quotes over several words, as in a here-document: no shell, no words; what is between them may be some.
        return [word for word in re.split(r"[\s;&|()<>'\"]+", command) if word]


def _candidates(word: str) -> Iterator[str]:
    """What of a word may be a path: all of it, what an option or an assignment is given, a name without extras."""
    yield word
    for sign in ("=", "@"):
        _, found, rest = word.partition(sign)
        if found and rest:
            yield rest
    if re.match(r"-[A-Za-z].", word):
        yield word[2:]
    bare = _EXTRAS.sub("", word)
    if bare not in ("", word):
        yield bare
