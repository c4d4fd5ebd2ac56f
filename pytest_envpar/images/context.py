"""A build's context: which files it has (.dockerignore), their archive and their hash.

The archive is deterministic: sorted, root's, with one fixed time, so equal content gives equal bytes on every
machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import posixpath
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.images.tarstream import Entry, directory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# Not the epoch: building a wheel or a zip from files older than 1980 fails.
_MTIME_S = 1_000_000_000
_OUTSIDE_DOCKERFILE = ".envpar.Dockerfile"
_PIECE = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Context:
    """A context as it will be sent.

    Args:
        entries: Archive members, sorted by name.
        dockerfile: The Dockerfile's name inside the archive.
    """

    entries: tuple[Entry, ...]
    dockerfile: str

    def digest(self) -> str:
        """Hash of names, types, modes, link targets and contents."""
        total = hashlib.sha256()
        for entry in self.entries:
            content = hashlib.sha256(entry.data)
            if entry.source is not None:
                with entry.source.open("rb") as file:
                    while piece := file.read(_PIECE):
                        content.update(piece)
            fields = (entry.name, entry.kind, f"{entry.mode:o}", entry.target, content.hexdigest())
            for field in fields:
                raw = field.encode("utf-8", "surrogateescape")
                total.update(b"%d:" % len(raw) + raw)
        return total.hexdigest()


def read_context(context: Path, dockerfile: Path, leave_out: Collection[Path] = ()) -> Context:
    """List the context as Docker would send it.

    Args:
        context: The folder (host).
        dockerfile: The Dockerfile (host); it may lie outside the context.
        leave_out: Files and folders (host) that are not part of it, nor is what is written beside them to be renamed:
            what a run writes, such as the lock file, which holds the hash of what is listed here.
    """
    inside = _inside(context, dockerfile)
    ignore_file = dockerfile.with_name(dockerfile.name + ".dockerignore")
    if not ignore_file.is_file():
        ignore_file = context / ".dockerignore"
    rules: IgnoreRules = IgnoreRules(())
    if ignore_file.is_file():
        rules = IgnoreRules.parse(ignore_file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    # The builder reads both itself; it hides them from COPY again if they are ignored.
    always = {".dockerignore"} | ({inside} if inside is not None else set())
    ours = [name for name in (_inside(context, path) for path in leave_out) if name is not None]
    entries = {entry.name: entry for entry in _walk(context, rules, always) if not _is_ours(entry.name, ours)}
    if inside is None:
        data = dockerfile.read_bytes()
        entries[_OUTSIDE_DOCKERFILE] = Entry(
            _OUTSIDE_DOCKERFILE, "file", 0o644, mtime=_MTIME_S, size=len(data), data=data
        )
    ordered = sorted(entries.values(), key=lambda entry: os.fsencode(entry.name))
    return Context(tuple(ordered), inside or _OUTSIDE_DOCKERFILE)


def _inside(context: Path, dockerfile: Path) -> str | None:
    try:
        return dockerfile.relative_to(context).as_posix()
    except ValueError:
        return None


def _is_ours(name: str, ours: Iterable[str]) -> bool:
    for own in ours:
        folder, _, last = own.rpartition("/")
        parent, _, base = name.rpartition("/")
        if name == own or name.startswith(f"{own}/") or (parent == folder and base.startswith(f".{last}.")):
            return True
    return False


def _walk(context: Path, rules: IgnoreRules, always: set[str]) -> Iterator[Entry]:
    for folder, names, files in os.walk(context):
        base = os.path.relpath(folder, context)
        prefix = "" if base == os.curdir else base + "/"
        linked = [name for name in names if (Path(folder) / name).is_symlink()]
        kept = [name for name in names if name not in linked]
        names[:] = [
            name
            for name in kept
            if rules.may_descend(prefix + name) or any(path.startswith(f"{prefix}{name}/") for path in always)
        ]
        for name in (*kept, *linked, *files):
            path = prefix + name
            if path not in always and rules.ignores(path):
                continue
            yield from _parents(context, path)
            entry = _entry(context / path, path)
            if entry is not None:
                yield entry


def _parents(context: Path, path: str) -> Iterator[Entry]:
    """The folders above a kept path, which may themselves be ignored."""
    parent = posixpath.dirname(path)
    while parent:
        yield directory(parent, stat.S_IMODE((context / parent).stat().st_mode), mtime=_MTIME_S)
        parent = posixpath.dirname(parent)


def _entry(path: Path, name: str) -> Entry | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return directory(name, mode, mtime=_MTIME_S)
    if stat.S_ISLNK(status.st_mode):
        return Entry(name, "link", 0o777, mtime=_MTIME_S, target=os.fspath(path.readlink()))
    if stat.S_ISREG(status.st_mode):
        return Entry(name, "file", mode, mtime=_MTIME_S, size=status.st_size, source=path)
    return None  # a socket or pipe has no content to send


@dataclasses.dataclass(frozen=True)
class IgnoreRules:
    """The patterns of a ``.dockerignore``, in order: (pattern, whether it takes paths back in)."""

    patterns: tuple[tuple[re.Pattern[str], bool], ...]

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Parse the file's text; later lines win over earlier ones."""
        made = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            pattern = line.strip()
            back = pattern.startswith("!")
            pattern = pattern[1:].strip() if back else pattern
            pattern = posixpath.normpath(pattern).lstrip("/") if pattern else ""
            if pattern in ("", "."):
                continue
            made.append((re.compile(_regex(pattern), re.DOTALL), back))
        return cls(tuple(made))

    def ignores(self, path: str) -> bool:
        """Whether ``path`` is left out: it or a folder above it matches, and no later line takes it back."""
        ignored = False
        candidates = [path]
        while parent := posixpath.dirname(candidates[-1]):
            candidates.append(parent)
        for pattern, back in self.patterns:
            if ignored == back and any(pattern.fullmatch(candidate) for candidate in candidates):
                ignored = not back
        return ignored

    def may_descend(self, folder: str) -> bool:
        """Whether anything below ``folder`` can be kept."""
        return not self.ignores(folder) or any(back for _, back in self.patterns)


