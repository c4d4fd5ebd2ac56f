"""The command ``envpar``. Help and version need neither pytest nor an engine, so nothing else is imported here."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import EngineError, EnvparError, NotYetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FINE, FAILED, USAGE, INTERNAL = 0, 1, 2, 3
INTERRUPTED = 130

NOT_YET: dict[str, tuple[str, str]] = {
    "bundle": ("write everything that a run needs into one file", "push the image to a registry"),
    "verify": ("check a bundle", "name images by digest"),
    "replay": ("run a bundle", "run the suite in the stage"),
}
"""Documented commands that this version refuses: what each will do, and what serves until then."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; ``None`` takes the process's own.

    Returns:
        0 fine, 1 a check that failed, 2 usage, 3 engine or internal; ``run`` returns pytest's own status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["run"]:
            # Not by argparse: every argument behind "run" is pytest's, whatever it looks like.
            from pytest_envpar.session import launch

            # While pytest is imported the engine can work already.
            with contextlib.ExitStack() as stack:
                launched = launch.early(arguments[1:], stack.callback)

                from pytest_envpar.cli import run

                return run.run(arguments[1:], launched)
        return _command(arguments)
    except EnvparError as error:
        _complain(error.lines())
        return status_of(error)
    except KeyboardInterrupt:
        _complain(["interrupted"])
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has what it wanted. Python would complain once more while it closes stdout.
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115
        return FINE
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback of ours reaches a user
        _complain(_internal(error))
        return INTERNAL


def status_of(error: EnvparError) -> int:
    """The exit code that an error ends a command with."""
    return USAGE if isinstance(error, UsageError) else INTERNAL


