"""What a stage takes over from the stage it extends, worked out on raw TOML tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.config import schema
from pytest_envpar.config.schema import Nested, Table
from pytest_envpar.config.suggest import did_you_mean, key_text, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.validate import Problems


def apply_extends(stages: Mapping[str, Any], problems: Problems) -> dict[str, dict[str, Any]]:
    """The raw tables of all stages with everything they inherit, in the order of the file.

    Iterative on purpose: a chain of a thousand stages is silly but not an error.
    """
    parents: dict[str, str | None] = {}
    for name, table in stages.items():
        parent = table.get("extends") if isinstance(table, dict) else None
        parents[name] = parent if isinstance(parent, str) else None
    done: dict[str, dict[str, Any]] = {}
    broken: set[str] = set()
    for name in stages:
        chain: list[str] = []
        here: str | None = name
        while here is not None and here not in done and here not in broken:
            if here in chain:
                circle = " -> ".join(key_text(link) for link in [*chain[chain.index(here) :], here])
                problems.add(
                    ("stages", here), "extends", f"the stages extend each other in a circle: {circle}"
                )
                broken.add(here)
            elif here not in stages:
                last = chain[-1]
                hint = did_you_mean(here, (other for other in stages if other != last), what="other stages")
                problems.add(("stages", last), "extends", f"there is no stage {quoted(here)}", hint)
                broken.add(here)
            else:
                chain.append(here)
                here = parents[here]
        if here in broken:
            broken.update(chain)
            continue
        for link in reversed(chain):
            table = stages[link] if isinstance(stages[link], dict) else {}
            own = {key: value for key, value in table.items() if key != "extends"}
            parent = parents[link]
            done[link] = own if parent is None else _merge(schema.STAGE, done[parent], own)
    return {name: done[name] for name in stages if name in done}


def _merge(table: Table | None, parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key, everything else replaced; alternatives of the parent give way to the child's."""
    kept = dict(parent)
    for group in table.one_of if table is not None else ():
        others = [other for other in table.one_of if other != group] if table is not None else []
        if group[0] in child:
            for name in (name for other in others for name in other):
                kept.pop(name, None)
    for name, value in child.items():
        inherited = kept.get(name)
        if isinstance(value, dict) and isinstance(inherited, dict):
            key = table.key(name) if table is not None else None
            shape = key.shape if key is not None else None
            if isinstance(shape, Nested) and shape.many == "named":
                kept[name] = {**inherited, **value}
                for label in inherited.keys() & value.keys():
                    if isinstance(inherited[label], dict) and isinstance(value[label], dict):
                        kept[name][label] = _merge(shape.table, inherited[label], value[label])
            else:
                kept[name] = _merge(shape.table if isinstance(shape, Nested) else None, inherited, value)
        else:
            kept[name] = value
    return kept
