"""Reads raw TOML tables along the schema: values out, problems collected, nothing raised."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pytest_envpar.config import schema
from pytest_envpar.config.kinds import BadValue
from pytest_envpar.config.schema import Key, Nested, Table
from pytest_envpar.config.suggest import did_you_mean, found, key_text, nearest, quoted
from pytest_envpar.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MOST_SHOWN = 20


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """One thing that is wrong: in which table and key, what, and what to write instead."""

    where: str
    what: str
    fix: str | None = None


class Problems:
    """The problems of one file, in the order they were found. Grows while the file is read.

    Args:
        file: The configuration file.
        prefix: The path of the table that holds the configuration: ``("tool", "envpar")`` or nothing.
    """

    def __init__(self, file: Path, prefix: tuple[str, ...]) -> None:
        self.file = file
        self.prefix = prefix
        self.found: list[Problem] = []

    def add(self, path: tuple[str, ...], key: str, what: str, fix: str | None = None) -> None:
        """Note a problem of ``key`` (empty for the table itself) in the table at ``path``."""
        table = self.table(path)
        self.found.append(Problem(f"{table} {key}".strip() or "the file", what, fix))

    def table(self, path: tuple[str, ...]) -> str:
        """The table at ``path`` as it is written in the file; empty for the top of the file."""
        parts = ".".join(key_text(part) for part in (*self.prefix, *path))
        return f"[{parts}]" if parts else ""

    def raise_if_any(self) -> None:
        """Raise all of them as one ConfigError."""
        if not self.found:
            return
        if len(self.found) == 1:
            only = self.found[0]
            raise ConfigError(f"{self.file}: {only.where}: {only.what}", hint=only.fix)
        lines = []
        for problem in self.found[:_MOST_SHOWN]:
            lines.append(f"{problem.where}: {problem.what}")
            if problem.fix:
                lines.append(f"    {problem.fix}")
        if len(self.found) > _MOST_SHOWN:
            lines.append(f"... and {len(self.found) - _MOST_SHOWN} more")
        raise ConfigError(
            f"{self.file}: {len(self.found)} problems in the configuration", detail=tuple(lines)
        )


def read(
    table: Table, raw: Mapping[str, object], path: tuple[str, ...], problems: Problems, *, complete: bool
) -> dict[str, Any]:
    """Read one table.

    Args:
        table: What may stand in it.
        raw: What stands in it.
        path: Where it stands, without the prefix of the file.
        problems: Takes what is wrong.
        complete: Whether the table is all there is. A stage that extends another is not: what it lacks, its
            parent may have.

    Returns:
        The good values by field name; nested tables as dictionaries, arrays of tables as tuples of them.
    """
    result: dict[str, Any] = {}
    for name, value in raw.items():
        key = table.key(name)
        if key is None:
            problems.add(path, "", f"unknown key {quoted(name)}", _unknown_key_hint(name, table, problems))
        elif isinstance(key.shape, Nested):
            _read_nested(key, key.shape, value, path, problems, result, complete=complete)
        else:
            try:
                result[key.target] = key.shape.parse(value)
            except BadValue as bad:
                fix = bad.fix or f"write for example: {key.name} = {key.example or key.shape.example}"
                problems.add(path, f"{key.name}{bad.at}", bad.message, fix)
    _check_groups(table, raw, path, problems, complete=complete)
    if complete:
        for key in table.keys:
            if key.required and key.name not in raw:
                problems.add(path, "", f"lacks the key {quoted(key.name)}", _example(key))
    return result


def _read_nested(
    key: Key,
    nested: Nested,
    value: object,
    path: tuple[str, ...],
    problems: Problems,
    result: dict[str, Any],
    *,
    complete: bool,
) -> None:
    inside = (*path, key.name)
    complete = complete and not nested.table.inherits
    wrong = f"expected {schema.expected_shape(nested)}, found {found(value)}"
    if nested.many == "list":
        if not isinstance(value, list):
            problems.add(path, key.name, wrong, _example(key))
            return
        entries = []
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                # TOML has no way to name one table of an array; [drift.ignore.2] would be another table.
                spot = (*path, f"{key.name}")
                before = len(problems.found)
                entries.append(read(nested.table, entry, spot, problems, complete=complete))
                problems.found[before:] = [
                    dataclasses.replace(problem, where=f"{problem.where} (entry {index + 1})")
                    for problem in problems.found[before:]
                ]
            else:
                problems.add(
                    path, f"{key.name}[{index}]", f"expected a table, found {found(entry)}", _example(key)
                )
        result[key.target] = tuple(entries)
    elif not isinstance(value, dict):
        problems.add(path, key.name, wrong, _example(key))
    elif nested.many == "one":
        result[key.target] = read(nested.table, value, inside, problems, complete=complete)
    else:
        named = result[key.target] = {}
        for name, entry in value.items():
            _check_name(nested.table, name, (*inside, name), problems)
            if isinstance(entry, dict):
                named[name] = read(nested.table, entry, (*inside, name), problems, complete=complete)
            else:
                problems.add(inside, key_text(name), f"expected a table, found {found(entry)}", _example(key))


def _check_groups(
    table: Table, raw: Mapping[str, object], path: tuple[str, ...], problems: Problems, *, complete: bool
) -> None:
    if not table.one_of:
        return
    leaders = [group[0] for group in table.one_of]
    given = [name for name in leaders if name in raw]
    if len(given) > 1:
        problems.add(path, "", f"has {_all_of(given)}, which exclude each other", "keep one of them")
    if complete and not given:
        fix = 'a stage may also take it from another one: extends = "NAME"' if table.inherits else None
        problems.add(path, "", f"has none of {', '.join(leaders)}; exactly one is needed", fix)
    if complete:
        for leader, *followers in table.one_of:
            for name in followers:
                if name in raw and leader not in raw and given:
                    problems.add(path, name, f"goes with {leader}, which is not given", f"remove {name}")


def _all_of(names: list[str]) -> str:
    return "both " + " and ".join(names) if len(names) == 2 else ", ".join(names[:-1]) + " and " + names[-1]


def _check_name(table: Table, name: str, path: tuple[str, ...], problems: Problems) -> None:
    if table is schema.STAGE:
        if name in schema.RESERVED_STAGES:
            problems.add(
                path, "", f"the stage name is reserved: {schema.RESERVED_STAGES[name]}", "choose another name"
            )
        elif not schema.STAGE_NAME.fullmatch(name):
            problems.add(
                path,
                "",
                f"{quoted(name)} is not a stage name: lower-case letters, digits and '_', a letter first",
                _better_stage_name(name),
            )
    elif not schema.SERVICE_NAME.fullmatch(name):
        problems.add(
            path,
            "",
            f"{quoted(name)} is not a service name: lower-case letters, digits, '-' and '_', a letter first",
        )


def _better_stage_name(name: str) -> str | None:
    better = "".join(c if c.isascii() and c.isalnum() else "_" for c in name[:60].lower()).strip("_")
    usable = schema.STAGE_NAME.fullmatch(better) and better not in schema.RESERVED_STAGES
    return f"write for example {better}" if usable else None


def _example(key: Key) -> str:
    example = key.example or (key.shape.example if not isinstance(key.shape, Nested) else "{ ... }")
    return f"write for example: {key.name} = {example}"


def _unknown_key_hint(name: str, table: Table, problems: Problems) -> str:
    # A right key in the wrong table is likelier than a slip that happens to look like another key.
    for other in schema.tables():
        if other is not table and other.key(name) is not None:
            return f"{key_text(name)} belongs to {_home(other, problems)}"
    own = [key.name for key in table.keys]
    if nearest(name, own) is None:
        for other in schema.tables():
            near = nearest(name, [key.name for key in other.keys])
            if near is not None:
                return f"did you mean {quoted(near)}? It belongs to {_home(other, problems)}"
    return did_you_mean(name, own, what="keys")


def _home(table: Table, problems: Problems) -> str:
    return problems.table(tuple(table.path.split(".")) if table.path else ()) or "the top of the file"
