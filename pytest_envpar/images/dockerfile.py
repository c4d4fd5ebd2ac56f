"""What a Dockerfile's text tells before it is built: the images it starts from, and what it wants of a builder.

https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9_-]*)\s*=\s*(.*?)\s*\Z")
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"<<-?(?P<quote>[\"']?)(?P<word>[A-Za-z_]\w*)(?P=quote)")
_TAKING = ("RUN", "COPY", "ADD")
_FROM_FLAG = re.compile(r"(?:--|,)from=([^\s,]+)")
_MOUNT = re.compile(r"--mount=(\S+)")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?:(?P<operator>:?[-+])(?P<word>[^}]*))?\}|(?P<plain>\w+))")
_SESSION = ("secret", "ssh")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined; ``line`` counts from 1."""

    word: str
    rest: str
    line: int


@dataclasses.dataclass
class _BuildStage:
    """A ``FROM`` and what follows. ``uses`` are references and names of other stages; grows while it is read."""

    name: str
    uses: list[str]


@dataclasses.dataclass(frozen=True)
class Dockerfile:
    """What is known of a Dockerfile.

    Args:
        bases: The images that the target starts from or copies from, as far as the text tells, in order.
        session: Each mount that needs a session with the client: line and kind (``secret``, ``ssh``).
    """

    bases: tuple[str, ...]
    session: tuple[tuple[int, str], ...]


def parse(text: str, args: Iterable[tuple[str, str]], target: str | None = None) -> Dockerfile:
    """Read a Dockerfile. Its mistakes are left to the builder, whose words for them are better.

    Args:
        text: Its text.
        args: The build's arguments, which win over the defaults of ``ARG`` lines before the first ``FROM``.
        target: The stage that is built; the last one by default.
    """
    given = dict(args)
    values: dict[str, str] = {}
    stages: list[_BuildStage] = []
    session: list[tuple[int, str]] = []
    for each in instructions(text):
        if each.word == "ARG" and not stages:
            _declare(each.rest, given, values)
        elif each.word == "FROM":
            words = [part for part in each.rest.split() if not part.startswith("--")]
            base = _substitute(words[0], values) if words else None
            alias = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else ""
            stages.append(_BuildStage(alias, [] if base is None else [base]))
        elif each.word in _TAKING and stages:
            found = (_substitute(name, values) for name in _FROM_FLAG.findall(each.rest))
            stages[-1].uses += [name for name in found if name is not None]
            if each.word == "RUN":
                kinds = [dict(_options(mount)).get("type", "bind") for mount in _MOUNT.findall(each.rest)]
                session += [(each.line, kind) for kind in kinds if kind in _SESSION]
    return Dockerfile(_bases(stages, target), tuple(session))


def _bases(stages: list[_BuildStage], target: str | None) -> tuple[str, ...]:
    """The references of the stages that the target needs."""
    names = {stage.name: number for number, stage in enumerate(stages) if stage.name}
    wanted = len(stages) - 1
    if target is not None:
        wanted = names.get(target.lower(), int(target) if target.isdecimal() else wanted)
    needed, pending = set(), [wanted] if 0 <= wanted < len(stages) else []
    found: dict[int, list[str]] = {}
    while pending:
        number = pending.pop()
        if number in needed:
            continue
        needed.add(number)
        for position, name in enumerate(stages[number].uses):
            other = names.get(name.lower(), int(name) if name.isdecimal() and position else -1)
            # Only a stage above; below it the name is an image's.
            if 0 <= other < number:
                pending.append(other)
            elif name != "scratch" and not name.isdecimal():
                found.setdefault(number, []).append(name)
    return tuple(dict.fromkeys(name for number in sorted(found) for name in found[number]))


def directives(text: str) -> Mapping[str, str]:
    """The parser directives: comments of one form in the first lines, before anything else."""
    found: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        directive = _DIRECTIVE.match(line.strip())
        name = directive[1].lower() if directive else ""
        if directive is None or name not in _DIRECTIVES or name in found:
            break
        found[name] = directive[2]
    return found


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions, lines continued and here-documents taken in."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape = directives(text).get("escape", "\\")[:1]
    pending, began, at = "", 0, 0
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if line.startswith("#") or (not line and pending):
            continue
        began = began or at
        if line.endswith(escape):
            pending += line[:-1] + " "
            continue
        whole = " ".join((pending + line).split())
        pending = ""
        if whole:
            word, _, rest = whole.partition(" ")
            if word.upper() in _TAKING:
                at = _behind_heredocs(rest, lines, at)
            yield Instruction(word.upper(), rest, began)
        began = 0
    if pending.strip():
        word, _, rest = " ".join(pending.split()).partition(" ")
        yield Instruction(word.upper(), rest, began)


def _behind_heredocs(rest: str, lines: list[str], at: int) -> int:
    """The first line behind the here-documents that begin in ``rest``; ``at`` if they never end."""
    after = at
    for heredoc in _HEREDOC.finditer(rest):
        ends = [number for number in range(after, len(lines)) if lines[number].strip() == heredoc["word"]]
        if not ends:
            return at
        after = ends[0] + 1
    return after


def _declare(rest: str, given: Mapping[str, str], values: dict[str, str]) -> None:
    for part in re.findall(r"(?:[^\s\"']|\"[^\"]*\"|'[^']*')+", rest):
        name, equals, default = part.partition("=")
        if name in given:
            values[name] = given[name]
        elif equals and (made := _substitute(default, values)) is not None:
            values[name] = made


def _options(mount: str) -> Iterator[tuple[str, str]]:
    for part in mount.strip("\"'").split(","):
        key, _, value = part.partition("=")
        yield key.lower(), value.lower()


def _substitute(text: str, values: Mapping[str, str]) -> str | None:
    """``text`` with its variables replaced; ``None`` if one of them has no value here."""
    unknown = False

    def value(found: re.Match[str]) -> str:
        nonlocal unknown
        name, operator, word = found["braced"] or found["plain"], found["operator"] or "", found["word"] or ""
        has = values.get(name, "")
        if operator.endswith("+"):
            return word if has else ""
        if not has and not operator:
            unknown = True
        return has or word

    made = _VARIABLE.sub(value, text.strip("\"'"))
    return None if unknown or not made else made
