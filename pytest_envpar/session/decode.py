"""Reports and warnings from inside, as the host's pytest knows them."""

from __future__ import annotations

import builtins
import functools
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.session.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUTCOMES = ("passed", "failed", "skipped")


class RenderedText:
    """A failure that was rendered inside: as plain text, and with the markup of the terminal."""

    def __init__(self, text: str, rich: str) -> None:
        self._text = text
        self._rich = rich

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        """Write to pytest's terminal writer, line by line."""
        text = self._rich if tw.hasmarkup else self._text
        for line in text.rstrip("\n").split("\n"):
            tw.line(line)


def test_report(
    config: pytest.Config, data: Mapping[str, Any], nodeid: str, location: tuple[str, int | None, str]
) -> pytest.TestReport:
    """A test's report. What this pytest does not know becomes a plain report with the same outcome and text.

    Args:
        config: The host's configuration.
        data: pytest's own serialised form, as it came over the wire.
        nodeid: The virtual item's node id.
        location: The virtual item's location.
    """
    data = _restored(data)
    try:
        report = config.hook.pytest_report_from_serializable(config=config, data=dict(data))
    except Exception:  # noqa: BLE001 - another release's report: degrade, never crash
        report = None
    if not isinstance(report, pytest.TestReport):
        report = pytest.TestReport(
            nodeid=str(data.get("nodeid", nodeid)),
            location=data.get("location") or location,
            keywords=data.get("keywords") or {},
            outcome=_outcome(data),
            longrepr=_text_of(data.get("longrepr")),
            when=data.get("when") or "call",
            sections=data.get("sections") or [],
            duration=_number(data.get("duration")),
            start=_number(data.get("start")),
            stop=_number(data.get("stop")),
            user_properties=data.get("user_properties") or [],
        )
        if "wasxfail" in data:
            report.wasxfail = data["wasxfail"]
    _put_text_back(report, data)
    _put_subtest_back(report, data)
    return report


def passed_report(
    nodeid: str,
    location: tuple[str, int | None, str],
    keywords: Mapping[str, Any],
    when: Any,
    start: float,
    stop: float,
    duration: float,
) -> pytest.TestReport:
    """The report of a phase that passed and had nothing to say."""
    return pytest.TestReport(nodeid, location, keywords, "passed", None, when, (), duration, start, stop, ())


def collect_report(config: pytest.Config, data: Mapping[str, Any]) -> pytest.CollectReport:
    """The report of a collector that failed or was skipped."""
    data = _restored(data)
    try:
        report = config.hook.pytest_report_from_serializable(config=config, data=dict(data))
    except Exception:  # noqa: BLE001 - another release's report: degrade, never crash
        report = None
    if not isinstance(report, pytest.CollectReport):
        report = pytest.CollectReport(
            nodeid=str(data.get("nodeid", "")),
            outcome=_outcome(data),
            longrepr=_text_of(data.get("longrepr")),
            result=[],
            sections=data.get("sections") or [],
        )
    _put_text_back(report, data)
    return report


def warning(fields: Mapping[str, Any]) -> warnings.WarningMessage:
    """A warning of inside. Its class is looked up among the builtin and pytest's ones, never imported."""
    name = str(fields.get("category") or "Warning")
    category = getattr(builtins, name, None) or getattr(pytest, name, None)
    if not (isinstance(category, type) and issubclass(category, Warning)):
        category = _category(name)
    lineno = fields.get("lineno")
    return warnings.WarningMessage(
        message=_Told(str(fields.get("text", ""))),
        category=category,
        filename=str(fields.get("filename", "")),
        lineno=lineno if isinstance(lineno, int) else 1,
        line=fields.get("line"),
    )


@functools.cache
def _category(name: str) -> type[Warning]:
    return type(name, (Warning,), {"__module__": __name__})


def __getattr__(name: str) -> type[Warning]:
    # pytest-xdist looks classes of warnings up by module and name, on the other side of a process.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _category(name)


class _Told(Warning):
    """A warning of which only the text is known."""


def _restored(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON turned tuples into lists; pytest insists on tuples in these places."""
    restored = dict(data)
    location = restored.get("location")
    if isinstance(location, list):
        restored["location"] = tuple(shown(each) if isinstance(each, str) else each for each in location)
    if isinstance(restored.get("nodeid"), str):
        restored["nodeid"] = shown(restored["nodeid"])
    longrepr = restored.get("longrepr")
    if isinstance(longrepr, list):
        restored["longrepr"] = tuple(longrepr)
    elif isinstance(longrepr, dict):
        restored["longrepr"] = _with_shown_paths(longrepr)
    for name in ("sections", "user_properties"):
        value = restored.get(name)
        if isinstance(value, list):
            restored[name] = [tuple(entry) if isinstance(entry, list) else entry for entry in value]
    return restored


def _put_text_back(report: pytest.TestReport | pytest.CollectReport, data: Mapping[str, Any]) -> None:
    longrepr = data.get("longrepr")
    if isinstance(longrepr, dict) and "$text" in longrepr:
        text = RenderedText(str(longrepr["$text"]), str(longrepr.get("$rich", longrepr["$text"])))
        report.longrepr = text  # type: ignore[assignment]  # has what reports use: str and toterminal


def _with_shown_paths(value: Any) -> Any:
    """A failure's outline whose file names can be shown."""
    if isinstance(value, dict):
        return {
            key: shown(item) if key == "path" and isinstance(item, str) else _with_shown_paths(item)
            for key, item in value.items()
        }
    return [_with_shown_paths(item) for item in value] if isinstance(value, list) else value


def _put_subtest_back(report: pytest.TestReport, data: Mapping[str, Any]) -> None:
    """Values of a subtest are text already; pytest takes their ``repr`` once more each time it reads them."""
    context = getattr(report, "context", None)
    values = data.get("_subtest.context")
    if context is not None and isinstance(values, dict) and isinstance(values.get("kwargs"), dict):
        object.__setattr__(context, "kwargs", dict(values["kwargs"]))


def _text_of(longrepr: Any) -> Any:
    """A failure in a form that any pytest shows: its text if there is one, else its outline."""
    if longrepr is None or isinstance(longrepr, (str, tuple)):
        return longrepr
    if isinstance(longrepr, dict):
        crash = longrepr.get("reprcrash")
        if isinstance(crash, dict):
            return f"{crash.get('path')}:{crash.get('lineno')}: {crash.get('message')}"
    return str(longrepr)


def _outcome(data: Mapping[str, Any]) -> Any:
    outcome = data.get("outcome")
    return outcome if outcome in _OUTCOMES else "failed"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
