"""The rules of a ``.dockerignore``: https://docs.docker.com/build/concepts/context/#dockerignore-files."""

from __future__ import annotations

import dataclasses
import posixpath
import re


@dataclasses.dataclass(frozen=True)
class IgnoreRules:
    """The patterns of a ``.dockerignore``, in order: (pattern, whether it takes paths back in)."""

    patterns: tuple[tuple[re.Pattern[str], bool], ...]

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Parse the file's text; later lines win over earlier ones."""
        made = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            pattern = line.strip()
            back = pattern.startswith("!")
            pattern = pattern[1:].strip() if back else pattern
            pattern = posixpath.normpath(pattern).lstrip("/") if pattern else ""
            if pattern in ("", "."):
                continue
            made.append((re.compile(_regex(pattern), re.DOTALL), back))
        return cls(tuple(made))

    @property
    def takes_back(self) -> bool:
        """Whether something below an ignored folder can be kept."""
        return any(back for _, back in self.patterns)

    def matches(self, path: str, above: int = 0) -> int:
        """Which patterns match ``path`` or a folder above it: one bit each.

        Args:
            above: The same of the folder that ``path`` is in.
        """
        found = above
        for number, (pattern, _) in enumerate(self.patterns):
            if not found >> number & 1 and pattern.fullmatch(path):
                found |= 1 << number
        return found

    def ignored(self, matches: int) -> bool:
        """Whether a path with these matches is left out: the last line that matches decides."""
        return matches != 0 and not self.patterns[matches.bit_length() - 1][1]


def _regex(pattern: str) -> str:
    """Docker's patterns: ``*`` and ``?`` stay within a name, ``**`` crosses folders, ``\\`` escapes."""
    made: list[str] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "*" and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            made.append(".*" if at == len(pattern) else "(?:.*/)?")
        elif sign == "*":
            made.append("[^/]*")
        elif sign == "?":
            made.append("[^/]")
        elif sign == "[" and (end := pattern.find("]", at + 1)) != -1:
            inner = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            made.append(f"[{inner}]")
            at = end + 1
        elif sign == "\\" and at < len(pattern):
            made.append(re.escape(pattern[at]))
            at += 1
        else:
            made.append(re.escape(sign))
    return "".join(made)
