"""Node ids with a stage: on the command line, in pytest's cache, in the order of a run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_envpar.session import suffix

STAGES = ("dev", "qa")


def test_only_stages_of_the_run_are_suffixes() -> None:
    assert suffix.split("a.py::t[1]@qa", STAGES) == ("a.py::t[1]", "qa")
    assert suffix.split("a.py::t@prod", STAGES) == ("a.py::t@prod", None)
    assert suffix.split("a.py::t[me@qa]", STAGES) == ("a.py::t[me@qa]", None)
    assert suffix.split("@qa", STAGES) == ("@qa", None)


def test_a_stage_gets_its_own_node_ids_only() -> None:
    args = [
        "-k",
        "x",
        "a.py::t@qa",
        "a.py::u",
        "--deselect",
        "a.py::v@dev",
        "--deselect=a.py::w@qa",
        "b.py@dev",
    ]
    assert suffix.arguments(args, "qa", STAGES) == ["-k", "x", "a.py::t", "a.py::u", "--deselect=a.py::w"]
    assert suffix.arguments(args, "dev", STAGES) == ["-k", "x", "a.py::u", "--deselect", "a.py::v", "b.py"]


def test_which_stages_a_command_line_leaves() -> None:
    assert suffix.is_asked([], "qa", STAGES)
    assert suffix.is_asked(["tests"], "qa", STAGES)
    assert not suffix.is_asked(["a.py::t@dev"], "qa", STAGES)
    assert suffix.is_asked(["a.py::t@dev", "a.py::t@qa"], "qa", STAGES)


def test_what_the_cache_holds_of_a_stage() -> None:
    assert suffix.of_stage({"a@qa": True, "b@dev": True, "c": True}, "qa") == {"a": True}
    assert suffix.of_stage(["a@qa", "b"], "qa") == ["a"]
    assert suffix.of_stage(None, "qa") is None


def test_the_same_tests_go_side_by_side() -> None:
    order = suffix.interleaved({"dev": ["a", "b"], "qa": ["a", "b"]})
    assert order == [("dev", 0), ("qa", 0), ("dev", 1), ("qa", 1)]


def test_tests_of_one_stage_only_come_where_they_are_met() -> None:
    order = suffix.interleaved({"dev": ["a", "c", "d"], "qa": ["a", "b", "c"]})
    assert order == [("dev", 0), ("qa", 0), ("dev", 1), ("qa", 1), ("qa", 2), ("dev", 2)]


names = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(st.dictionaries(st.sampled_from(["dev", "qa", "old"]), names, max_size=3))
def test_every_test_comes_once_and_in_its_own_order(lists: dict[str, list[str]]) -> None:
    order = suffix.interleaved(lists)
    for stage, ids in lists.items():
        assert [index for name, index in order if name == stage] == list(range(len(ids)))
    assert len(order) == sum(map(len, lists.values()))
