"""What a run leaves in the ledger: which image it ran in, and how its tests ended.

The ledger is imported at the end only: a run does not wait for SQLite before its first test.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from pytest_envpar import userfiles
from pytest_envpar.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_envpar.config.model import Settings
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage
    from pytest_envpar.ledger import Ledger, OutcomeRecord
    from pytest_envpar.worker.start import Ground

_WORST_FIRST = ("error", "failed", "xpassed", "xfailed", "skipped", "passed")


class Memory:
    """Writes down one run.

    Args:
        settings: The project's configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started = time.time()
        self._problems: dict[str, None] = {}

    def keep(self, ground: Ground, status: int, stats: Mapping[str, Iterable[Any]], suffix: str = "") -> None:
        """Write down how the tests ended.

        Args:
            ground: What the run's containers have in common.
            status: pytest's exit status.
            stats: Reports by category, as pytest's terminal reporter keeps them.
            suffix: What the node ids of this stage end with, in a run over several.
        """
        from pytest_envpar.ledger import RunRecord

        outcomes = outcomes_of(stats, suffix)
        info = ground.engine.info
        run = RunRecord(
            project=str(self._settings.root),
            stage=ground.stage.name,
            image_id=ground.image.image_id,
            engine=f"{info.kind} {info.version} at {info.url}",
            started=self._started,
            ended=time.time(),
            exit_status=status,
            counts=collections.Counter(each.outcome for each in outcomes),
        )
        with self._open() as ledger:
            if ledger is not None:
                ledger.runs.record(run, outcomes)

    def see(self, engine: Engine, image: PinnedImage) -> None:
        """Write down the image of the run, and which instruction made which layer of it. Fit for another thread."""
        from pytest_envpar.images import lineage

        with self._open() as ledger:
            if ledger is not None and ledger.usable:
                # Of an engine that goes away the run itself has told.
                with contextlib.suppress(EngineError):
                    lineage.remember(ledger, engine, image.info, (image.reference,))

    def tell(self) -> None:
        """Say what is wrong with the ledger, where it is not in the way of the results."""
        for problem in self._problems:
            sys.stderr.write(f"envpar: ledger: {problem}\n")

    @contextlib.contextmanager
    def _open(self) -> Iterator[Ledger | None]:
        try:
            ledger = userfiles.open_ledger()
        except UsageError as error:
            self._problems.update(dict.fromkeys(error.lines()))
            yield None
            return
        with ledger:
            yield ledger
        self._problems.update(dict.fromkeys(ledger.problems))


def outcomes_of(stats: Mapping[str, Iterable[Any]], suffix: str = "") -> list[OutcomeRecord]:
    """How each test, and each file that could not be collected, ended: the worst of its phases decides.

    Args:
        suffix: What the node ids that count end with; the outcomes are without it.
    """
    from pytest_envpar.ledger import OutcomeRecord

    ends: dict[str, str] = {}
    durations: dict[str, float] = collections.defaultdict(float)
    for reports in stats.values():
        for report in reports:
            # Also durations of phases that pytest does not count.
            if getattr(report, "when", None) in ("setup", "call", "teardown"):
                durations[report.nodeid] += report.duration
    for category in _WORST_FIRST:
        for report in stats.get(category, ()):
            nodeid = getattr(report, "nodeid", None)
            if nodeid and nodeid.endswith(suffix):
                ends.setdefault(nodeid, category)
    return [
        OutcomeRecord(nodeid.removesuffix(suffix), end, durations.get(nodeid, 0.0))
        for nodeid, end in ends.items()
    ]
