"""Reports as data, through pytest's own serialisation, with what it loses put back."""

from io import StringIO
from typing import Any, Dict, List, Optional

import pytest

_PLAIN_FIELDS = frozenset(
    ("nodeid", "_id", "location", "keywords", "outcome", "longrepr", "when")
    + ("user_properties", "sections", "duration", "start", "stop")
)


class Serializer:
    """Turns reports of one session into JSON-ready dictionaries. ``item`` is the test that is running."""

    def __init__(self, config: Any, writer: Any) -> None:
        self.item: Any = None
        self._config = config
        self._writer = writer
        self._custom: Optional[bool] = None

    def is_plain(self, report: Any) -> bool:
        """Whether a report says no more than that a phase of the running test passed."""
        if report.outcome != "passed" or type(report) is not pytest.TestReport or report.longrepr is not None:
            return False
        if report.sections or report.user_properties or not _PLAIN_FIELDS.issuperset(report.__dict__):
            return False
        if self.item is None or report.nodeid != self.item.nodeid:
            return False
        return not self._has_custom_status()

    def status(self, report: Any) -> Optional[List[Any]]:
        """Category, letter and word, where the host's pytest alone might see them differently."""
        if type(report) is pytest.TestReport and not self._has_custom_status():
            return None
        answer = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        if answer is None:  # without the terminal plugin nobody has to answer
            return None
        category, letter, word = answer
        if isinstance(word, tuple):
            word = [word[0], word[1]]
        return [category, letter, word]

    def _has_custom_status(self) -> bool:
        if self._custom is None:
            implementations = self._config.hook.pytest_report_teststatus.get_hookimpls()
            self._custom = any(
                not implementation.function.__module__.startswith("_pytest.")
                for implementation in implementations
            )
        return self._custom

    def report(self, report: Any) -> Dict[str, Any]:
        """The serialised form of ``report``. A ``longrepr`` that pytest would flatten to text keeps its colours."""
        config = self._config
        data: Dict[str, Any] = config.hook.pytest_report_to_serializable(config=config, report=report)
        longrepr = report.longrepr
        if isinstance(data.get("longrepr"), str) and hasattr(longrepr, "toterminal"):
            data["longrepr"] = {"$text": data["longrepr"], "$rich": self._rendered(longrepr)}
        return data

    def _rendered(self, longrepr: Any) -> str:
        file = StringIO()
        writer = type(self._writer)(file)
        writer.hasmarkup = self._writer.hasmarkup
        writer.fullwidth = self._writer.fullwidth
        longrepr.toterminal(writer)
        return file.getvalue()
