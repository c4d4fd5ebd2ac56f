"""Globs over paths of a side: ``*`` and ``?`` stay within a name, ``**`` is any number of folders."""

from __future__ import annotations

import functools
import re


@functools.cache
def compiled(glob: str) -> re.Pattern[str]:
    """The expression for a glob: ``/var/log/**`` is all below the folder, not the folder itself."""
    parts: list[str] = []
    at = 0
    while at < len(glob):
        if glob.startswith("/**/", at):
            parts.append("/(?:.*/)?")
            at += 4
        elif glob.startswith("**", at):
            parts.append(".*")
            at += 2
        elif glob[at] == "[" and (end := glob.find("]", at + 2)) > 0:
            inside = glob[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            parts.append("(?!/)[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            at = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(glob[at]) or re.escape(glob[at]))
            at += 1
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error:  # a class that is none, as "[b-a]"
        return re.compile(re.escape(glob))


def matches(glob: str, path: str) -> bool:
    """Whether the whole of ``path`` is matched."""
    return compiled(glob).fullmatch(path) is not None


def any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for what any of the globs matches; for :meth:`re.Pattern.fullmatch`."""
    return re.compile("|".join(compiled(glob).pattern for glob in globs), re.DOTALL)
