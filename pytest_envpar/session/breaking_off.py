"""An interrupt: the inside is given a moment to react and to end, and what does not react is shown with its stacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.session import crash
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.session.hearing import Hearing
    from pytest_envpar.session.items import VirtualItem
    from pytest_envpar.session.link import Link
    from pytest_envpar.session.summary import Summary

INTERRUPT_S = 1.0
ENDING_S = 2.5
"""How long an interrupted session may go on ending once it has reacted: fixtures of a busy machine take their time."""
DUMP_S = 1.5
"""More than the supervisor gives a worker to die of it, so that what it said is heard."""


def break_off(
    link: Link,
    hearing: Hearing,
    summary: Summary,
    seconds: float,
    items: Sequence[VirtualItem],
    fail: Callable[[VirtualItem, str], None],
) -> list[Any] | None:
    """See an interrupted worker to its end, as locally on Ctrl-C; one that does not react costs two seconds at most.

    Args:
        seconds: What is left of the time to react.
        items: The tests of the stage.
        fail: Shows a test that did not react, with the reason.

    Returns:
        Path and line where the interrupt met the inside, if that is known.
    """
    running = link.running
    hearing.drain(seconds)
    if link.stop is not None and not link.exited:
        hearing.drain(ENDING_S)
    item = items[running] if running is not None and 0 <= running < len(items) else None
    if not link.exited and link.finished is None:
        link.place.client.send(wire.Dump())
        death = hearing.drain(DUMP_S)
        if death is None:
            death = crash.Death(
                "it did not react to an interrupt within a second", link.place.client.tail(), True
            )
        did, within = ("end", INTERRUPT_S + ENDING_S) if link.stop else ("react", INTERRUPT_S)
        cause = f"interrupted, and did not {did} within {within:g} seconds ({death.cause})"
        death = crash.Death(cause, death.tail, True)
        if item is None:
            where = f"importing {link.collecting}" if link.collecting else "what ran between the tests"
            summary.notes += crash.text(where, link.stage, death).splitlines()
        else:
            fail(item, crash.text(item.nodeid, link.stage, death))
    if link.stop is not None and link.stop.location is not None:
        return link.stop.location
    if item is not None:
        return [item.location[0], (item.location[1] or 0) + 1]
    return [link.collecting, 1] if link.collecting else None
