"""Hearing what the worker says between the tests, and when no test is waited for any more."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pytest_envpar.session import crash, decode
from pytest_envpar.session.names import shown
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_envpar.session.link import Link
    from pytest_envpar.session.pollution import PollutionReport
    from pytest_envpar.session.signals import Signals
    from pytest_envpar.session.summary import Summary

EXIT_S = 5.0
EXIT_PER_TEST_S = 0.001
"""How long a worker may take to leave after its session."""
_SLICE_S = 0.1
"""How often a run that waits for its worker looks whether a signal came."""


class Hearing:
    """Takes messages in, and hands those that belong to no test to pytest.

    It changes as the run goes on: ``shown`` are the indices of tests that the host has begun to show, ``unseen`` those
    that it heard of only afterwards.

    Args:
        on_signal: Called once, with the number, when a signal was noted while the run waits; does not return.
        suffix: What node ids of this stage end with in this run.
        pollution: Who wants to know what was left by what is no test, if anybody.
    """

    def __init__(
        self,
        config: pytest.Config,
        link: Link,
        signals: Signals,
        summary: Summary,
        on_signal: Callable[[int], None],
        suffix: str,
        pollution: PollutionReport | None = None,
    ) -> None:
        self.shown: set[int] = set()
        self.unseen: set[int] = set()
        self.interrupted = False
        self.again = False
        """Whether other containers have been heard before: what they said of the whole run is said again."""
        self._properties: set[tuple[str, str]] = set()
        self.late: Callable[[wire.Report], object] | None = None
        """Takes what is reported of a test after it has ended."""
        self._config = config
        self._link = link
        self._signals = signals
        self._summary = summary
        self._on_signal = on_signal
        self._suffix = suffix
        self._pollution = pollution

    def receive(self, timeout_s: float | None = None) -> wire.Message | crash.Death | None:
        """The next message; None if the time is up. Does not return if a signal came."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            number = self._signals.noted()
            if number is not None and not self.interrupted:
                self.interrupted = True
                self._on_signal(number)
            message = self._link.receive(_SLICE_S)
            if message is not None or (deadline is not None and time.monotonic() >= deadline):
                return message

    def aside(self, message: wire.Message) -> None:
        """Show a message that belongs to no test: a warning, a plugin's text, a value for the XML file, pollution."""
        config = self._config
        if isinstance(message, wire.Warned):
            location = message.fields.get("location")
            config.hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": decode.warning(message.fields),
                    "when": message.fields.get("when"),
                    "nodeid": self._named(str(message.fields.get("nodeid") or "")),
                    "location": tuple(location) if location else None,
                }
            )
        elif isinstance(message, wire.Text):
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            if message.where in ("summary", "newline"):
                self._summary.inside.append(message.text if message.where == "summary" else None)
            elif reporter is not None:
                reporter.write(message.text, flush=True)
            else:
                sys.stdout.write(message.text)
        elif isinstance(message, wire.Attribute):
            self._attribute(message)
        elif isinstance(message, wire.Pollution) and self._pollution is not None:
            self._pollution.hear(message.fields, stage=self._suffix.removeprefix("@"))

    def _attribute(self, message: wire.Attribute) -> None:
        from _pytest.junitxml import xml_key  # noqa: TID251 - where pytest keeps its XML writer

        xml = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        if message.nodeid:
            xml.node_reporter(self._named(message.nodeid)).add_attribute(message.name, message.value)
            return
        said = (message.name, str(message.value))
        if not (self.again and said in self._properties):
            xml.add_global_property(message.name, message.value)
        self._properties.add(said)

    def _named(self, nodeid: str) -> str:
        return shown(nodeid) + self._suffix if nodeid else ""

    # --- without showing tests -----------------------------------------------------------------------------------

    def drain(self, seconds: float) -> crash.Death | None:
        """Read on until the worker has left or the time is up, whatever signals come."""
        link = self._link
        deadline = time.monotonic() + seconds
        while not link.exited:
            message = link.receive(max(0.0, deadline - time.monotonic()))
            if message is None:
                return None
            if isinstance(message, crash.Death):
                return message
            self._note(message)
        return None

    def until_finished(self, *, stopped: bool) -> crash.Death | None:
        """Read on until the session inside is over; its death if it dies before.

        Args:
            stopped: This side has ended the run. If the inside goes on with tests, it knows nothing of that and is
                told.
        """
        link = self._link
        while link.finished is None and not link.exited:
            message = self.receive()
            if isinstance(message, crash.Death):
                return message
            if message is not None and self._note(message) and stopped:
                stopped = False
                link.place.client.send(wire.Interrupt())
        return None

    @property
    def exit_s(self) -> float:
        """How long the process inside may take to leave: it has to free what all of its tests have made."""
        return EXIT_S + EXIT_PER_TEST_S * len(self.shown)

    def until_exit(self) -> crash.Death | None:
        """Read on until the process inside has left, but not for ever: None if it has not after ``exit_s``."""
        deadline = time.monotonic() + self.exit_s
        while not self._link.exited:
            message = self.receive(max(0.0, deadline - time.monotonic()))
            if isinstance(message, crash.Death):
                return message
            if message is None:
                return None
            self._note(message)
        return None

    def _note(self, message: wire.Message) -> bool:
        """Keep what can still be told; True if it is the start of a test that nobody will see."""
        if isinstance(message, wire.Start):
            if message.index in self.shown:
                return False
            self.unseen.add(message.index)
            return True
        if isinstance(message, wire.Report) and self.late is not None:
            self.late(message)
            return False
        self.aside(message)
        return False
