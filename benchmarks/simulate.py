"""What many workers on many engines would cost, on paper: a simulation of image distribution, starts and scheduling.

    python benchmarks/simulate.py [--tests N] [--mean SECONDS] [--markdown FILE]

No machine of ours has fifty engines. What one engine and one controller do is measured (`benchmarks/run.py`,
`benchmarks/containers.py`); this file puts those figures together and shows which of them bends the curve first:

- every engine pulls the image once, over its own link and its share of the registry's;
- an engine starts so many containers a second, one after the other as it does under load;
- the controller hears of each test that ends, one at a time, and gives out work as `--dist load` of pytest-xdist does:
  a quarter evenly at first, then half of a fair share of the rest to whoever has less than a quarter of one.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import heapq
import itertools
import random
from pathlib import Path

RESERVE = 2
"""Tests that a worker of pytest-xdist always knows ahead: the teardown of one needs to know the next."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """Measured figures, in seconds and bytes; the defaults are those of two cores and a gigabit.

    Args:
        image: Bytes that an engine without the image pulls.
        engine_link: Bytes a second into one engine.
        registry_link: Bytes a second out of the registry, for all engines together.
        first_start: From the request to the first test, for one container on an idle engine.
        starts: Containers that an engine starts a second.
        controller: Time of the controller for each test that ends.
        process: Bytes of memory of a worker's process on the host, without tests.
        item: Bytes that each test of the suite takes in each of these processes.
    """

    image: float = 150e6
    engine_link: float = 125e6
    registry_link: float = 1.25e9
    first_start: float = 0.6
    starts: float = 8.0
    controller: float = 0.001
    process: float = 45e6
    item: float = 3_000.0

    def memory(self, tests: int, workers: int) -> float:
        """Bytes of all workers' processes: each knows all tests of the suite."""
        return workers * (self.process + tests * self.item)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One simulated run.

    Args:
        wall: Seconds from the start to the last report.
        ideal: Seconds of the tests alone, evenly on all workers.
        pulled: When the last engine had the image.
        started: When the last worker was ready.
        idle: The share of the workers' time, once ready, in which they had nothing to run.
        busy: The share of the run in which the controller was at work.
        ran: How often each test ran.
    """

    wall: float
    ideal: float
    pulled: float
    started: float
    idle: float
    busy: float
    ran: collections.Counter[int]

    @property
    def efficiency(self) -> float:
        """What part of the workers' time from start to end was tests."""
        return self.ideal / self.wall


def durations(tests: int, mean: float, seed: int = 1) -> list[float]:
    """Times of a suite's tests: most are short, a few are long (log-normal, a spread as in large suites)."""
    rng = random.Random(seed)
    spread = 1.2
    drawn = [rng.lognormvariate(0.0, spread) for _ in range(tests)]
    scale = mean * tests / sum(drawn) if drawn else 1.0
    return [each * scale for each in drawn]


def ready_times(workers: int, engines: int, costs: Costs) -> tuple[float, list[float]]:
    """When the image is on all engines, and when each worker is ready; workers go round the engines."""
    link = min(costs.engine_link, costs.registry_link / engines)
    pulled = costs.image / link if costs.image else 0.0
    return pulled, [
        pulled + costs.first_start + (number // engines) / costs.starts for number in range(workers)
    ]


def simulate(times: list[float], workers: int, engines: int, costs: Costs) -> Outcome:
    """Run a suite whose tests take ``times`` on ``workers`` spread over ``engines``.

    Raises:
        ValueError: There is no worker or no engine.
    """
    if workers < 1 or engines < 1:
        raise ValueError("a run needs a worker and an engine")
    pulled, ready = ready_times(workers, engines, costs)
    waiting = collections.deque(range(len(times)))
    known: list[collections.deque[int]] = [collections.deque() for _ in range(workers)]
    running = [False] * workers
    # The time in which a worker has nothing to run begins when it is ready.
    since = list(ready)
    idle = 0.0
    ran: collections.Counter[int] = collections.Counter()
    order = itertools.count()
    events: list[tuple[float, int, str, int]] = [
        (time, next(order), "ready", worker) for worker, time in enumerate(ready)
    ]
    heapq.heapify(events)
    free = 0.0
    worked = 0.0
    now = 0.0

    def give(worker: int, count: int) -> None:
        for _ in range(min(count, len(waiting))):
            known[worker].append(waiting.popleft())

    def run(worker: int, at: float) -> None:
        nonlocal idle
        # The last test that a worker knows waits for the one after it, or for word that there is none.
        if running[worker] or not known[worker] or (len(known[worker]) < RESERVE and waiting):
            return
        running[worker] = True
        idle += at - since[worker]
        heapq.heappush(events, (at + times[known[worker][0]], next(order), "done", worker))

    first = max(RESERVE, len(times) // (4 * workers))
    while events:
        now, _, kind, worker = heapq.heappop(events)
        if kind == "ready":
            give(worker, first)
        elif kind == "done":
            ran[known[worker].popleft()] += 1
            running[worker] = False
            since[worker] = now
            free = max(now, free) + costs.controller
            worked += costs.controller
            heapq.heappush(events, (free, next(order), "heard", worker))
        elif len(known[worker]) < max(RESERVE, len(waiting) // (4 * workers)):
            give(worker, max(RESERVE, len(waiting) // (2 * workers)) - len(known[worker]))
        run(worker, now)
        if not waiting:
            for other in range(workers):
                if known[other] and not running[other] and ready[other] <= now:
                    run(other, now)
    idle += sum(now - start for start in since if start < now)
    alive = sum(now - min(time, now) for time in ready)
    return Outcome(
        wall=now,
        ideal=sum(times) / workers,
        pulled=pulled,
        started=max(ready),
        idle=idle / alive if alive else 0.0,
        busy=worked / now if now else 0.0,
        ran=ran,
    )


SIZES = ((1, 1), (4, 1), (16, 1), (64, 4), (256, 16), (1_000, 50), (4_000, 200))


def table(tests: int, mean: float, costs: Costs) -> str:
    """The table of the documentation."""
    times = durations(tests, mean)
    heads = (
        *("workers", "engines", "image on all", "last worker ready", "wall", "efficiency"),
        *("idle once ready", "controller busy", "workers' memory"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for workers, engines in SIZES:
        found = simulate(times, workers, engines, costs)
        lines.append(
            f"| {workers:,} | {engines} | {found.pulled:.1f} s | {found.started:.1f} s | {found.wall:,.0f} s "
            f"| {found.efficiency:.0%} | {found.idle:.0%} | {found.busy:.0%} "
            f"| {costs.memory(tests, workers) / 1e9:,.1f} GB |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tests", type=int, default=100_000)
    parser.add_argument("--mean", type=float, default=0.1, help="seconds of a test, on average")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    for field in dataclasses.fields(Costs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    asked = parser.parse_args()
    costs = Costs(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Costs)})
    text = table(asked.tests, asked.mean, costs)
    print(text, end="")
    if asked.markdown is not None:
        asked.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
