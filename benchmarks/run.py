"""Measure the design's budgets as ratios, each against something timed in the same rounds on the same machine.

    python benchmarks/run.py [--rounds N] [--local-python PATH] [--only NAME ...] [--markdown FILE]

Two virtual environments are made once in the cache folder: `host` (this project and pytest) and `local` (pytest alone,
for the interpreter given with --local-python: it should be the same build as the image's, or the ratio says more about
interpreters than about us). A stage's image is `envpar-base:py3.N` of the same minor version, see
`fixtures/setup_engine.py`. Commands of a pair take turns, the median of each is compared.

Some rows tell the least that is possible for a container started anew: the other command's own time, and what has to
happen before or after it, each measured in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-envpar" / "bench"
REAL_SUITE = "more-itertools==10.7.0"


@dataclasses.dataclass(frozen=True)
class Result:
    """One budget: what was measured, its ratio (or difference) and what the design allows."""

    name: str
    against: str
    ours_s: float
    theirs_s: float
    value: float
    unit: str
    budget: float
    rounds: int
    floor: float | None = None
    """The least value that a run in a container started anew can have; None where nothing stands in the way."""

    @property
    def met(self) -> bool:
        return self.value <= self.budget


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where things are: two interpreters, the image, a scratch folder."""

    host: Path
    local: Path
    image: str
    baked: str
    scratch: Path
    rounds: int

    def project(self, name: str, tests: int) -> Path:
        """A project with ``tests`` trivial tests in files of 100."""
        root = self.scratch / name
        (root / "tests").mkdir(parents=True, exist_ok=True)
        self.configure(root)
        for number in range(0, tests, 100):
            body = "".join(
                f"def test_{n}():\n    assert {n} == {n}\n\n" for n in range(min(100, tests - number))
            )
            (root / "tests" / f"test_{number // 100:04}.py").write_text(body)
        return root

    def tells_first(self, name: str) -> Path:
        """A project whose only test prints when it runs."""
        root = self.project(name, 1)
        (root / "tests" / "test_0000.py").write_text(
            "import time\ndef test_first():\n    print('first test at %r' % time.time())\n"
        )
        return root

    def configure(self, root: Path) -> None:
        (root / "envpar.toml").write_text(f'[stages.qa]\nimage = "{self.image}"\nnetwork = "none"\n')
        (root / "pytest.ini").write_text("[pytest]\n")

    def stage_run(self, root: Path, *more: str) -> float:
        return timed([str(self.host), "-m", "pytest", "-q", "--env=qa", *more], root)

    def local_run(self, root: Path, *more: str) -> float:
        return timed([str(self.local), "-m", "pytest", "-q", *more], root)

    def turns(self, *works: Callable[[], float]) -> list[list[float]]:
        """What each took, all in turn, after one round that does not count."""
        rounds = [[work() for work in works] for _ in range(self.rounds + 1)]
        return [list(each) for each in zip(*rounds[1:], strict=True)]


def timed(command: list[str], cwd: Path) -> float:
    """Wall seconds of a command that must succeed."""
    start = time.perf_counter()
    output(command, cwd)
    return time.perf_counter() - start


def output(command: list[str], cwd: Path) -> str:
    """What a command prints that must succeed."""
    # In CI a stage has to be locked before it runs; these projects are made here.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "CI"))
    }
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        told = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        sys.exit(f"{' '.join(command)} in {cwd} ended with {done.returncode}\n{told}")
    return done.stdout


def first_test(command: list[str], cwd: Path) -> float:
    """Seconds until the first test of a command runs, by the clock that host and container have in common."""
    start = time.time()
    told = output(command, cwd)
    found = re.search(r"first test at ([\d.]+)", told)
    if found is None:
        sys.exit(f"{' '.join(command)} in {cwd} ran no test:\n{told[-3000:]}")
    return float(found[1]) - start


def ratio(
    name: str, against: str, ours: list[float], theirs: list[float], budget: float, *more: list[float]
) -> Result:
    """Medians compared.

    Args:
        more: What ours has to do besides what theirs does, one after the other: these make the floor.
    """
    left, right = statistics.median(ours), statistics.median(theirs)
    floor = (right + sum(map(statistics.median, more))) / right if more else None
    return Result(name, against, left, right, left / right, "x", budget, len(ours), floor)


