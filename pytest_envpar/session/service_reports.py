"""What the services of a stage have to do with a test that failed: what they said meanwhile, and which is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_envpar.errors import escaped

if TYPE_CHECKING:
    import pytest

    from pytest_envpar.containers.services import RunningService, Services
    from pytest_envpar.session.stage_place import StagePlaces

_SETTLE_S = 0.1
"""How long lines may be on their way from a service to us: waited for only if the test has ended just now."""
_GRACE_S = 0.05
"""How much later than it was written the engine may have heard a line."""
_LINE = 2000


class ServiceReports:
    """Adds sections to the reports of one stage. It changes: it notes when the current test began."""

    def __init__(self, places: StagePlaces) -> None:
        self._places = places
        self._began = 0.0

    def add(self, report: pytest.TestReport) -> None:
        """Add what the services said since the test began to a report that failed."""
        start = float(getattr(report, "start", 0.0) or 0.0)
        if report.when == "setup":
            self._began = start
        services = self._places.services
        if not report.failed or services is None:
            return
        # The report of a test that took its worker with it has no times.
        stop = float(getattr(report, "stop", 0.0) or 0.0) or time.time()
        report.sections += sections(services, self._began or start, stop)

    def notes(self) -> list[str]:
        """Services that did not live as long as the run."""
        services = self._places.services
        if services is None:
            return []
        return [
            f"service {running.service.name} {running.end.how} during the run"
            for running in services.running
            if running.end is not None
        ]


def sections(services: Services, start: float, stop: float) -> list[tuple[str, str]]:
    """What each service said from ``start`` to ``stop`` (seconds since 1970), as sections of a report."""
    return [
        (f"service {running.service.name}", text)
        for running in services.running
        if (text := "\n".join(_told(running, start, stop)))
    ]


def _told(running: RunningService, start: float, stop: float) -> list[str]:
    fresh = abs(time.time() - stop) < _SETTLE_S and running.end is None
    lines = running.log.between(start, stop + _GRACE_S, settle_s=_SETTLE_S if fresh else 0.0)
    lines = [escaped(line[:_LINE]) for line in lines]
    end = running.end
    if end is not None and end.time <= stop + _GRACE_S:
        when = "while this test ran" if end.time >= start else f"{start - end.time:.1f} s before this test"
        lines.append(f"{running.service.name} {escaped(end.how)} {when}")
    return lines