def _regex(pattern: str) -> str:
    """Docker's patterns: ``*`` and ``?`` stay within a name, ``**`` crosses folders, ``\\`` escapes."""
    made: list[str] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "*" and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            made.append(".*" if at == len(pattern) else "(?:.*/)?")
        elif sign == "*":
            made.append("[^/]*")
        elif sign == "?":
            made.append("[^/]")
        elif sign == "[" and (end := pattern.find("]", at + 1)) != -1:
            inner = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            made.append(f"[{inner}]")
            at = end + 1
        elif sign == "\\" and at < len(pattern):
            made.append(re.escape(pattern[at]))
            at += 1
        else:
            made.append(re.escape(sign))
    return "".join(made)


def base_references(dockerfile: str, args: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The images that a Dockerfile starts from or copies from, as far as its text tells, in order.

    Args:
        dockerfile: Its text.
        args: The build's arguments, which win over the defaults of ``ARG`` lines.
    """
    given = dict(args)
    values = dict(given)
    stages: set[str] = set()
    found: list[str] = []
    for line in _instructions(dockerfile):
        word, _, rest = line.partition(" ")
        word = word.upper()
        if word == "ARG":
            name, equals, default = rest.strip().partition("=")
            if equals and name not in given:
                values[name] = default.strip("\"'")
            continue
        if word == "FROM":
            words = [part for part in rest.split() if not part.startswith("--")]
            names = words[:1]
            alias = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else ""
        else:
            names, alias = re.findall(r"(?:--|,)from=([^\s,]+)", rest) if word in _COPYING else [], ""
        for name in names:
            reference = _substitute(name, values)
            own = reference.lower() in stages or reference.isdecimal() or reference == "scratch"
            if not own and reference not in found:
                found.append(reference)
        if alias:
            stages.add(alias)
    return tuple(found)


_COPYING = ("COPY", "ADD", "RUN")


def _instructions(dockerfile: str) -> Iterator[str]:
    escape = "\\"
    directive = re.match(r"(?:#.*\n)*?#\s*escape\s*=\s*(\S)", dockerfile, re.IGNORECASE)
    if directive:
        escape = directive.group(1)
    pending = ""
    for line in dockerfile.splitlines():
        if line.lstrip().startswith("#"):
            continue
        text = line.strip()
        if text.endswith(escape):
            pending += text[:-1] + " "
            continue
        if pending or text:
            yield re.sub(r"\s+", " ", pending + text).strip()
        pending = ""
    if pending:
        yield pending.strip()


def _substitute(text: str, values: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name, operator, word = found["braced"] or found["plain"], found["operator"], found["word"] or ""
        has = values.get(name, "")
        if operator == ":+":
            return word if has else ""
        return has or word

    return re.sub(
        r"\$(?:\{(?P<braced>\w+)(?:(?P<operator>:[-+])(?P<word>[^}]*))?\}|(?P<plain>\w+))",
        value,
        text.strip("\"'"),
    )