def bare_run(bench: Bench, root: Path) -> list[str]:
    """A bare `docker run` of an image with pytest baked in."""
    bare = ["docker", "run", "--rm", "--network=none", "-v", f"{root}:{root}", "-w", str(root), bench.baked]
    return [*bare, "/venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def first(bench: Bench) -> Iterator[Result]:
    """The first test in a cold container against the first of a bare `docker run`."""
    root = bench.tells_first("first")
    stage = [str(bench.host), "-m", "pytest", "-q", "-s", "--env=qa"]
    bare = [*bare_run(bench, root), "-s"]
    ours, theirs, before = bench.turns(
        lambda: first_test(stage, root), lambda: first_test(bare, root), lambda: knowing_later(bench, root)
    )
    yield ratio(
        "time to first test, cold container", "bare docker run, pytest baked in", ours, theirs, 1.25, before
    )


def single(bench: Bench) -> Iterator[Result]:
    """The whole run of a single cold test, from start to prompt."""
    root = bench.project("single", 1)
    bare = bare_run(bench, root)
    ours, theirs, before = bench.turns(
        lambda: bench.stage_run(root), lambda: timed(bare, root), lambda: knowing_later(bench, root)
    )
    yield ratio("a single test, whole run", "bare docker run, pytest baked in", ours, theirs, 1.25, before)


def knowing(bench: Bench, root: Path) -> float:
    """Seconds until the host's pytest can know of a stage: it has loaded its plugins, without ours."""
    return timed([str(bench.host), "-m", "pytest", "-p", "no:envpar", "--version"], root)


def knowing_later(bench: Bench, root: Path) -> float:
    """The same beyond the start of the `docker` command, which a bare run has to pay for."""
    return knowing(bench, root) - timed(["docker", "--version"], root)


def reuse(bench: Bench) -> Iterator[Result]:
    """The first test in a warm container against local pytest."""
    root = bench.tells_first("reuse")
    warm = [str(bench.host), "-m", "pytest", "-q", "-s", "--env=qa", "--env-reuse"]
    local = [str(bench.local), "-m", "pytest", "-q", "-s"]
    try:
        ours, theirs = bench.turns(lambda: first_test(warm, root), lambda: first_test(local, root))
    finally:
        remove_warm(root)
    yield ratio("time to first test, --env-reuse", "local pytest", ours, theirs, 1.5)


def remove_warm(root: Path) -> None:
    """Remove the container that waits for the next run of a project that goes."""
    mine = ["--filter", f"label=pytest-envpar.project={root}", "--filter", "label=pytest-envpar.warm"]
    for container in run(["docker", "ps", "-aq", *mine]).split():
        run(["docker", "rm", "--force", "--volumes", container])
    volumes = run(["docker", "volume", "ls", "-q", *mine]).split()
    for volume in sorted(volumes, key=lambda name: not name.endswith("-source")):
        run(["docker", "volume", "rm", volume])


def thousand(bench: Bench) -> Iterator[Result]:
    """1,000 trivial tests beyond start-up."""
    one, many = bench.project("single", 1), bench.project("thousand", 1000)
    stage, stage_one, local, local_one = bench.turns(
        lambda: bench.stage_run(many),
        lambda: bench.stage_run(one),
        lambda: bench.local_run(many),
        lambda: bench.local_run(one),
    )
    ours = [whole - start for whole, start in zip(stage, stage_one, strict=True)]
    theirs = [whole - start for whole, start in zip(local, local_one, strict=True)]
    yield ratio("1,000 trivial tests, beyond start-up", "local pytest", ours, theirs, 1.15)


def ten_thousand(bench: Bench) -> Iterator[Result]:
    """10,000 trivial tests, whole wall."""
    root = bench.project("ten-thousand", 10_000)
    empty = ["docker", "run", "--rm", "--network=none", bench.image, "true"]
    ours, theirs, before, container = bench.turns(
        lambda: bench.stage_run(root),
        lambda: bench.local_run(root),
        lambda: knowing(bench, root),
        lambda: timed(empty, root),
    )
    yield ratio("10,000 trivial tests, whole run", "local pytest", ours, theirs, 1.05, before, container)


def real(bench: Bench) -> Iterator[Result]:
    """A third-party suite: at most 1.10 of local plus one container start."""
    root = third_party(bench)
    one = bench.project("single", 1)
    stage, theirs, stage_one, local_one = bench.turns(
        lambda: bench.stage_run(root, "tests"),
        lambda: bench.local_run(root, "tests"),
        lambda: bench.stage_run(one),
        lambda: bench.local_run(one),
    )
    ours = [whole - (start - local) for whole, start, local in zip(stage, stage_one, local_one, strict=True)]
    yield ratio(f"suite of {REAL_SUITE}, less one start", "local pytest", ours, theirs, 1.10)


def without(bench: Bench) -> Iterator[Result]:
    """A run without a stage: milliseconds beyond pytest alone."""
    root = bench.project("single", 1)
    with_us = [str(bench.host), "-m", "pytest", "-q"]
    blocked = [str(bench.host), "-m", "pytest", "-q", "-p", "no:envpar"]
    ours, theirs = bench.turns(lambda: timed(with_us, root), lambda: timed(blocked, root))
    left, right = statistics.median(ours), statistics.median(theirs)
    yield Result(
        "a run without --env",
        "the same with -p no:envpar",
        left,
        right,
        (left - right) * 1000,
        "ms",
        10,
        len(ours),
    )


CASES = {
    "first": first,
    "single": single,
    "reuse": reuse,
    "thousand": thousand,
    "ten-thousand": ten_thousand,
    "real": real,
    "without": without,
}


def third_party(bench: Bench) -> Path:
    """The unpacked source distribution of a pure Python package with a suite of some seconds."""
    name, _, version = REAL_SUITE.partition("==")
    root = bench.scratch / f"{name.replace('-', '_')}-{version}"
    if not root.exists():
        downloads = CACHE / "sdists"
        downloads.mkdir(parents=True, exist_ok=True)
        if not list(downloads.glob(f"{root.name}*.tar.gz")):
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
            run([*pip, "-d", str(downloads), REAL_SUITE])
        with tarfile.open(next(iter(downloads.glob(f"{root.name}*.tar.gz")))) as archive:
            archive.extractall(bench.scratch, filter="data")
    bench.configure(root)
    return root


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def environment(name: str, python: str, *packages: str) -> Path:
    """A virtual environment in the cache; made again when what is in it changes."""
    folder = CACHE / name
    interpreter = folder / "bin" / "python"
    wanted = json.dumps([run([python, "-VV"]), packages])
    stamp = folder / "stamp.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run([python, "-m", "venv", str(folder)])
        run([str(interpreter), "-m", "pip", "install", "-q", *packages])
        stamp.write_text(wanted)
    return interpreter


def baked_image(base: str, wheels: Path) -> str:
    """An image with pytest in a virtual environment, for the bare `docker run`."""
    tag = f"envpar-bench:{base.rpartition(':')[2]}"
    if run(["docker", "images", "-q", tag]).strip():
        return tag
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(wheels, folder / "wheels")
        (folder / "Dockerfile").write_text(
            textwrap.dedent(
                f"""\
                FROM {base}
                COPY wheels /wheels
                RUN python3 -m venv /venv && /venv/bin/pip install --no-index --find-links /wheels pytest
                """
            )
        )
        run(["docker", "build", "-q", "-t", tag, str(folder)])
    return tag


def prepared(rounds: int, local_python: str) -> Bench:
    version = run([local_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    image = f"envpar-base:py{version}"
    if not run(["docker", "images", "-q", image]).strip():
        sys.exit(f"there is no image {image}: python fixtures/setup_engine.py makes it")
    pytest_version = run([sys.executable, "-c", "import pytest; print(pytest.__version__)"]).strip()
    host = environment("host", sys.executable, f"pytest=={pytest_version}", str(ROOT))
    run([str(host), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(ROOT)])
    local = environment("local", local_python, f"pytest=={pytest_version}")
    wheels = CACHE / f"wheels-{pytest_version}"
    if not wheels.exists():
        run([str(local), "-m", "pip", "download", "-q", "-d", str(wheels), f"pytest=={pytest_version}"])
    scratch = Path(tempfile.mkdtemp(prefix="envpar-bench-"))
    return Bench(host, local, image, baked_image(image, wheels), scratch, rounds)


def table(results: list[Result]) -> str:
    """A Markdown table."""
    rows = [
        "| work | against | median, ours | median, theirs | value | least possible | budget | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        value, budget = f"{row.value:.2f} {row.unit}", f"{row.budget:g} {row.unit}"
        floor = "" if row.floor is None else f"{row.floor:.2f} {row.unit}"
        rows.append(
            f"| {row.name} | {row.against} | {row.ours_s:.2f} s | {row.theirs_s:.2f} s "
            f"| {value} | {floor} | {budget} | {'met' if row.met else 'not met'} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each pair")
    parser.add_argument("--local-python", default="/usr/bin/python3", help="interpreter of the local runs")
    parser.add_argument("--only", choices=sorted(CASES), nargs="*", help="these cases only")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    bench = prepared(arguments.rounds, arguments.local_python)
    results: list[Result] = []
    try:
        for name, case in CASES.items():
            if not arguments.only or name in arguments.only:
                for result in case(bench):
                    print(table([result]).splitlines()[-1], flush=True)
                    results.append(result)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)
    text = table(results)
    print(
        f"\n{text}\n\n{arguments.rounds} rounds, medians; {os.cpu_count()} cores, Python {sys.version.split()[0]}"
    )
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
