"""Writes the configuration reference, ``docs/configuration.md``; :data:`COMMAND` says how."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_envpar.config import schema
from pytest_envpar.config.schema import Key, Nested, Table
from pytest_envpar.config.values import GLOSSARY

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = "python -m pytest_envpar.config.reference > docs/configuration.md"

_INTRO = f"""\
<!-- Generated from the schema that validates the configuration. Do not edit; run: {COMMAND} -->

# Configuration

The configuration is the table `[tool.envpar]` of `pyproject.toml`, or the same keys at the top level of
`envpar.toml`. The first of the two, from pytest's rootdir upwards, is used; both in one folder are an error.
The folder of the file is the project root: what lies outside it is not inside the container.

```toml
[tool.envpar.stages.dev]
image = "python:3.12-slim"

[tool.envpar.stages.qa]
build    = {{ context = ".", dockerfile = "docker/qa.Dockerfile", target = "qa", args = {{ V = "1" }} }}
env      = {{ APP_ENV = "qa" }}
pass-env = ["CI"]
memory   = "512m"
network  = "none"

[tool.envpar.stages.small]
extends = "qa"
memory  = "128m"
```

`pytest --env=qa` then runs the suite inside a container of the stage `qa`.

## Rules

- Keys are kebab-case. An unknown key is an error that names the nearest known one; all errors of a file are
  told at once.
- Stage names are lower-case letters, digits and `_`, beginning with a letter, because they become fixture
  names. {{reserved}} are reserved.
- `extends` starts from another stage: tables (`env`, `build`, `ulimits`, ...) are merged key by key,
  everything else is replaced. A stage that gives `image` drops the `build` it inherits, and the other way
  round. Every stage ends up with exactly one of `image` and `build`, its own or an inherited one.
- Relative paths are relative to the configuration file.
- An array of several engines is a [pool](pool.md).
- `[tool.envpar.drift]` is for `--env-drift`; `ignore`, `allow` and `no-presets` also for `envpar diff`. See
  [Drift](drift.md).
"""


def lines() -> Iterator[str]:
    """The reference as lines of Markdown, without line ends."""
    *names, last = (f"`{name}`" for name in sorted(schema.RESERVED_STAGES))
    yield from _INTRO.replace("{reserved}", f"{', '.join(names)} and {last}").splitlines()
    yield ""
    yield "## Kinds of values"
    yield ""
    for kind in GLOSSARY:
        yield f"- **{kind.name}**: {kind.doc} Example: `{kind.example}`."
    for table in schema.tables():
        yield ""
        yield from _table(table)


def text() -> str:
    """The whole reference."""
    return "\n".join(lines()) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield f"## `[tool.envpar{'.' if table.path else ''}{table.path}]`"
    yield ""
    yield table.doc
    yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in table.keys:
        yield f"| {' | '.join((f'`{key.name}`', _type(key), _default(table, key), _meaning(key)))} |"


def _type(key: Key) -> str:
    if not isinstance(key.shape, Nested):
        return key.shape.name
    return {"one": "table", "named": "table of tables", "list": "array of tables"}[key.shape.many]


def _default(table: Table, key: Key) -> str:
    if key.required:
        return "*required*"
    if any(key.name == group[0] for group in table.one_of):
        return "*exactly one*"
    return key.default or "none"


def _meaning(key: Key) -> str:
    example = key.example or ("" if isinstance(key.shape, Nested) else key.shape.example)
    shown = f" Example: `{key.name} = {example}`" if example else ""
    # A bar inside code still ends the cell of a table.
    return (key.doc + shown).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(text())
