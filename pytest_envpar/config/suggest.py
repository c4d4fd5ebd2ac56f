"""How wrong names and values are shown: escaped, bounded, and with the nearest right name."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
_LONGEST = 60


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``; ``None`` if none is near.

    Args:
        name: What the user wrote.
        known: The names that would have been right.
    """
    import difflib  # only on the way to an error

    # Keys are kebab-case; snake_case is the commonest slip. The cut bounds difflib's quadratic work.
    wanted = name[:80].lower().replace("_", "-")
    spellings = {item.lower().replace("_", "-"): item for item in known}
    found = difflib.get_close_matches(wanted, list(spellings), n=1, cutoff=0.6)
    return spellings[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], *, what: str) -> str:
    """A hint for a wrong name: the nearest known one, or the list of all of them.

    Args:
        name: What the user wrote.
        known: The names that would have been right.
        what: What the names are, in the plural ("keys", "stages").
    """
    names = list(known)
    near = nearest(name, names)
    if near is not None:
        return f"did you mean {quoted(near)}?"
    if not names:
        return f"there are no {what}"
    return f"the {what} are: {', '.join(names[:40])}{', …' if len(names) > 40 else ''}"


def quoted(text: str) -> str:
    """``text`` in double quotes, cut to a readable length, with nothing in it that a terminal would obey."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    escaped = cut.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in escaped) + '"'


def key_text(name: str) -> str:
    """A key as it is written in TOML: bare where that is possible, quoted otherwise."""
    return name if _BARE_KEY.fullmatch(name) else quoted(name)


def found(value: object) -> str:
    """What a TOML value is, with its type, for messages of the form "expected ..., found ..."."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        # Very long integers cannot be turned into text (and nobody wants to read them).
        return f"the integer {value}" if value.bit_length() < 200 else "a very large integer"
    if isinstance(value, float):
        return f"the float {value}"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    if isinstance(value, dt.datetime):
        return f"the date and time {value.isoformat()}"
    if isinstance(value, dt.date):
        return f"the date {value.isoformat()}"
    if isinstance(value, dt.time):
        return f"the time {value.isoformat()}"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, dict):
        return "a table"
    return f"a {type(value).__name__}"
