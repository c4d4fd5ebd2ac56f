"""Pollution: what a test left on its container's file system, and what a failing test met of it."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.drift.render import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_envpar.drift.changes import Change

Kind = Literal["created", "changed", "deleted"]
KINDS: tuple[Kind, ...] = ("created", "changed", "deleted")

SHOWN = 3
"""Paths of one test, unless all are asked for."""
ROWS = 20
"""Tests, unless all are asked for."""
_SIGNS = {"created": "+", "changed": "~", "deleted": "-"}
_MAX_TEXT = 1000


@dataclasses.dataclass(frozen=True)
class Left:
    """One path that a test left other than it was.

    Args:
        path: Where it is, in the container.
        kind: ``created``, ``changed`` or ``deleted``.
        attributes: What differs of a changed one: ``content``, ``mode``, ``owner``, ``type``.
    """

    path: PurePosixPath
    kind: Kind
    attributes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Touched:
    """Something that a failing test met and that was not as the image has it.

    Args:
        did: What the test did with it: ``opened``, ``listed``, ``tried to remove``, ...; ``named`` if only the text of
            the failure has the path.
        left: The path, and what had been done to it before.
        by: Who had done that: a node id, or words.
    """

    did: str
    left: Left
    by: str


@dataclasses.dataclass(frozen=True)
class Pollution:
    """What one test, or what ran outside of the tests, left.

    Args:
        test: The test's node id; empty for what is no test's.
        owner: Whose it is then: ``session fixture db, set up for …``, ``the end of the session``.
        counts: How many paths, by kind.
        paths: The first of them, sorted.
        touched: What a failing test met.
        untold: How many more paths it met.
        stage: The stage, in a run over several.
    """

    test: str
    owner: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)
    paths: tuple[Left, ...] = ()
    touched: tuple[Touched, ...] = ()
    untold: int = 0
    stage: str = ""

    @property
    def name(self) -> str:
        """Whose it is."""
        return self.test or self.owner

    @property
    def total(self) -> int:
        """How many paths there are."""
        return sum(self.counts)

    def told(self) -> str:
        """``created 2, changed 1``."""
        return ", ".join(f"{kind} {count}" for kind, count in zip(KINDS, self.counts, strict=True) if count)


def parse(fields: Mapping[str, Any], test: str = "", stage: str = "") -> Pollution:
    """What an agent told, freed of anything that is not of its form: it comes from inside.

    Args:
        fields: As :class:`pytest_envpar.worker.agent.wire.Pollution` has them.
        test: The node id as the run shows it; empty if it is no test's.
    """
    told = fields.get("counts")
    counts = told if isinstance(told, dict) else {}
    return Pollution(
        test=test,
        owner=_text(fields.get("owner")),
        counts=(_count(counts, "created"), _count(counts, "changed"), _count(counts, "deleted")),
        paths=tuple(left for row in _rows(fields, "paths") if (left := _left(row)) is not None),
        touched=tuple(each for row in _rows(fields, "touched") if (each := _touched(row)) is not None),
        untold=_count(fields, "untold"),
        stage=stage,
    )


def as_fields(pollution: Pollution) -> dict[str, Any]:
    """The same as plain data, which :func:`parse` reads."""
    return {
        "owner": pollution.owner,
        "counts": dict(zip(KINDS, pollution.counts, strict=True)),
        "paths": [[left.kind, str(left.path), list(left.attributes)] for left in pollution.paths],
        "touched": [[each.did, str(each.left.path), each.left.kind, each.by] for each in pollution.touched],
        "untold": pollution.untold,
    }


def unattributed(changes: Iterable[Change], told: Sequence[Pollution]) -> tuple[Change, ...]:
    """What a comparison with the image shows and nobody was seen doing.

    A path below a folder that somebody made is that one's. Where there were too many to name them all, what is beside
    a named one counts as theirs.
    """
    named: set[PurePosixPath] = set()
    crowded: set[PurePosixPath] = set()
    for pollution in told:
        named.update(left.path for left in pollution.paths)
        if len(pollution.paths) < pollution.total:
            crowded.update(left.path.parent for left in pollution.paths)
    return tuple(
        change
        for change in changes
        if change.path not in named
        and named.isdisjoint(change.path.parents)
        and crowded.isdisjoint(change.path.parents)
    )


def lines(told: Sequence[Pollution], *, everything: bool = False) -> list[str]:
    """A line for each test that left something, with the first paths; then what failing tests met of it.

    Args:
        everything: All tests, and each path on a line of its own.
    """
    found: list[str] = []
    polluters = [each for each in told if each.total]
    for each in polluters if everything else polluters[:ROWS]:
        head = f"{escaped(each.name, _MAX_TEXT)}: {each.told()}"
        if everything:
            found.append(head)
            found += [f"  {path}" for path in paths(each)]
        else:
            shown = ", ".join(_path(left) for left in each.paths[:SHOWN])
            more = each.total - len(each.paths[:SHOWN])
            found.append(head + (f" ({shown}{f', … {more} more' if more else ''})" if shown else ""))
    if len(polluters) > ROWS and not everything:
        found.append(f"… {len(polluters) - ROWS} more; -v shows all")
    for each in told:
        found += met(each)
    return found


def paths(told: Pollution, limit: int | None = None) -> list[str]:
    """What a test left, one line for each path (``+ /tmp/a``), and one that counts the paths that are not named.

    Args:
        limit: Paths that are named; by default all that are known by name.
    """
    named = told.paths[:limit]
    more = told.total - len(named)
    return [*map(_path, named), *([f"… {more} more"] if more > 0 else [])]


def met(told: Pollution) -> list[str]:
    """What a failing test met of what others had left, and who had done that, one line each; last how much more."""
    name = escaped(told.name, _MAX_TEXT)
    lines = [
        f"{name} failed and {_did(touched)} {escaped(str(touched.left.path))}, "
        f"which {escaped(touched.by, _MAX_TEXT)} {touched.left.kind}"
        for touched in told.touched
    ]
    return [*lines, *([f"{name} failed and met {told.untold} more paths"] if told.untold else [])]


def summary(told: Sequence[Pollution]) -> str:
    """One line for all of it."""
    counts: collections.Counter[Kind] = collections.Counter()
    tests = sum(bool(each.test and each.total) for each in told)
    for each in told:
        counts.update(dict(zip(KINDS, each.counts, strict=True)))
    if not sum(counts.values()):
        return "no test left anything on the file system"
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{tests} {'test' if tests == 1 else 'tests'} left something on the file system; paths in all: {kinds}"


def _did(touched: Touched) -> str:
    if touched.did == "named":
        return "its failure names"
    return "listed the folder of" if touched.did == "listed" else escaped(touched.did)


def _path(left: Left) -> str:
    more = f" ({', '.join(left.attributes)})" if left.attributes and left.attributes != ("content",) else ""
    return f"{_SIGNS[left.kind]} {escaped(str(left.path))}{more}"


def _rows(fields: Mapping[str, Any], name: str) -> list[list[Any]]:
    value = fields.get(name)
    return [row for row in value if isinstance(row, list)] if isinstance(value, list) else []


def _left(row: Sequence[Any]) -> Left | None:
    match row:
        case [str(kind), str(path), list(attributes)] if kind in KINDS:
            return Left(PurePosixPath(path), kind, tuple(escaped(_text(each)) for each in attributes))
    return None


def _touched(row: Sequence[Any]) -> Touched | None:
    match row:
        case [str(did), str(path), str(kind), str(by)] if kind in KINDS:
            return Touched(did, Left(PurePosixPath(path), kind), by)
    return None


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
