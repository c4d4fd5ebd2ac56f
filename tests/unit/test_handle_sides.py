"""The handle of a container on the host and inside a stage: the same names, arguments and values."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

import pytest_envpar
from pytest_envpar import errors
from pytest_envpar.containers import handle, handle_process
from pytest_envpar.containers.checkpoint import Checkpoint
from pytest_envpar.drift import changes as drift_changes
from pytest_envpar.drift import manifest, model
from pytest_envpar.engine.values.containers import Stats
from pytest_envpar.engine.values.processes import ExecResult
from pytest_envpar.images.pinned import PinnedImage
from pytest_envpar.session import desk_comparisons, shelf
from pytest_envpar.worker import agent as package
from pytest_envpar.worker.agent import comparisons, values

if TYPE_CHECKING:
    from types import ModuleType

AGENT = "pytest_envpar.worker.agent"
HOST_ONLY = {"inspect", "unpack"}


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The agent's modules that need the errors, which the payload brings along under this name."""
    monkeypatch.setitem(sys.modules, f"{AGENT}.errors", errors)
    monkeypatch.setattr(package, "errors", errors, raising=False)
    return {
        name: importlib.import_module(f"{AGENT}.{name}")
        for name in ("handles", "processes", "factory", "public")
    }


def test_methods_have_the_same_names_and_arguments(inside: dict[str, ModuleType]) -> None:
    for ours, theirs in (
        (handle.Container, inside["handles"].Container),
        (handle_process.Process, inside["processes"].Process),
        (shelf.ContainerFactory, inside["factory"].ContainerFactory),
    ):
        public = {each for each in dir(ours) if not each.startswith("_")} - HOST_ONLY
        assert public == {each for each in dir(theirs) if not each.startswith("_")}
        for method in public:
            here, there = (inspect.signature(getattr(cls, method)).parameters for cls in (ours, theirs))
            assert [(p.name, p.kind, p.default) for p in here.values()] == [
                (p.name, p.kind, p.default) for p in there.values()
            ], method


@pytest.mark.parametrize(
    ("ours", "theirs", "left_out"),
    [
        (ExecResult, values.ExecResult, set()),
        (Stats, values.Stats, set()),
        (Checkpoint, values.Checkpoint, set()),
        (PinnedImage, values.Image, {"info"}),
        (handle.Address, values.Address, set()),
        (model.Entry, comparisons.Entry, set()),
        (model.Change, comparisons.Change, set()),
        (model.ConfigChange, comparisons.ConfigChange, set()),
        (model.NotCompared, comparisons.NotCompared, set()),
        (model.Comparison, comparisons.Comparison, set()),
        (drift_changes.Change, comparisons.ContainerChange, set()),
        (drift_changes.Changes, comparisons.Changes, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_have_the_same_fields(ours: type, theirs: type, left_out: set[str]) -> None:
    assert public(ours) - left_out == public(theirs) - {"of"}


def public(cls: Any) -> set[str]:
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    return {name for name in fields | set(dir(cls)) if not name.startswith("_")}


def test_a_manifest_has_what_is_documented() -> None:
    there = comparisons.Manifest({"count": 0, "fingerprint": "", "notes": []}, b"")
    assert {name for name in dir(there) if not name.startswith("_")} == {"count", "fingerprint", "notes"}
    assert {"count", "fingerprint", "notes"} <= {*dir(manifest.build([])), "fingerprint"}


def test_the_same_names_can_be_imported(inside: dict[str, ModuleType]) -> None:
    there = inside["public"]
    assert sorted((*there.ERRORS, *there.HOMES)) == pytest_envpar.__all__


# --- what travels ------------------------------------------------------------------------------------------------

ODD = "/odd/\udcff\n\u00fc"
ENTRIES = (
    model.Entry("/", "directory", 0o755),
    model.Entry("/dev", "character", 0o600, device=(5, 1)),
    model.Entry("/file", "file", 0o4755, 1, 2, 3, "ab" * 32, hardlink="/file", mtime_ns=-5),
    model.Entry("/link", "link", 0o777, target=ODD, xattrs=(("user.\udcff", b"\0\xff"),)),
)


class Compared:
    """A container that knows what comes out."""

    def __init__(self, made: object) -> None:
        self.made = made

    def changes(self) -> object:
        return self.made

    def diff(self, other: object) -> object:
        assert other is self
        return self.made

    def manifest(self) -> object:
        return self.made


def same(here: object, there: object) -> bool:
    """Whether two values say the same, whatever their classes."""
    return bool(plain(here) == plain(there))


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def test_a_comparison_arrives_as_it_was() -> None:
    changes = tuple(
        model.Change(each.path, "modified", ("content", "mode"), each, ENTRIES[0]) for each in ENTRIES
    )
    made = model.Comparison(
        "a",
        "b",
        "layers",
        (*changes, model.Change(ODD, "added", after=ENTRIES[1]), model.Change("/z", "removed")),
        (model.ConfigChange("env.A", None, "1"),),
        (model.NotCompared("/tmp", "tmpfs"),),
        ("because",),
    )
    compared: Any = Compared(made)
    told, pieces = desk_comparisons.diff(compared, compared)
    assert same(made, comparisons.comparison_of(told, b"".join(pieces)))


def test_changes_arrive_as_they_were() -> None:
    listed = [
        drift_changes.Change(PurePosixPath("/a/__pycache__/x.pyc"), "added"),
        drift_changes.Change(PurePosixPath(ODD), "modified", ("mode",)),
    ]
    made = drift_changes.own_changes(listed)
    told, pieces = desk_comparisons.changes(Compared(made))  # type: ignore[arg-type]
    there = comparisons.changes_of(b"".join(pieces))
    assert told == {}
    assert (len(there), there.count("modified"), there.noise[0].noise) == (1, 1, "bytecode")
    assert [(each.path, each.kind, each.attributes) for each in (*there, *there.noise)] == [
        (each.path, each.kind, each.attributes) for each in (*made, *made.noise)
    ]


def test_a_large_manifest_travels_in_small_pieces() -> None:
    entries = [
        model.Entry("/", "directory", 0o755),
        *(
            model.Entry(f"/{number:06}", "file", 0o644, size=number, digest=f"{number:064x}")
            for number in range(20_000)
        ),
    ]
    made = manifest.build(entries)
    told, pieces = desk_comparisons.manifest(Compared(made))  # type: ignore[arg-type]
    data = list(pieces)
    assert len(data) > 20
    assert max(map(len, data)) < 1 << 18
    there = comparisons.Manifest(told, b"".join(data))
    assert (there.count, there.fingerprint, there.notes()) == (20_001, made.fingerprint, ())
    for _ in range(2):  # as often as one likes
        assert same(tuple(entries), tuple(there))
