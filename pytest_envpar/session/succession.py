"""Which worker runs a test: the one that runs the others, or a fresh one where that has died."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.errors import EngineError, EnvparError
from pytest_envpar.session.link import MAX_RESTARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.session.crash import Death
    from pytest_envpar.session.link import Link


class Succession:
    """Follows the workers of one stage. It changes with each death.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config, link: Link) -> None:
        self.death: Death | None = None
        """Of the last worker, as long as none has followed it."""
        self.final: int | None = None
        """The exit status of a run that cannot go on."""
        self._config = config
        self._link = link

    def go_on(self, remaining: Sequence[int], nodeids: Sequence[str], failures: int) -> None:
        """If the worker has died, have a fresh one that runs the rest.

        Args:
            remaining: Indices of tests that have not run, in their order.
            nodeids: Node ids of all tests as the inside knows them, by index.
            failures: How many tests have failed so far.

        Raises:
            pytest.Session.Interrupted: There is no worker to be had.
        """
        death, self.death = self.death, None
        if death is None:
            return
        link, interrupted = self._link, pytest.Session.Interrupted
        if link.restarts >= self._max_restarts():
            raise interrupted(
                f"{link.restarts + 1} workers of stage {link.stage} died; {len(remaining)} tests were not run"
            )
        try:
            lost = link.restart(death, list(remaining), list(nodeids), failures)
        except EnvparError as error:
            if isinstance(error, EngineError):
                self.final = int(pytest.ExitCode.INTERNAL_ERROR)
            raise interrupted(
                f"no fresh worker for stage {link.stage}; {len(remaining)} tests were not run: {error}"
            ) from None
        if lost:
            names = ", ".join(nodeids[index] for index in lost[:3])
            raise interrupted(
                f"a fresh worker of stage {link.stage} did not collect {len(lost)} tests again: {names}"
            )

    def _max_restarts(self) -> int:
        # Of pytest-xdist, if it is there and has been told a number.
        told = self._config.getoption("maxworkerrestart", None)
        return int(told) if told is not None and str(told).isdigit() else MAX_RESTARTS
