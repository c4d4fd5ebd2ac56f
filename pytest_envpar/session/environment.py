"""What reports say of a stage of a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.reports.run import StageFacts
    from pytest_envpar.worker.start import Ground


@dataclasses.dataclass(frozen=True)
class Environment:
    """A stage as the run knows it at its end.

    Args:
        ground: What its containers have in common; None if it could not be started.
        python: The version that ran inside, where the run has heard of it.
        lost: Why it could not be started, or was given up.
    """

    name: str
    ground: Ground | None
    python: str = ""
    lost: str = ""

    def facts(self) -> StageFacts:
        """The same for a reader of the report."""
        # At the end of the run: at its start every module delays the first container.
        from pytest_envpar.reports.run import StageFacts

        ground = self.ground
        if ground is None:
            return StageFacts(self.name, lost=self.lost or "was not started")
        info = ground.engine.info
        return StageFacts(
            self.name,
            ground.image.reference,
            ground.image.digest or ground.image.image_id,
            f"{info.kind} {info.version}",
            self.python or ".".join(map(str, ground.probe.version)),
            ground.plan.mode,
            self.lost,
        )
