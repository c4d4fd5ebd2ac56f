"""Names from inside in a form that terminals, files and XML bear.

A node id may hold anything: it is a file's name, or what a collector makes up. Control characters would steer the
terminal, lone surrogates (the bytes of a file name that is no UTF-8) can be written to no file. Both are shown as
Python escapes them; any other text stays as it is.
"""

from __future__ import annotations

import re

# Controls, line and paragraph separators, the controls of writing direction, surrogates.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(name: str) -> str:
    """``name`` with what is unfit for display escaped."""
    if name.isascii() and name.isprintable():
        return name
    return _UNFIT.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode-escape").decode("ascii")
