"""Measure what `--env-pollution` costs: each suite runs in a stage with the option and without it, in turns.

    python benchmarks/pollution.py [--rounds N] [--local-python PATH] [--only NAME ...]

The image, the environments and the budgets' form are those of `benchmarks/run.py`; the budget is 1.10 of the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from run import Bench, Result, prepared, ratio, table, third_party

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUDGET = 1.10
WRITES = """
import pytest
@pytest.mark.parametrize("n", range(200))
def test_writes(n):
    with open(f"/tmp/left-{n}", "w") as file:
        file.write("x")
"""
CHILDREN = """
import subprocess
import pytest
@pytest.mark.parametrize("n", range(50))
def test_child(n):
    subprocess.run(["/bin/sh", "-c", f"echo {n} > /tmp/child && rm /tmp/child"], check=True)
"""


def trivial(bench: Bench) -> tuple[Path, tuple[str, ...]]:
    return bench.project("pollution-trivial", 1000), ()


def real(bench: Bench) -> tuple[Path, tuple[str, ...]]:
    return third_party(bench), ("tests",)


def writing(bench: Bench) -> tuple[Path, tuple[str, ...]]:
    return _alone(bench, "pollution-writes", WRITES), ()


def children(bench: Bench) -> tuple[Path, tuple[str, ...]]:
    return _alone(bench, "pollution-children", CHILDREN), ()


def _alone(bench: Bench, name: str, text: str) -> Path:
    root = bench.project(name, 0)
    (root / "tests" / "test_it.py").write_text(text)
    return root


CASES: dict[str, tuple[str, Callable[[Bench], tuple[Path, tuple[str, ...]]]]] = {
    "trivial": ("1,000 trivial tests", trivial),
    "real": ("the suite of a third party", real),
    "writes": ("200 tests that leave a file each", writing),
    "children": ("50 tests that start a process each", children),
}


def measured(bench: Bench, title: str, root: Path, more: tuple[str, ...]) -> Result:
    ours, theirs = bench.turns(
        lambda: bench.stage_run(root, "--env-pollution", *more), lambda: bench.stage_run(root, *more)
    )
    return ratio(title, "the same without --env-pollution", ours, theirs, BUDGET)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each pair")
    parser.add_argument("--local-python", default="/usr/bin/python3", help="decides which image is used")
    parser.add_argument("--only", choices=sorted(CASES), nargs="*", help="these cases only")
    arguments = parser.parse_args()
    bench = prepared(arguments.rounds, arguments.local_python)
    results = []
    try:
        for name, (title, case) in CASES.items():
            if not arguments.only or name in arguments.only:
                results.append(measured(bench, title, *case(bench)))
                print(table(results[-1:]).splitlines()[-1], flush=True)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)
    print(f"\n{table(results)}\n\n{arguments.rounds} rounds, medians; {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
