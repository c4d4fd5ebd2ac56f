"""Which worker runs a test: the one that runs the others, a fresh one where that has died, or one in the next container
where the user wants a new one for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.errors import EngineError, EnvparError
from pytest_envpar.session.fresh import first_turn, turn
from pytest_envpar.session.link import MAX_RESTARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.session.crash import Death
    from pytest_envpar.session.fresh import Scope
    from pytest_envpar.session.link import Link
    from pytest_envpar.session.stage_place import StagePlaces
    from pytest_envpar.worker.start import Site

_NOTHING = object()


class Succession:
    """Follows the workers of one stage. It changes with each death and each container.

    Args:
        config: pytest's configuration.
        places: The stage's containers.
        scope: What has a container of its own.
        look: Has a last look at a container that is left; called in a thread.
    """

    def __init__(
        self,
        config: pytest.Config,
        link: Link,
        places: StagePlaces,
        scope: Scope,
        look: Callable[[Site], None],
    ) -> None:
        self.death: Death | None = None
        """Of the last worker, as long as none has followed it."""
        self.final: int | None = None
        """The exit status of a run that cannot go on."""
        self._config = config
        self._link = link
        self._places = places
        self._scope = scope
        self._look = look
        self._turn: object = _NOTHING

    def begin(self, indices: Sequence[int], nodeids: Sequence[str]) -> list[int]:
        """Those of the tests that the first worker runs; see :meth:`go_on`."""
        mine = first_turn(self._scope, indices, nodeids)
        if mine:
            self._turn = turn(self._scope, mine[0], nodeids[mine[0]])
        if len(mine) < len(indices):
            self.look_ahead()
        return mine

    def is_over(self, index: int, nodeids: Sequence[str]) -> bool:
        """Whether the test with this index needs another container than the current one."""
        if self._scope == "session":
            return False
        due = turn(self._scope, index, nodeids[index])
        if self._turn is _NOTHING:
            self._turn = due
        return due != self._turn

    def look_ahead(self) -> None:
        """Begin to start the next container; returns at once."""
        self._places.ahead(self._link.greet)

    def go_on(self, index: int, remaining: Sequence[int], nodeids: Sequence[str], failures: int) -> None:
        """Have a fresh worker: in the next container where the test that is due needs one, else where the last died.

        Args:
            index: Of the test that is due.
            remaining: Indices of tests that have not run, in their order.
            nodeids: Node ids of all tests as the inside knows them, by index.
            failures: How many tests have failed so far.

        Raises:
            pytest.Session.Interrupted: There is no worker to be had.
        """
        death, self.death = self.death, None
        link, interrupted = self._link, pytest.Session.Interrupted
        if death is not None and link.restarts >= self._max_restarts() and not death.engine_gone:
            raise interrupted(
                f"{link.restarts + 1} workers of stage {link.stage} died; {len(remaining)} tests were not run"
            )
        mine = first_turn(self._scope, remaining, nodeids)
        try:
            if self.is_over(index, nodeids):
                link.restarts += death is not None
                site = self._places.next(link.greet, self._look)
                lost = link.move(site, mine, list(nodeids), failures)
            else:
                assert death is not None
                lost = link.restart(death, mine, list(nodeids), failures)
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
        self._turn = turn(self._scope, index, nodeids[index])
        if len(mine) < len(remaining):
            self.look_ahead()

    def _max_restarts(self) -> int:
        # Of pytest-xdist, if it is there and has been told a number.
        told = self._config.getoption("maxworkerrestart", None)
        return int(told) if told is not None and str(told).isdigit() else MAX_RESTARTS
