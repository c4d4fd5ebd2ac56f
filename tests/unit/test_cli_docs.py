"""The documentation names every error and every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_envpar.cli import NOT_YET, make_parser
from pytest_envpar.errors import EngineError, EnvparError, UsageError

DOCS = Path(__file__).parents[2] / "docs"


def _classes(base: type[EnvparError] = EnvparError) -> list[type[EnvparError]]:
    below = [each for sub in base.__subclasses__() for each in _classes(sub)]
    return [base, *(each for each in below if each.__module__ == "pytest_envpar.errors")]


@pytest.mark.parametrize("error", _classes(), ids=lambda error: error.code)
def test_every_error_has_an_entry(error: type[EnvparError]) -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert f"\n## {error.code}\n" in text
    by_pytest = 3 if issubclass(error, EngineError) else 4
    by_envpar = 2 if issubclass(error, UsageError) else 3
    row = f"| [`{error.code}`](#{error.code}) | {by_pytest} | {by_envpar} | `{error.__name__}` |"
    assert row in text


def test_help_names_every_command() -> None:
    text = make_parser().format_help()
    for name in (
        "run",
        "doctor",
        "ps",
        "prune",
        "init",
        "lock",
        "outdated",
        "upgrade",
        "graph",
        "history",
        "matrix",
        "shell",
        *NOT_YET,
    ):
        assert f"\n    {name} " in text


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_in_the_index(page: Path) -> None:
    if page.name != "index.md":
        assert f"({page.name})" in (DOCS / "index.md").read_text(encoding="utf-8")
