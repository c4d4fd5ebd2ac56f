"""``envpar diff A B``: what differs between two environments, and what it means."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.cli import FAILED, FINE
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from pytest_envpar.config.model import Settings
    from pytest_envpar.drift.findings import FailOn
    from pytest_envpar.session.comparing import Answer

FORMATS = ("text", "json", "markdown", "sarif")
FAIL_ON = ("none", "any", "file", "config", "package", "runtime")
LIMIT = 50


def declare(commands: Any, work: Callable[[Any], int]) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser(
        "diff",
        help="compare two environments",
        description="Compare two environments: stages, images, containers, files (docker save, OCI layout, export), "
        "locked stages (lock:STAGE), or host, the machine's own interpreter and Python packages.",
        epilog="A prefix says what a name is where it could be several things: stage: image: container: file: lock:",
        allow_abbrev=False,
    )
    parser.add_argument("left", metavar="A", help="one side")
    parser.add_argument("right", metavar="B", help="the other side")
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to write the answer (text)")
    parser.add_argument(
        "--fail-on", choices=FAIL_ON, default="any", help="the lowest level that makes the exit code 1 (any)"
    )
    parser.add_argument("--output", metavar="PATH", help="write to PATH instead of standard output")
    parser.add_argument("--limit", type=_count, default=LIMIT, metavar="N", help=f"findings shown ({LIMIT})")
    parser.add_argument(
        "--explain", action="store_true", help="tell how the answer was found, and why that way"
    )
    parser.add_argument("--show-hidden", action="store_true", help="list what was hidden")
    parser.add_argument(
        "--no-presets",
        nargs="?",
        const="*",
        default="",
        metavar="NAME,…",
        help="show noise: of all presets, or of those that are named (--no-presets=bytecode,mtime)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list the files behind each finding")
    parser.add_argument("--engine", metavar="URL", help="use this engine instead of the configured one")
    parser.set_defaults(work=work)


def diff(asked: argparse.Namespace) -> int:
    """Compare, write the answer, and return the exit code: 1 if a finding is of the asked level or a higher one."""
    from pytest_envpar.config import find_config, load_settings
    from pytest_envpar.config.model import DriftPolicy
    from pytest_envpar.drift.policy import Policy
    from pytest_envpar.engine.bars import Teller
    from pytest_envpar.images import locking
    from pytest_envpar.reports import files
    from pytest_envpar.session import hooks
    from pytest_envpar.session.comparing import Comparer

    without = presets(asked.no_presets)
    file = find_config(Path.cwd())
    settings = load_settings(file) if file is not None else None
    table = settings.drift if settings is not None else DriftPolicy()
    manager = hooks.command_manager()
    comparer = Comparer(
        settings,
        Path.cwd(),
        engine=asked.engine,
        formats=hooks.formats(manager.hook),
        mode=locking.mode_of(os.environ),
        progress=Teller(),
        classify=hooks.classifier(manager.hook),
    )
    with contextlib.closing(comparer):
        policy = Policy.of(table, dt.datetime.now(tz=dt.timezone.utc).astimezone().date(), without=without)
        answer = comparer.answer(asked.left, asked.right, policy, diffs=asked.format in ("text", "markdown"))
    hooks.found(manager.hook, answer.drift)
    colour = asked.format == "text" and not asked.output and _colours(os.environ, sys.stdout.isatty())
    text = render(answer, asked.format, asked, settings, colour=colour)
    if asked.output:
        files.write(Path(asked.output), text)
        text = text.partition("\n")[0] + "\n" if asked.format == "text" else ""
    sys.stdout.write(text)
    fail_on: FailOn = asked.fail_on
    return FAILED if answer.drift.fails(fail_on) else FINE


def presets(text: str) -> frozenset[str]:
    """The presets that are off.

    Raises:
        UsageError: There is none of that name.
    """
    from pytest_envpar.config.suggest import did_you_mean
    from pytest_envpar.drift.policy import EVERY_PRESET

    if text == "*":
        return EVERY_PRESET
    named = frozenset(name for name in text.split(",") if name)
    for name in sorted(named - EVERY_PRESET):
        raise UsageError(
            f"--no-presets={text}: there is no preset {name!r}",
            hint=did_you_mean(name, sorted(EVERY_PRESET), what="presets"),
        )
    return named


def render(
    answer: Answer, form: str, asked: argparse.Namespace, settings: Settings | None, *, colour: bool = False
) -> str:
    """The answer as text of one of the formats, with a final newline."""
    from pytest_envpar.reports import drift_json, drift_markdown, drift_sarif, drift_text

    if form == "json":
        return drift_json.render([answer.drift])
    if form == "sarif":
        place = settings.file.relative_to(settings.root).as_posix() if settings is not None else "envpar.toml"
        return drift_sarif.render([answer.drift], place)
    if form == "markdown":
        return _joined(drift_markdown.render(answer.drift, limit=asked.limit, diffs=answer.diffs))
    return _joined(
        drift_text.render(
            answer.drift,
            limit=asked.limit,
            verbose=asked.verbose,
            show_hidden=asked.show_hidden,
            explain=asked.explain,
            colour=colour,
            diffs=answer.diffs,
        )
    )


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _colours(environ: Any, terminal: bool) -> bool:
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (terminal and environ.get("TERM") != "dumb")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
