"""Compare two test runs outcome by outcome: every node id, never totals.

    python tests/parity/compare.py files LOCAL.xml STAGE.xml
    python tests/parity/compare.py runs --stage qa [--python .venv/bin/python] -- [pytest arguments]

``runs`` runs the suite of the working directory twice, here and inside the stage, and compares what both wrote as
JUnit XML. Exit code 0: the same; 1: a table of the differences follows; 2: something could not be read or run.
Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Difference:
    """One node id whose outcomes are not the same; an outcome is empty where the test is missing."""

    nodeid: str
    left: str
    right: str


class CannotCompareError(Exception):
    """A file or a run is not what it should be."""


def outcomes(file: Path, *, messages: bool = False) -> dict[str, str]:
    """Node id (as JUnit spells it) to outcome. A test with several entries has several words, in order.

    Args:
        file: JUnit XML as pytest writes it.
        messages: Add the message of what failed or was skipped to the outcome.

    Raises:
        CannotCompareError: It is not such a file.
    """
    try:
        root = ET.parse(file).getroot()
    except (OSError, ET.ParseError) as error:
        raise CannotCompareError(f"{file}: {error}") from error
    found: dict[str, list[str]] = {}
    for case in root.iter("testcase"):
        nodeid = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        found.setdefault(nodeid, []).append(_outcome(case, messages))
    return {nodeid: "+".join(words) for nodeid, words in found.items()}


def _outcome(case: ET.Element, messages: bool) -> str:
    words = []
    for kind, word in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        for entry in case.findall(kind):
            shown = "xfailed" if entry.get("type") == "pytest.xfail" else word
            words.append(f"{shown} ({entry.get('message', '')})" if messages else shown)
    return "+".join(words) or "passed"


def differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[Difference]:
    """What differs, in the order of the left run; tests that only the right one has come last."""
    names = dict.fromkeys([*left, *right])
    return [
        Difference(name, left.get(name, ""), right.get(name, ""))
        for name in names
        if left.get(name) != right.get(name)
    ]


def table(found: Sequence[Difference], left: str = "left", right: str = "right") -> list[str]:
    """The differences as lines of a table."""
    rows = [(left, right, "node id")]
    rows += [(entry.left or "(missing)", entry.right or "(missing)", entry.nodeid) for entry in found]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]


def run(command: Sequence[str], file: Path, cwd: Path) -> None:
    """Run pytest and have it write ``file``. Raises CannotCompareError if it did not."""
    ended = subprocess.run([*command, f"--junitxml={file}"], cwd=cwd, check=False)
    if not file.exists():
        raise CannotCompareError(f"{' '.join(command)} ended with {ended.returncode} and wrote no JUnit XML")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    names = ("left", "right")
    try:
        if options.what == "files":
            files = (options.left, options.right)
            left, right = (outcomes(file, messages=options.messages) for file in files)
        else:
            names = ("local", options.stage)
            with tempfile.TemporaryDirectory() as folder:
                files = (Path(folder, "left.xml"), Path(folder, "right.xml"))
                rest = [argument for argument in options.arguments if argument != "--"]
                run([str(options.python), "-m", "pytest", *rest], files[0], Path.cwd())
                run(
                    [sys.executable, "-m", "pytest", f"--env={options.stage}", *rest],
                    files[1],
                    Path.cwd(),
                )
                left, right = (outcomes(file, messages=options.messages) for file in files)
    except CannotCompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = differences(left, right)
    if found:
        print("\n".join(table(found, *names)))
    print(f"{len(left)} and {len(right)} tests, {len(found)} with different outcomes")
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", action="store_true", help="compare messages of failures and skips, too")
    commands = parser.add_subparsers(dest="what", required=True)
    files = commands.add_parser("files", help="compare two JUnit XML files")
    files.add_argument("left", type=Path)
    files.add_argument("right", type=Path)
    runs = commands.add_parser("runs", help="run the suite of this folder locally and in a stage")
    runs.add_argument("--stage", required=True)
    runs.add_argument("--python", default=sys.executable, help="for the local run (default: this one)")
    runs.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
