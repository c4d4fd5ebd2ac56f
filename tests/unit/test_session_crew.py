"""What modes of ``--dist`` keep together in a run over several stages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_envpar.session import crew, suffix

pytest.importorskip("xdist")

STAGES = ("dev", "qa")


class Config:
    """As much of a configuration as a scheduler looks at."""

    def __init__(self, dist: str) -> None:
        self.option: SimpleNamespace | None = None
        self._dist = dist

    def getoption(self, _: str) -> str:
        return self._dist

    def getvalue(self, _: str) -> list[str]:
        return ["popen"]


def scope(dist: str, nodeid: str) -> str:
    made: Any = crew.scheduler(Config(dist), None, STAGES)  # type: ignore[arg-type]
    assert made is not None
    return str(made._split_scope(nodeid))


@pytest.mark.parametrize(
    ("dist", "nodeid", "expected"),
    [
        ("loadscope", "a.py::T::test@dev", "a.py::T@dev"),
        ("loadfile", "a.py::T::test[x@qa]@qa", "a.py@qa"),
        ("loadgroup", "a.py::test[1]@qa", "a.py::test[1]@qa"),
        ("loadgroup", "a.py::test[1]@qa@together", "together"),
    ],
)
def test_each_stage_by_itself(dist: str, nodeid: str, expected: str) -> None:
    assert scope(dist, nodeid) == expected


def test_where_nothing_is_kept_together() -> None:
    assert crew.scheduler(Config("load"), None, STAGES) is None  # type: ignore[arg-type]
    assert crew.scheduler(Config("loadfile"), None, ("qa",)) is None  # type: ignore[arg-type]


def test_a_group_is_no_part_of_a_node_id() -> None:
    assert suffix.without_group("a.py::test[1@qa]@qa@to@gether", "qa") == "a.py::test[1@qa]@qa"
    assert suffix.without_group("a.py::test@qa", "qa") == "a.py::test@qa"


def test_a_worker_as_a_stages_report_shows_it() -> None:
    info = {"id": "gw0", "executable": "/host/python", "version_info": (3, 14, 0)}
    host = SimpleNamespace(workerinfo=info, gateway="gateway", _workerinfocache="made of the host's")
    node = crew.StageNode(host, {"executable": "/usr/bin/python3"})
    assert node.gateway == "gateway"
    assert node.workerinfo["executable"] == "/usr/bin/python3"
    assert not hasattr(node, "_workerinfocache")
