"""Measure what container fixtures cost, as ratios to the engine's own calls on the same engine in the same rounds.

    python benchmarks/containers.py [--rounds N] [--image IMAGE]

Where testcontainers and pytest-docker-tools are installed (`tox -e bench-containers` does so), their figures stand
beside ours, each starting and removing containers of the same image. Pairs take turns, and the median of each is
compared; of suites also how long a test waits for its container, the first two left out.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar import userfiles
from pytest_envpar.containers.labels import Owner
from pytest_envpar.containers.source import PathFacts, plan_source
from pytest_envpar.engine.select import select_engine
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.worker.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.containers.recipe import Recipe
    from pytest_envpar.engine.api import Engine

IMAGE = "envpar-base:py3.11"
MANY = 20
SPIKE = 50
TESTS = 10
WORK_S = 0.5


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pieces of the same work; each returns seconds."""

    name: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    budget: float | None


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if a budget was missed."""
    parser = argparse.ArgumentParser(prog="containers.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image", default=IMAGE)
    asked = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="envpar-bench-"))
    environ = dict(os.environ)
    engine = select_engine(("auto",), environ)
    supply = Supply(None, Owner.current(root), engine, userfiles.cache_dir(environ), environ)
    missed = 0
    try:
        for pair in pairs(engine, supply, asked.image):
            rounds = [(pair.ours(), pair.theirs()) for _ in range(asked.rounds)]
            ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
            # Of pairs of one round: what else the machine does meets both.
            ratio = statistics.median(a / b for a, b in rounds)
            verdict = "" if pair.budget is None else "met" if ratio <= pair.budget else "MISSED"
            missed += verdict == "MISSED"
            budget = f" (budget {pair.budget:.2f}, {verdict})" if pair.budget is not None else ""
            sys.stdout.write(
                f"{pair.name}: {ours * 1000:.0f} ms : {theirs * 1000:.0f} ms = {ratio:.2f}{budget}\n"
            )
            sys.stdout.flush()
        began = time.perf_counter()
        spike(supply, asked.image)
        sys.stdout.write(
            f"{SPIKE} containers at once, started and removed: {time.perf_counter() - began:.1f} s\n"
        )
    finally:
        supply.close()
    beside(root, asked.image, asked.rounds)
    engine.close()
    return 1 if missed else 0


def pairs(engine: Engine, supply: Supply, image: str) -> list[Pair]:
    """What is compared. The same container both times: image, idle command, mount, labels, no network."""
    recipe = dataclasses.replace(
        supply.image(image), stage=dataclasses.replace(supply.image(image).stage, network="none")
    )
    root = Path(tempfile.mkdtemp(prefix="envpar-bench-source-"))
    overlaid = dataclasses.replace(recipe, plan=plan_source(engine.info, PathFacts(), "overlay", root))
    spec = raw_spec(recipe)

    def ours_one() -> float:
        began = time.perf_counter()
        container = supply.start(recipe)
        took = time.perf_counter() - began
        container.remove()
        return took

    def ours_overlaid() -> float:
        began = time.perf_counter()
        container = supply.start(overlaid)
        took = time.perf_counter() - began
        container.remove()
        return took

    def raw_one() -> float:
        began = time.perf_counter()
        made = engine.create_container(spec)
        engine.start(made)
        took = time.perf_counter() - began
        engine.remove_container(made)
        return took

    def ours_many() -> float:
        began = time.perf_counter()
        made = supply.start_many([recipe] * MANY)
        took = time.perf_counter() - began
        for container in made:
            container.remove()
        return took

    def raw_many() -> float:
        def start(_: int) -> str:
            made = engine.create_container(spec)
            engine.start(made)
            return made

        with concurrent.futures.ThreadPoolExecutor(MANY) as work:
            began = time.perf_counter()
            made = list(work.map(start, range(MANY)))
            took = time.perf_counter() - began
        for each in made:
            engine.remove_container(each)
        return took

    return [
        Pair("one container ready : create + start", ours_one, raw_one, 1.10),
        Pair("the same with the project as an overlay : without", ours_overlaid, ours_one, None),
        Pair(f"{MANY} containers ready : raw parallel calls", ours_many, raw_many, 1.15),
    ]


def raw_spec(recipe: Recipe) -> ContainerSpec:
    """The container of ``recipe`` as one writes it without us."""
    return ContainerSpec(
        recipe.image.image_id,
        recipe.command[1:],
        recipe.owner.labels("run", "image"),
        entrypoint=recipe.command[:1],
        network="none",
        mounts=recipe.mounts,
    )


def spike(supply: Supply, image: str) -> None:
    """Many at once; the supply bounds how many are started at the same moment."""
    made = supply.start_many([supply.image(image)] * SPIKE)
    for container in made:
        supply.drop(container)


OURS = """
    import pytest
    @pytest.fixture
    def container(envpar_containers):
        return envpar_containers.start(image={image!r})
