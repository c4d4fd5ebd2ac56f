"""``record_xml_attribute`` and ``record_testsuite_property``: the XML is written by the host, so they travel."""

from typing import Any, Callable

from . import wire


class _Node:
    def __init__(self, nodeid: str, send: Callable[[wire.Message], None]) -> None:
        self._nodeid = nodeid
        self._send = send

    def add_attribute(self, name: str, value: object) -> None:
        self._send(wire.Attribute(self._nodeid, str(name), str(value)))

    def add_property(self, name: str, value: object) -> None:
        """Properties of a test are part of its report."""


class _Xml:
    """Stands where pytest keeps its XML writer; knows the two calls that the fixtures make."""

    def __init__(self, family: str, send: Callable[[wire.Message], None]) -> None:
        self.family = family
        self._send = send

    def node_reporter(self, report: Any) -> _Node:
        # A report, or an id: text, or from pytest 9.2 on an object of its own whose text it is.
        return _Node(str(getattr(report, "nodeid", report)), self._send)

    def add_global_property(self, name: str, value: object) -> None:
        self._send(wire.Attribute("", name, str(value)))


def install(config: Any, send: Callable[[wire.Message], None]) -> None:
    """Put the stand-in where the fixtures of ``_pytest.junitxml`` look."""
    try:
        from _pytest.junitxml import xml_key
    except (
        ImportError
    ):  # a release that keeps it elsewhere: the fixtures then do nothing, as without --junitxml
        return
    store = getattr(config, "stash", None)
    if store is None:
        store = config._store
    xml = _Xml(config.getini("junit_family") or "xunit2", send)
    config.pluginmanager.register(xml, "envpar-xml")  # pytest unregisters what it finds there
    store[xml_key] = xml
