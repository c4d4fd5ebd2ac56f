"""What is the same in all answers of an engine: objects, arrays, texts, ids and times, read tolerantly."""

from __future__ import annotations

import calendar
import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def table(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one (``null`` and missing are common)."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Any]:
    """``value`` if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def texts(value: Any) -> tuple[str, ...]:
    """An array of strings; a single string counts as one."""
    return (value,) if isinstance(value, str) else tuple(str(item) for item in rows(value))


def labels(value: Any) -> Mapping[str, str]:
    """Labels, or an empty mapping."""
    return {str(key): str(item) for key, item in table(value).items()}


def image_id(value: Any) -> str:
    """An image id as ``sha256:…``; Podman leaves the algorithm out in places."""
    text = str(value or "")
    return text if not text or ":" in text else f"sha256:{text}"


def unix_time(stamp: str) -> float:
    """Seconds of an RFC 3339 time with any number of digits behind the point; 0 for what is none."""
    day, _, rest = stamp.partition("T")
    clock, offset = rest, 0
    for sign in ("Z", "+", "-"):
        head, found, zone = rest.partition(sign)
        if found:
            clock = head
            with contextlib.suppress(ValueError):
                hours, _, minutes = zone.partition(":")
                offset = (int(hours) * 60 + int(minutes)) * (-60 if sign == "-" else 60) if zone else 0
            break
    whole, _, fraction = clock.partition(".")
    try:
        seconds = calendar.timegm(time.strptime(f"{day}T{whole}", "%Y-%m-%dT%H:%M:%S"))
        return seconds - offset + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)
    except ValueError:
        return 0.0
