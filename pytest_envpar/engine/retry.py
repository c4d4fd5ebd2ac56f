"""When something that failed is tried again, and after how long."""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Delays that double.

    Args:
        tries: How often something is tried altogether.
        first_s: Seconds before the second try.
        longest_s: The longest wait that somebody may ask us for, in seconds.
    """

    tries: int = 4
    first_s: float = 1.0
    longest_s: float = 30.0

    def delay_s(self, attempt: int, asked_s: float | None = None) -> float | None:
        """Seconds to wait after a failed try; ``None`` to give up.

        Args:
            attempt: How many tries failed before this one.
            asked_s: For how long the other side wants to be left alone, if it says.
        """
        if attempt + 1 >= self.tries or (asked_s is not None and asked_s > self.longest_s):
            return None
        return max(self.first_s * float(2**attempt), asked_s or 0.0)


# What engines say of a registry or a network that may do better the next time.
_PASSING = re.compile(
    r"\beof\b|connection reset|broken pipe|http status:? 5\d\d|internal server error|bad gateway|"
    "service unavailable|gateway time-?out|remote end closed|handshake timeout|i/o timeout|"
    "temporary failure|server misbehaving|toomanyrequests|too many requests",
)
# A limit over hours, and what a registry answers to the wrong kind of client.
_LASTING = re.compile("pull rate limit|http response to https client|connection refused|no such host")


def may_pass(said: str) -> bool:
    """Whether a failure of which an engine said this may be over soon."""
    text = said.lower()
    return _PASSING.search(text) is not None and _LASTING.search(text) is None
