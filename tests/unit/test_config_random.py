"""Whatever stands in the file, the answer is settings or a ConfigError."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_envpar.config import check_stage, load_settings, schema
from pytest_envpar.config.load import settings_from
from pytest_envpar.config.schema import Nested, Table
from pytest_envpar.errors import ConfigError

if TYPE_CHECKING:
    from pytest_envpar.config.model import Settings

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["/", "/x", "a:/b", "a:/b:ro", "..", "1g", "x:y", "host", "qa", "dev", "(", "[[a]", "\x1b[0m"]
    ),
    st.text("/:.~@= abg19-", max_size=10),
)
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**500), max_value=10**500),
    st.floats(),
    texts,
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.sampled_from([None, dt.timezone.utc])),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def filled(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly our keys with mostly wrong values: reaches further than pure noise."""

    def value(shape: object) -> st.SearchStrategy[Any]:
        if not isinstance(shape, Nested):
            return anything
        inner = filled(shape.table)
        names = st.one_of(st.sampled_from(["qa", "dev", "db"]), texts)
        right: st.SearchStrategy[Any] = {
            "one": inner,
            "named": st.dictionaries(names, inner, max_size=3),
            "list": st.lists(inner, max_size=2),
        }[shape.many]
        return st.one_of(right, anything)

    known: dict[Any, st.SearchStrategy[Any]] = {key.name: value(key.shape) for key in table.keys}
    return st.fixed_dictionaries({}, optional=known)


def attempt(raw: object) -> Settings | None:
    try:
        return settings_from(raw, Path("/nowhere/pyproject.toml"))
    except ConfigError as error:
        text = str(error)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
        assert "/nowhere/" in text
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(anything, st.dictionaries(texts, anything)))
def test_noise(raw: object) -> None:
    attempt(raw)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(filled(schema.ROOT))
def test_our_keys_with_any_values(raw: dict[str, Any]) -> None:
    result = attempt(raw)
    if result is not None:
        for stage in result.stages.values():
            with contextlib.suppress(ConfigError):
                check_stage(stage)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcde"), max_size=4),
    st.sets(st.sampled_from("abcd")),
)
def test_any_graph_of_parents(links: dict[str, str], roots: set[str]) -> None:
    stages: dict[str, dict[str, str]] = {name: {"extends": parent} for name, parent in links.items()}
    for name in roots:
        stages[name] = {"image": name}
    result = attempt({"stages": stages})
    if result is not None:
        assert set(result.stages) == set(stages)
        assert all(stage.image in roots for stage in result.stages.values())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=60))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "envpar.toml"
    file.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load_settings(file)