"""
TESTCONTAINERS = """
    import pytest
    from testcontainers.core.container import DockerContainer
    @pytest.fixture
    def container():
        with DockerContainer({image!r}).with_command("sleep 600") as made:
            yield made
"""
DOCKER_TOOLS = """
    from pytest_docker_tools import container as make, image as named
    base = named(name={image!r})
    container = make(image="{{base.id}}", command=["sleep", "600"])
"""
POOLED = """
    import pytest
    @pytest.fixture
    def container(bench_container):
        return bench_container
"""


def beside(root: Path, image: str, rounds: int) -> None:
    """The same suite with each: tests that get a container of their own, and then do something else for a while."""
    tests = "".join(
        f"def test_{number}(container):\n    import time\n    time.sleep({WORK_S})\n"
        for number in range(TESTS)
    )
    (root / "envpar.toml").write_text(f'source = "mount"\n[stages.bench]\nimage = "{image}"\n')
    suites: dict[str, tuple[str, tuple[str, ...]]] = {
        "a stage's fixture": (POOLED, ()),
        "a stage's fixture, inside a stage": (POOLED, ("--env=bench",)),
        "the factory": (OURS, ()),
        **({"testcontainers": (TESTCONTAINERS, ())} if find_spec("testcontainers") else {}),
        **({"pytest-docker-tools": (DOCKER_TOOLS, ())} if find_spec("pytest_docker_tools") else {}),
    }
    environ = {**os.environ, "TESTCONTAINERS_RYUK_DISABLED": "true", "CI": ""}
    for number, (code, _) in enumerate(suites.values()):
        (root / f"test_{number}.py").write_text(textwrap.dedent(code).format(image=image) + tests)
    times: dict[str, list[float]] = {name: [] for name in suites}
    waits: dict[str, list[float]] = {name: [] for name in suites}
    for _ in range(rounds):
        for number, (name, (_, options_of)) in enumerate(suites.items()):
            began = time.perf_counter()
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-vv", "--durations=0", "-p", "no:cacheprovider"),
                    *(*options_of, f"test_{number}.py"),
                ],
                cwd=root,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            took = time.perf_counter() - began
            if done.returncode:
                sys.stdout.write(f"{name}: {done.stdout[-2000:]}{done.stderr[-500:]}\n")
                break
            times[name].append(took)
            # What took less than pytest tells is missing there.
            found = _setups(done.stdout)
            waits[name] += [found.get(f"test_{each}", 0.0) for each in range(2, TESTS)]
    for name, taken in times.items():
        if taken:
            sys.stdout.write(
                f"{TESTS} tests of {WORK_S} s, a container each, {name}: {statistics.median(taken):.2f} s, "
                f"a test waits {statistics.median(waits[name]) * 1000:.0f} ms\n"
            )


def _setups(out: str) -> dict[str, float]:
    """Seconds of the set-up by test, as ``--durations=0`` tells them."""
    return {
        name: float(seconds)
        for seconds, name in re.findall(r"^([\d.]+)s setup +\S+::(\w+)", out, re.MULTILINE)
    }


if __name__ == "__main__":
    raise SystemExit(main())
