"""What a run was and how it ended: the data that its reports are written from."""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.pollution import KINDS
from pytest_envpar.reports import drift_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.drift.findings import Drift, FailOn
    from pytest_envpar.drift.pollution import Pollution

VERSION = 1
WORST_FIRST = ("error", "failed", "xpassed", "xfailed", "skipped", "not run", "passed")
"""The ends of a test. Others are those of plugins, in their own words."""


@dataclasses.dataclass(frozen=True)
class StageFacts:
    """An environment of the run.

    Args:
        image: The reference, as configured or made by a build.
        digest: The registry's digest, or the image id of an image that has none.
        engine: Kind and version.
        python: The version inside; empty if the stage could not be started.
        source: How the project got in: overlay, mount, mount-rw or copy.
        lost: Why the stage could not be started; empty if it could.
    """

    name: str
    image: str = ""
    digest: str = ""
    engine: str = ""
    python: str = ""
    source: str = ""
    lost: str = ""


@dataclasses.dataclass(frozen=True)
class EndOfTest:
    """How a test, or a file that could not be collected, ended.

    Args:
        nodeid: Without the suffix of a stage.
        stage: The stage; None in a run without one.
        outcome: The worst of its phases, see ``WORST_FIRST``.
        duration_s: Of all its phases together, in seconds.
        text: The traceback and what was captured, or the reason of a skip; empty for a test that passed.
    """

    nodeid: str
    stage: str | None
    outcome: str
    duration_s: float
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Leftovers:
    """What ``--env-pollution`` found.

    Args:
        told: Of each test, and of what is none, what it left and what a failing one met.
        unattributed: Paths (in the container) that differ from the image and that nobody was seen changing.
        problems: Why not all of it is known.
    """

    told: tuple[Pollution, ...] = ()
    unattributed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunReport:
    """One run.

    Args:
        project: The project's name.
        started: When, as an ISO 8601 date and time with its offset.
        duration_s: How long, in seconds.
        exit_status: pytest's.
        drifts: The comparisons of ``--env-drift``.
        fail_on: The level at which the gate fails; None without a gate.
        errors: Why comparisons could not be made.
        differing: Node ids of the tests that end differently in different stages.
        pollution: What tests left behind; None if that was not asked for.
    """

    project: str
    started: str
    duration_s: float
    exit_status: int
    stages: tuple[StageFacts, ...] = ()
    tests: tuple[EndOfTest, ...] = ()
    drifts: tuple[Drift, ...] = ()
    fail_on: FailOn | None = None
    errors: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    pollution: Leftovers | None = None

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many tests ended how, by stage; a run without a stage has the key ``""``."""
        found: dict[str, collections.Counter[str]] = {
            stage.name: collections.Counter() for stage in self.stages
        }
        for test in self.tests:
            found.setdefault(test.stage or "", collections.Counter())[test.outcome] += 1
        return found

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The ends that occur, the best first."""
        seen = {test.outcome for test in self.tests}
        known = [outcome for outcome in reversed(WORST_FIRST) if outcome in seen]
        return (*known, *sorted(seen.difference(known)))

    @property
    def bad(self) -> tuple[EndOfTest, ...]:
        """The tests that failed, in the order of the run."""
        return tuple(test for test in self.tests if test.outcome in ("failed", "error"))

    @property
    def gates(self) -> tuple[Drift, ...]:
        """The comparisons that fail the run."""
        fail_on = self.fail_on
        return () if fail_on is None else tuple(drift for drift in self.drifts if drift.fails(fail_on))


def as_dict(report: RunReport) -> dict[str, Any]:
    """A run as JSON-ready data; each of its ``drift`` has the published form of ``envpar diff``."""
    return {
        "version": VERSION,
        "project": report.project,
        "started": report.started,
        "duration": round(report.duration_s, 3),
        "exit_status": report.exit_status,
        "stages": [dataclasses.asdict(stage) for stage in report.stages],
        "counts": {name: dict(counts) for name, counts in report.counts.items()},
        "differing": list(report.differing),
        "tests": [
            {
                "nodeid": test.nodeid,
                "stage": test.stage,
                "outcome": test.outcome,
                "duration": round(test.duration_s, 6),
                "text": test.text,
            }
            for test in report.tests
        ],
        "gate": None
        if report.fail_on is None
        else {
            "fail_on": report.fail_on,
            "failed": [[drift.left, drift.right] for drift in report.gates],
            "errors": list(report.errors),
        },
        "drift": [drift_json.as_dict(drift) for drift in report.drifts],
        "pollution": None
        if report.pollution is None
        else _leftovers(report.pollution, suffixed=len(report.stages) > 1),
    }


def _leftovers(found: Leftovers, *, suffixed: bool) -> dict[str, Any]:
    return {
        "left": [
            {
                **_whose(told, suffixed=suffixed),
                "counts": dict(zip(KINDS, told.counts, strict=True)),
                "paths": [
                    {"path": str(left.path), "kind": left.kind, "attributes": list(left.attributes)}
                    for left in told.paths
                ],
            }
            for told in found.told
            if told.total
        ],
        "met": [
            {
                **_whose(told, suffixed=suffixed),
                "did": met.did,
                "path": str(met.left.path),
                "kind": met.left.kind,
                "by": met.by,
            }
            for told in found.told
            for met in told.touched
        ],
        "untold": [
            {**_whose(told, suffixed=suffixed), "count": told.untold} for told in found.told if told.untold
        ],
        "unattributed": list(found.unattributed),
        "problems": list(found.problems),
    }


def _whose(told: Pollution, *, suffixed: bool) -> dict[str, str | None]:
    """Whose it is; node ids have a stage as their suffix only in a run over several."""
    nodeid = told.test.removesuffix(f"@{told.stage}") if suffixed else told.test
    return {"nodeid": nodeid or None, "owner": told.owner or None, "stage": told.stage or None}


def render(report: RunReport) -> str:
    """The text of a JSON file; see :func:`as_dict`."""
    return json.dumps(as_dict(report), indent=2) + "\n"


def headline(report: RunReport) -> str:
    """How the run ended, in one line: ``2 failed, 10 passed in dev, qa``."""
    total: collections.Counter[str] = collections.Counter(test.outcome for test in report.tests)
    told = ", ".join(f"{total[outcome]} {outcome}" for outcome in reversed(report.outcomes)) or "no tests"
    stages = ", ".join(stage.name for stage in report.stages)
    return told + (f" in {stages}" if stages else "")


def end(outcome: str | None) -> str:
    """An end as it stands in a table, where those that matter stand out."""
    if outcome is None:
        return "-"
    return outcome.upper() if outcome in ("failed", "error") else outcome
