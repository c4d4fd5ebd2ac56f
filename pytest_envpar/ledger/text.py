"""Text as SQLite can hold it."""

from __future__ import annotations


def storable(text: str) -> str:
    r"""``text`` with what is no valid UTF-8 (lone surrogates, from names that are not) as ``\udcff``."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