def _command(arguments: list[str]) -> int:
    parser = make_parser()
    # It has a value with "=" only: what stands behind it is one of the two sides.
    arguments = ["--no-presets=*" if argument == "--no-presets" else argument for argument in arguments]
    known, unknown = parser.parse_known_args(arguments)
    if known.command is None:
        parser.print_help()
        return USAGE
    if known.command in NOT_YET:  # whatever its arguments will be
        what, instead = NOT_YET[known.command]
        raise NotYetError(
            f"{known.command}: to {what} is not yet part of this version",
            hint=f"until then: {instead}",
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    work: Callable[[Any], int] = known.work
    return work(known)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands except for the arguments of ``run``."""
    parser = argparse.ArgumentParser(
        prog="envpar",
        description="Run an unchanged pytest suite inside the container of a stage.",
        epilog="Exit codes: 0 fine, 1 a check that failed, 2 usage, 3 engine or internal; run: pytest's own.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "run", help="pytest, also where only the inside can judge the command line", add_help=False
    )
    _add(commands, "doctor", _doctor, "tell what works on this machine, what does not, and the fix")
    shell = _add(commands, "shell", _shell, "enter a fresh container of a stage, or run a command in one")
    shell.add_argument("stage", metavar="STAGE", help="the stage")
    shell.add_argument("words", metavar="COMMAND", nargs="*", help="a command instead of a shell, behind --")
    ps = _add(commands, "ps", _ps, "list what pytest-envpar has on the engine")
    ps.add_argument("--cache", action="store_true", help="list caches, too")
    prune = _add(commands, "prune", _prune, "remove what dead runs left on the engine")
    prune.add_argument("--cache", action="store_true", help="remove caches that are not in use, too")
    prune.add_argument(
        "--project", action="store_true", help="only of the project of this folder, not of all projects"
    )
    for command in (ps, prune, shell):
        command.add_argument("--engine", metavar="URL", help="use this engine instead of the configured one")
    init = _add(commands, "init", _init, "write a commented configuration")
    init.add_argument("--image", metavar="IMAGE", help="the image of the first stage")
    init.add_argument("--stage", metavar="NAME", default="dev", help="the name of the first stage (dev)")
    init.add_argument("--pyproject", action="store_true", help="add to pyproject.toml, not to envpar.toml")
    lock = _add(commands, "lock", _lock, "lock every stage to its exact image, where it is not yet")
    lock.add_argument("--check", action="store_true", help="only tell what is not locked as configured")
    _add(commands, "outdated", _outdated, "tell which locked images their registries have newer ones of")
    upgrade = _add(commands, "upgrade", _upgrade, "lock a stage to what its tag or Dockerfile gives today")
    upgrade.add_argument("stage", metavar="STAGE", help="the stage")
    for command in (lock, upgrade):
        command.add_argument("--engine", metavar="URL", help="use this engine instead of the configured one")
    graph = _add(commands, "graph", _graph, "draw which images share which layers, and what made each", ())
    graph.add_argument("names", nargs="*", metavar="NAME", help="a stage or an image; all stages by default")
    graph.add_argument(
        "--format", choices=("text", "svg", "html", "json"), help="by default as --output is named"
    )
    graph.add_argument("--output", metavar="FILE", help="write to FILE")
    graph.add_argument("--engine", metavar="URL", help="use this engine instead of the configured one")
    history = _add(commands, "history", _history, "tell the last runs, or how one test ended in them")
    history.add_argument("nodeid", nargs="?", metavar="NODEID", help="a test, with or without @STAGE")
    history.add_argument("--stage", metavar="STAGE", help="only runs of this stage")
    history.add_argument("--limit", type=_count, metavar="N", default=20, help="how many runs to tell (20)")
    from pytest_envpar.cli import diff

    diff.declare(commands, _diff)
    matrix = _add(commands, "matrix", _matrix, "write the stages as a matrix for CI, one job each", ())
    matrix.add_argument("stages", nargs="*", metavar="STAGE", help="these stages; all by default")
    matrix.add_argument(
        "--format", choices=("json", "text"), default="json", help="how to write it (json, in one line)"
    )
    for name, (what, _) in NOT_YET.items():
        commands.add_parser(name, help=f"{what} (not yet)", add_help=False)
    return parser


def _add(
    commands: Any,
    name: str,
    work: Callable[[Any], int],
    summary: str,
    formats: Sequence[str] = ("text", "json"),
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
    )
    if formats:
        parser.add_argument("--format", choices=formats, default="text", help="how to write the answer")
    parser.set_defaults(work=work)
    return parser


class _Version(argparse.Action):
    """Looks the version up only if it is asked for: reading metadata costs more than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata

        try:
            version = importlib.metadata.version("pytest-envpar")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        sys.stdout.write(f"pytest-envpar {version}\n")
        parser.exit()


def _doctor(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import show

    return show.doctor(asked.format)


def _shell(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import shell

    return shell.shell(asked.stage, asked.words, asked.engine)


def _ps(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import show

    return show.ps(asked.format, cache=asked.cache, engine=asked.engine)


def _prune(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import show

    return show.prune(asked.format, cache=asked.cache, engine=asked.engine, project=asked.project)


def _init(asked: argparse.Namespace) -> int:
    from pathlib import Path

    from pytest_envpar.cli import init

    place = init.write(Path.cwd(), stage=asked.stage, image=asked.image, pyproject=asked.pyproject)
    init.tell(dataclasses.asdict(place), asked.format)
    return FINE


def _lock(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import lock

    return lock.check(asked.format) if asked.check else lock.lock(asked.format, engine=asked.engine)


def _outdated(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import outdated

    return outdated.outdated(asked.format)


def _upgrade(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import lock

    return lock.upgrade(asked.format, asked.stage, engine=asked.engine)


def _graph(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import graph

    return graph.draw(asked.format, asked.names, output=asked.output, engine=asked.engine)


def _history(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import history

    return history.history(asked.format, asked.nodeid, stage=asked.stage, limit=asked.limit)


def _matrix(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import matrix

    return matrix.matrix(asked.format, asked.stages)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")


def _diff(asked: argparse.Namespace) -> int:
    from pytest_envpar.cli import diff

    return diff.diff(asked)


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write(f"envpar: {line}\n")


def _internal(error: Exception) -> list[str]:
    """A bug of ours in two lines that can be reported."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last is not None else ""
    wrapped = EngineError(
        f"internal error: {type(error).__name__}: {error}{where}", hint="please report this"
    )
    wrapped.code = "internal"
    return wrapped.lines()
