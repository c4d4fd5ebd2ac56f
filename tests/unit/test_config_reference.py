"""The reference is written by the schema, complete, current, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_envpar.config import load_settings, reference, schema
from pytest_envpar.config.schema import Key, Nested, Table

ROOT = Path(__file__).parents[2]


def test_the_committed_reference_is_current() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference.text(), f"docs/configuration.md is stale; run: {reference.COMMAND}"


def test_every_key_is_in_it() -> None:
    text = reference.text()
    for table in schema.tables():
        section = text.split(f"## `[tool.envpar{'.' if table.path else ''}{table.path}]`")[1].split("\n## ")[
            0
        ]
        for key in table.keys:
            assert f"\n| `{key.name}` | " in section


def test_its_example_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", reference.text(), re.DOTALL)
    file = tmp_path / "pyproject.toml"
    file.write_text(example)
    assert set(load_settings(file).stages) == {"dev", "qa", "small"}


def keys() -> list[tuple[Table, Key]]:
    return [(table, key) for table in schema.tables() for key in table.keys]


@pytest.mark.parametrize(
    ("table", "key"), keys(), ids=lambda value: getattr(value, "path", getattr(value, "name", ""))
)
def test_every_example_is_right(tmp_path: Path, table: Table, key: Key) -> None:
    example = key.example or ("" if isinstance(key.shape, Nested) else key.shape.example)
    assert example
    companions = {
        "ready": "" if key.name in {group[0] for group in schema.READY.one_of} else "http = '/'\n",
        "SERVICE": "" if key.name == "image" else "image = 'x'\n",
        "NAME": "" if key.name in ("image", "build") else "image = 'x'\n",
        "ignore": "path = '/x'\n" if key.name == "reason" else "reason = 'x'\n",
        "allow": "".join(f"{name} = 'x'\n" for name in ("package", "reason") if name != key.name),
    }.get(table.path.rpartition(".")[2], "")
    path = table.path.replace("NAME", "first").replace("SERVICE", "db")
    header = {"": "", "drift.ignore": "[[drift.ignore]]", "drift.allow": "[[drift.allow]]"}.get(
        path, f"[{path}]"
    )
    around = ""
    if path.startswith("stages.first.services.db.ready"):
        around = "[stages.first]\nimage = 'x'\n[stages.first.services.db]\nimage = 'x'\n"
    elif path.startswith("stages.first.services"):
        around = "[stages.first]\nimage = 'x'\n"
    others = "" if key.name == "stages" else "[stages.dev]\nimage = 'x'\n[stages.qa]\nimage = 'x'\n"
    file = tmp_path / "envpar.toml"
    file.write_text(f"{around}{header}\n{companions}{key.name} = {example}\n{others}")
    load_settings(file)
