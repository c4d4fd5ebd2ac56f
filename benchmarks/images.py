"""Measure what it costs to know which image a stage is, as ratios against the least that could be done.

    python benchmarks/images.py [--rounds N] [--files N] [--markdown FILE]

Needs a Docker Engine that has an image of `fixtures/setup_engine.py`. Two of a pair take turns in the same process, the
median of each is compared; nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.config.model import Settings, Stage
from pytest_envpar.engine.select import select_engine
from pytest_envpar.errors import EnvparError
from pytest_envpar.images.context import read_context
from pytest_envpar.images.locking import resolve_stage, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_envpar.engine.api import Engine

IMAGES = ("envpar-base:py3.11", "envpar-base:py3.13", "envpar-base:py3.9")
FILE_BYTES = 2_000
IN_A_FOLDER = 100
SETTLE_S = 2.5
"""Files that were written just now are read again; see pytest_envpar/images/digests.py."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One budget: medians in seconds, and how many times theirs ours may be."""

    name: str
    against: str
    ours_s: float
    theirs_s: float
    budget: float

    @property
    def ratio(self) -> float:
        return self.ours_s / self.theirs_s

    def row(self) -> str:
        met = "met" if self.ratio <= self.budget else "NOT met"
        return (
            f"| {self.name} | {self.against} | {self.ours_s * 1e3:.1f} ms | {self.theirs_s * 1e3:.1f} ms "
            f"| {self.ratio:.2f} | {self.budget} | {met} |"
        )


def compare(
    name: str,
    against: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    budget: float,
    rounds: int,
) -> Result:
    """Both in turn, after one round that does not count."""
    left, right = [], []
    for number in range(rounds + 1):
        one, other = seconds(ours), seconds(theirs)
        if number:
            left.append(one)
            right.append(other)
    return Result(name, against, statistics.median(left), statistics.median(right), budget)


def seconds(work: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Counting:
    """An engine that counts what it is asked beyond inspections of images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.others: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name not in ("inspect_image", "info"):
            self.others.append(name)
        return getattr(self._engine, name)


def resolving(engine: Engine, image: str, scratch: Path, rounds: int) -> Iterator[Result]:
    """A locked image that is there: no pull, no registry, nothing but inspections."""
    counting = Counting(engine)
    stage = Stage("qa", image=image)
    settings = Settings(scratch, scratch / "envpar.toml", {"qa": stage})
    settle(resolve_stage(engine, stage, settings, "local"))

    def ours() -> None:
        resolve_stage(counting, stage, settings, "ci")  # type: ignore[arg-type]

    def theirs() -> None:
        engine.inspect_image(image)
        engine.inspect_image(image)

    yield compare("resolve a locked, present image", "two inspects", ours, theirs, 1.1, rounds * 5)
    if counting.others:
        sys.exit(f"the engine was asked for more than inspections: {counting.others}")


def hashing(scratch: Path, files: int, rounds: int) -> Iterator[Result]:
    """The hash of a build's context."""
    root = scratch / "context"
    for number in range(files):
        file = root / f"d{number // IN_A_FOLDER:04}" / f"f{number % IN_A_FOLDER:04}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(FILE_BYTES))
    dockerfile = root / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /src\n")
    memory = scratch / "memory"
    time.sleep(SETTLE_S)
    first = read_context(root, dockerfile).digest(memory)

    def cold() -> None:
        read_context(root, dockerfile).digest()

    def warm() -> None:
        if read_context(root, dockerfile).digest(memory) != first:
            sys.exit("the remembered hash is another one")

    def read() -> None:
        for path in walked(root):
            with open(path, "rb") as file:  # noqa: PTH123 - the least that could be done
                file.read()

    def stat() -> None:
        for path in walked(root):
            os.lstat(path)

    size = f"{files:,} files"
    yield compare(f"hash a context of {size}", "reading them once", cold, read, 1.3, rounds)
    yield compare(f"the same, unchanged since ({size})", "a stat walk", warm, stat, 1.2, rounds)


def walked(root: Path) -> Iterator[str]:
    """Every file below a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.join(folder, name)  # noqa: PTH118


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.closing(select_engine(("auto",), os.environ)) as engine:
                image = next((name for name in IMAGES if engine.inspect_image(name) is not None), None)
                if image is None:
                    sys.exit(f"none of {', '.join(IMAGES)} is there; run fixtures/setup_engine.py")
                results += resolving(engine, image, Path(folder), options.rounds)
        except EnvparError as error:
            sys.exit(str(error))
        results += hashing(Path(folder), options.files, options.rounds)
    head = [
        "| work | against | median, ours | median, theirs | ratio | budget | |",
        "|---|---|---|---|---|---|---|",
    ]
    text = "\n".join([*head, *(result.row() for result in results)])
    sys.stdout.write(text + "\n")
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
