"""Running tests one by one, as the host says: what comes next is made up on the way (pytest-xdist)."""

import contextlib
from typing import Any, Callable, Dict, List

import pytest

from . import wire
from .channel import Channel


class Told:
    """Owns the order of one session's tests.

    With several stages a worker of pytest-xdist may go to another stage and come back to this one, or not. Then only
    what belongs to the test itself is torn down after it. Fixtures of its class, module and session wait until it is
    known what comes next, as the next test must find them or must not.

    Args:
        channel: Where the host says what to run.
        credit: Called with how many tests may have been started.
        reporting: Called with a test before something more is reported of it.
    """

    def __init__(
        self, channel: Channel, credit: Callable[[int], None], reporting: Callable[[Any], None]
    ) -> None:
        self._channel = channel
        self._credit = credit
        self._reporting = reporting
        self._first: Dict[Any, List[Any]] = {}

    def run(self, session: Any) -> bool:
        """Run what the host says until it says that there is no more."""
        items = session.items
        for item in items:
            siblings = self._first.setdefault(item.parent, [])
            if len(siblings) < 2:
                siblings.append(item)
        left: Any = None
        while True:
            message = self._channel.receive()
            if isinstance(message, wire.Credit):
                self._credit(message.total)
            elif isinstance(message, wire.Run):
                item = None if message.index is None else items[message.index]
                if left is not None:
                    self._tear_down(left, item)
                    left = None
                if item is None:
                    return True
                if message.following == wire.UNKNOWN:
                    left, following = item, self._neighbour(item)
                else:
                    following = None if message.following is None else items[message.following]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)

    def _neighbour(self, item: Any) -> Any:
        """What has the same class or module: before it no more is torn down than what is the test's own."""
        others = [other for other in self._first[item.parent] if other is not item]
        return others[0] if others else item.parent

    def _tear_down(self, item: Any, following: Any) -> None:
        """Tear down what the test has left to the next one, which does not need it; tell of it only if that fails."""
        state = item.session._setupstate
        capture = item.config.pluginmanager.get_plugin("capturemanager")
        captured = contextlib.nullcontext() if capture is None else capture.item_capture("teardown", item)

        def tear_down() -> None:
            with captured:
                if int(pytest.__version__.split(".")[0]) >= 7:
                    state.teardown_exact(following)
                else:
                    state.teardown_exact(item, following)

        call = pytest.CallInfo.from_call(
            tear_down, when="teardown", reraise=(pytest.exit.Exception, KeyboardInterrupt)
        )
        if call.excinfo is not None:
            self._reporting(item)
            hook = item.ihook
            hook.pytest_runtest_logreport(report=hook.pytest_runtest_makereport(item=item, call=call))
