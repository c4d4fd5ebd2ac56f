"""The fields of a call from inside a stage, looked at one by one: what comes in is not trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Fields:
    """What a call brings along, looked at one by one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def raw(self, name: str) -> Any:
        return self._given.get(name)

    def maybe_text(self, name: str) -> str | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is text, not {value!r}")
        return value

    def text(self, name: str) -> str:
        value = self.maybe_text(name)
        if value is None:
            raise UsageError(f"{name} is missing")
        return value

    def maybe_number(self, name: str) -> float | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, (int, float)):
            raise UsageError(f"{name} is a number, not {value!r}")
        return value

    def number(self, name: str) -> float:
        value = self.maybe_number(name)
        if value is None:
            raise UsageError(f"{name} is missing")
        return value

    def items(self, name: str) -> list[Any]:
        value = self._given.get(name)
        return value if isinstance(value, list) else []

    def words(self, name: str) -> list[str]:
        return [str(word) for word in self.items(name)]

    def texts(self, name: str) -> dict[str, str]:
        value = self._given.get(name)
        return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}
