"""Node ids of a run over several stages: each carries its stage behind an ``@``, on both ways.

``tests/test_x.py::test_a[1]@qa`` is what pytest shows and what its cache remembers; the inside knows no more than
``tests/test_x.py::test_a[1]``. A parameter that ends like a suffix is none, because it ends with a bracket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


def split(nodeid: str, stages: Collection[str]) -> tuple[str, str | None]:
    """A node id without its stage, and the stage; ``None`` if it has none of ``stages``."""
    bare, _, stage = nodeid.rpartition("@")
    return (bare, stage) if bare and stage in stages else (nodeid, None)


def without_group(nodeid: str, stage: str) -> str:
    """A node id without the group that pytest-xdist, with ``--dist=loadgroup``, appends behind the stage."""
    bare, mark, _ = nodeid.rpartition(f"@{stage}@")
    return f"{bare}@{stage}" if mark and not nodeid.endswith(f"@{stage}") else nodeid


def arguments(args: Sequence[str], stage: str, stages: Collection[str]) -> list[str]:
    """A command line as one stage gets it: its own node ids without the suffix, those of other stages not at all.

    Args:
        args: The command line.
        stage: The stage.
        stages: All stages that may be named.
    """
    kept: list[str] = []
    for arg in args:
        bare, named = split(arg, stages) if "::" in arg or arg.count("@") == 1 else (arg, None)
        if named is None:
            kept.append(arg)
        elif named == stage:
            kept.append(bare)
        elif kept[-1:] == ["--deselect"]:
            kept.pop()
    return kept


def is_asked(words: Iterable[str], stage: str, stages: Collection[str]) -> bool:
    """Whether any of the node ids on a command line is one of ``stage``, or of all; without node ids all are.

    Args:
        words: What pytest takes for paths and node ids.
        stage: The stage.
        stages: All stages of the run.
    """
    named = [split(word, stages)[1] for word in words]
    return not named or any(each in (None, stage) for each in named)


def of_stage(value: Any, stage: str) -> Any:
    """What pytest's cache holds of one stage, with the node ids as its inside knows them."""
    suffix = f"@{stage}"
    if isinstance(value, dict):
        return {key.removesuffix(suffix): each for key, each in value.items() if key.endswith(suffix)}
    if isinstance(value, list):
        return [
            each.removesuffix(suffix) for each in value if isinstance(each, str) and each.endswith(suffix)
        ]
    return value


def interleaved(lists: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """An order in which each stage's tests keep their own, and the stages keep step with each other.

    Every stage runs beside the others, and what it has to tell waits until it is shown. So a test is shown for all
    stages before the next one is.

    Args:
        lists: For each stage the node ids of its tests, without suffix, in the order in which they run.

    Returns:
        Stage and index into its list.
    """
    order: list[tuple[str, int]] = []
    at = dict.fromkeys(lists, 0)
    rest: dict[str, dict[str, int]] = {}
    for stage, ids in lists.items():
        counts = rest[stage] = {}
        for nodeid in ids:
            counts[nodeid] = counts.get(nodeid, 0) + 1

    def take(stage: str) -> str:
        nodeid = lists[stage][at[stage]]
        order.append((stage, at[stage]))
        at[stage] += 1
        rest[stage][nodeid] -= 1
        return nodeid

    names = list(lists)
    for number, leader in enumerate(names):
        followers = names[number + 1 :]
        while at[leader] < len(lists[leader]):
            nodeid = take(leader)
            for stage in followers:
                ids = lists[stage]
                # What the leader does not have, or not any more, is shown when its turn comes here.
                while (
                    at[stage] < len(ids) and ids[at[stage]] != nodeid and not rest[leader].get(ids[at[stage]])
                ):
                    take(stage)
                if at[stage] < len(ids) and ids[at[stage]] == nodeid:
                    take(stage)
    return order
