"""Changes as lines of text. Names come from inside a container: nothing of them reaches a terminal
unescaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.drift.changes import Change, Changes

_SIGNS = {"added": "+", "modified": "~", "removed": "-"}
_MAX_NAME = 200


def summary_line(changes: Changes, limit: int = 3) -> str:
    """``drift: suite left 3 changes in the container: + /tmp/x, ~ /etc/foo, - /usr/bin/bar``."""
    noise = _noise(changes)
    count = len(changes)
    if not count:
        return f"drift: suite left nothing behind in the container{noise}"
    shown = [_change(change) for change in changes.items[:limit]]
    more = f", … {count - limit} more" if count > limit else ""
    noun = "change" if count == 1 else "changes"
    return f"drift: suite left {count} {noun} in the container: {', '.join(shown)}{more}{noise}"


def detail_lines(changes: Changes, limit: int = 500) -> list[str]:
    """One line for each change, at most ``limit`` and one that says how many are not shown."""
    lines = [
        f"  {_change(change)}" + (f" ({', '.join(change.attributes)})" if change.attributes else "")
        for change in changes.items[:limit]
    ]
    if len(changes) > limit:
        lines.append(f"  … and {len(changes) - limit} more")
    return lines


def escaped(name: str, limit: int = _MAX_NAME) -> str:
    r"""A name from inside as one harmless line: control, format and undecodable characters as ``\x1b``,
    ``\udcff``.

    Args:
        limit: Characters kept of a longer name.
    """
    if len(name) > limit:
        name = name[: limit - 1] + "…"
    return "".join(sign if sign.isprintable() else _escape(sign) for sign in name)


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def _change(change: Change) -> str:
    return f"{_SIGNS[change.kind]} {escaped(str(change.path))}"


def _noise(changes: Changes) -> str:
    bytecode = sum(change.path.suffix == ".pyc" for change in changes.noise)
    temporary = sum(change.noise == "tmp_path" for change in changes.noise)
    told = []
    if bytecode:
        told.append(f"{bytecode} bytecode file{'' if bytecode == 1 else 's'}")
    if temporary:
        told.append(f"{temporary} in pytest's tmp_path")
    return f" (and {', '.join(told)})" if told else ""
