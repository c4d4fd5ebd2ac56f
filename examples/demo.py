"""The demo: one suite, two stages, and a bug that only one of them has.

    python examples/demo.py

Runs the suite of ``examples/parity_bug`` in dev and in qa. Ends with 0 when dev passes and qa shows the bug. The suite
runs in a copy: a first run locks its stages in a file envpar.lock, and the images are made on each machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

PROJECT = Path(__file__).parent / "parity_bug"
BUG = "test_reserving_takes_from_the_stock"


def run(stage: str, folder: Path) -> tuple[int, set[str], int]:
    """Run the suite in a stage and show it; gives exit code, failed tests, and how many tests there were."""
    xml = folder / f"{stage}.xml"
    # In CI only what is locked may run; this shows what somebody sees who runs it for the first time.
    environ = {name: value for name, value in os.environ.items() if name != "CI"}
    command = ["pytest", f"--env={stage}"]
    print(f"\n$ cd {PROJECT.relative_to(PROJECT.parent.parent)} && {shlex.join(command)}", flush=True)
    # -m: the pytest beside this interpreter, whatever else is on PATH.
    ended = subprocess.run(
        [sys.executable, "-m", *command, f"--junitxml={xml}"],
        cwd=folder / PROJECT.name,
        env=environ,
        check=False,
    )
    if not xml.exists():
        return ended.returncode, set(), 0
    cases = list(ET.parse(xml).iter("testcase"))
    failed = {
        case.get("name", "?")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    return ended.returncode, failed, len(cases)


def main() -> int:
    print("The same suite runs in two stages that pyproject.toml declares. Only the image differs:")
    print("  dev  Debian 12, Python 3.11, SQLite 3.40")
    print("  qa   Debian 11, Python 3.9,  SQLite 3.34")
    with tempfile.TemporaryDirectory() as folder:
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "envpar.lock")
        shutil.copytree(PROJECT, Path(folder) / PROJECT.name, ignore=ignored)
        dev_exit, dev_failed, dev_count = run("dev", Path(folder))
        if dev_exit != 0:
            print(f"\ndemo: dev was expected to pass, but ended with {dev_exit}: {sorted(dev_failed)}")
            return 1
        qa_exit, qa_failed, qa_count = run("qa", Path(folder))
    if qa_exit != 1 or qa_failed != {BUG} or qa_count != dev_count:
        print(f"\ndemo: qa was expected to fail in {BUG} alone; it ended with {qa_exit}: {sorted(qa_failed)}")
        return 1
    print(f"\ndemo: as expected. All {dev_count} tests pass in dev; in qa one fails: {BUG}.")
    print("demo: the code uses UPDATE ... RETURNING, which the SQLite of qa's image does not know yet.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
