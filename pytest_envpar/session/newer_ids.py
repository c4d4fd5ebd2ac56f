"""Node ids with a stage as pytest 9.2 and newer show them.

Since then pytest takes node ids apart: what follows the first bracket is a parameter, and whoever puts the parts
together again closes that bracket, also behind a suffix: ``test_a[1]@qa]``. pytest-xdist's groups look like that, too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def mend(config: pytest.Config, report: pytest.TestReport) -> None:
    """Have the terminal and the JUnit file show the node id of a report as it is.

    Args:
        config: pytest's configuration.
        report: A report whose node id ends with a stage.
    """
    told: Any = getattr(report, "id", None)
    if told is None or told.params is None or report.nodeid.endswith("]"):
        return
    base: Any = type(told)
    kind = _kind(base)
    setattr(report, "_id", kind(path=told.path, names=told.names, params=told.params))  # noqa: B010 - no public way
    if report.when == "setup":
        from _pytest.junitxml import xml_key  # noqa: TID251 - where pytest keeps its XML writer

        xml = config.stash.get(xml_key, None)
        if xml is not None:
            xml.node_reporter(report).add_attribute("name", told.names[-1] + _tail(told))


def _tail(told: Any) -> str:
    return f"[{told.params}"


@functools.cache
def _kind(base: Any) -> Any:
    """A node id that is equal to pytest's own, as its cache and its XML writer look it up, and reads otherwise."""

    class StageId(base):  # type: ignore[misc]  # a class of some pytest
        __slots__ = ()

        @property
        def rest(self) -> str:
            return "::".join(self.names) + _tail(self)

        def __str__(self) -> str:
            return f"{self.path}::{self.rest}"

        def __eq__(self, other: object) -> bool:
            if not isinstance(other, base):
                return NotImplemented
            mine, theirs = ((each.path, each.names, each.params) for each in (self, other))
            return mine == theirs

        __hash__ = base.__hash__

    return StageId
