"""``env_only`` and ``env_skip``: tests that belong to some stages only."""

from typing import Any, Iterable, Optional

import pytest

LINES = (
    "env_only(*stages): run this test in these stages only",
    "env_skip(*stages, reason=None): do not run this test in these stages",
)


def apply(items: Iterable[Any], stage: Optional[str]) -> None:
    """Mark what does not belong to ``stage`` as skipped, with the reason; None is a run outside of any stage."""
    for item in items:
        keywords = item.keywords
        if "env_only" in keywords:
            wanted = [name for mark in item.iter_markers("env_only") for name in mark.args]
            if stage not in wanted:
                here = "in stage %s" % stage if stage else "outside of any stage"
                reason = "runs only in stage %s, not %s" % (" and ".join(map(str, wanted)), here)
                item.add_marker(pytest.mark.skip(reason=reason))
        if stage is not None and "env_skip" in keywords:
            for mark in item.iter_markers("env_skip"):
                if stage in mark.args:
                    why = mark.kwargs.get("reason")
                    reason = "not in stage %s" % stage + (": %s" % why if why else "")
                    item.add_marker(pytest.mark.skip(reason=reason))
