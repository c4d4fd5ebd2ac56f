"""Which instruction made which layer, from histories as Docker and Podman tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.parse.origins import image_history
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.engine.values.origins import HistoryEntry
from pytest_envpar.images.lineage import describe, instruction, layers_by_step, remember
from pytest_envpar.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

NOP = "/bin/sh -c #(nop) "
# As the classic builder of Docker 20.10 tells it, the last step first: RUN true and the second WORKDIR have no layer.
DOCKER = [
    (0, NOP + ' CMD ["x"]', "i10"),
    (190, NOP + "ADD file:8e63 in /e ", "i9"),
    (0, NOP + " LABEL q=a b", "i8"),
    (0, NOP + "WORKDIR /new", "i7"),
    (0, NOP + "WORKDIR /new", "i6"),
    (0, "/bin/sh -c true", "i5"),
    (0, "/bin/sh -c mkdir /empty", "i4"),
    (2, "/bin/sh -c echo x > /x", "i3"),
    (0, NOP + " ENV A=1", "i2"),
    (216714544, "", "i1"),
]
LAYERS = ("base", "x", "empty", "new", "e")
COUNTS = {"i1": 1, "i2": 1, "i3": 2, "i4": 3, "i5": 3, "i6": 4, "i7": 4, "i8": 4, "i9": 5, "i10": 5}


def _history(ids: bool = True) -> tuple[HistoryEntry, ...]:
    answer = [
        {"Size": size, "CreatedBy": text, "Id": f"sha256:{name}" if ids else "<missing>", "Comment": ""}
        for size, text, name in DOCKER
    ]
    answer[-1]["Comment"] = "Imported from -"
    return image_history(answer)


def _layers_of(image: str) -> tuple[str, ...] | None:
    return LAYERS[: COUNTS[image.removeprefix("sha256:")]] if image else None


@pytest.mark.parametrize(
    ("created_by", "shown"),
    [
        ('/bin/sh -c #(nop)  CMD ["x"]', 'CMD ["x"]'),
        ("/bin/sh -c #(nop) COPY file:abc in /d ", "COPY file:abc in /d"),
        ("/bin/sh -c pip install  x &&\t\n rm y", "RUN pip install x && rm y"),
        ("|2 TOKEN=a b V=1 /bin/sh -c pip install x", "RUN pip install x"),
        ("RUN /bin/sh -c echo x # buildkit", "RUN echo x"),
        ("RUN |1 TOKEN=secret /bin/sh -c echo x # buildkit", "RUN echo x"),
        ("COPY a b # buildkit", "COPY a b"),
        ("bazel build //x", "bazel build //x"),
        ("", "noted"),
        ("RUN " + "x" * 2000, "RUN " + "x" * 995 + "…"),
    ],
)
def test_an_instruction_as_in_a_dockerfile(created_by: str, shown: str) -> None:
    assert instruction(HistoryEntry(created_by, 1, comment="noted")) == shown


def test_the_images_in_between_tell_which_steps_made_layers() -> None:
    found = layers_by_step(LAYERS, _history(), _layers_of)
    assert [(each.diff_id, each.size_bytes, each.instruction) for each in found] == [
        ("base", 216714544, "Imported from -"),
        ("x", 2, "RUN echo x > /x"),
        ("empty", 0, "RUN mkdir /empty"),
        ("new", 0, "WORKDIR /new"),
        ("e", 190, "ADD file:8e63 in /e"),
    ]


def test_without_them_the_doubt_is_told() -> None:
    found = layers_by_step(LAYERS, _history(ids=False))
    assert [each.instruction for each in found] == [
        "Imported from -",
        "RUN echo x > /x",
        "one of: RUN mkdir /empty; RUN true; WORKDIR /new",
        "one of: RUN true; WORKDIR /new; WORKDIR /new",
        "ADD file:8e63 in /e",
    ]
    assert [each.size_bytes for each in found] == [216714544, 2, 0, 0, 190]


def test_images_in_between_that_are_of_another_build_are_not_believed() -> None:
    """Podman names images of other steps."""
    found = layers_by_step(LAYERS, _history(), lambda _: ("other", "x"))
    assert found == layers_by_step(LAYERS, _history(ids=False))


def test_every_step_with_bytes_is_a_layer() -> None:
    history = [HistoryEntry("ADD a", 5), HistoryEntry("RUN true", 0), HistoryEntry("VOLUME /x", 7)]
    assert [each.instruction for each in layers_by_step(("a", "b"), history)] == ["ADD a", "VOLUME /x"]


def test_every_step_that_can_be_a_layer_is_one() -> None:
    history = [HistoryEntry("ADD a", 5), HistoryEntry("RUN true", 0), HistoryEntry("ENV A=1", 0)]
    assert [each.instruction for each in layers_by_step(("a", "b"), history)] == ["ADD a", "RUN true"]


@pytest.mark.parametrize("history", [[], [HistoryEntry("ENV A=1", 0)]])
def test_a_history_that_says_nothing(history: list[HistoryEntry]) -> None:
    found = layers_by_step(("a", "b"), history)
    assert [(each.diff_id, each.size_bytes, each.instruction) for each in found] == [
        ("a", None, ""),
        ("b", None, ""),
    ]


def test_many_steps_for_few_layers_are_not_listed() -> None:
    history = [HistoryEntry(f"RUN {number}", 0) for number in range(9)]
    assert [each.instruction for each in layers_by_step(("a", "b"), history)] == ["", ""]


def test_more_steps_with_bytes_than_layers() -> None:
    """A squashed image keeps the history of its steps."""
    history = [HistoryEntry(f"RUN {number}", 5) for number in range(3)]
    found = layers_by_step(("a",), history)
    assert len(found) == 1
    assert found[0].diff_id == "a"


def test_an_answer_without_what_is_expected() -> None:
    assert image_history(None) == ()
    assert image_history([{"Id": None}, None]) == (HistoryEntry("", 0), HistoryEntry("", 0))


# --- what the ledger keeps -------------------------------------------------------------------------------------


class _Engine:
    def __init__(self) -> None:
        self.asked = 0

    def inspect_image(self, reference: str) -> ImageInfo | None:
        return _info(*(_layers_of(reference) or ()))

    def image_history(self, image: str) -> tuple[HistoryEntry, ...]:
        assert image == "sha256:i10"
        self.asked += 1
        return _history()


def _info(*layers: str, tags: tuple[str, ...] = ("a:1",)) -> ImageInfo:
    return ImageInfo(
        id="sha256:i10",
        tags=tags,
        digests=("a@sha256:d",),
        layers=layers or LAYERS,
        os="linux",
        architecture="amd64",
        variant="",
        env={"A": "1"},
        user="me",
        workdir="/w",
        entrypoint=("e",),
        cmd=("c",),
        volumes=("/v",),
        labels={"l": "m"},
        created="2026-01-01T00:00:00Z",
        size_bytes=216714736,
    )


def test_an_image_is_described_for_the_ledger() -> None:
    found = describe(_Engine(), _info(), ["asked:1"])  # type: ignore[arg-type]
    assert found.layers == layers_by_step(LAYERS, _history(), _layers_of)
    assert (found.id, found.platform, found.names) == ("sha256:i10", "linux/amd64", ("asked:1", "a:1"))
    assert (found.digests, found.created, found.size_bytes) == (
        ("a@sha256:d",),
        "2026-01-01T00:00:00Z",
        216714736,
    )
    assert found.config == {
        "env": {"A": "1"},
        "user": "me",
        "workdir": "/w",
        "entrypoint": ["e"],
        "cmd": ["c"],
        "volumes": ["/v"],
        "labels": {"l": "m"},
    }


def test_what_the_ledger_knows_is_not_asked_for_again(tmp_path: Path) -> None:
    engine = _Engine()
    with Ledger(tmp_path / "ledger.sqlite3") as ledger:
        first = remember(ledger, engine, _info())  # type: ignore[arg-type]
        before = ledger.images.get(first.id)
        again = remember(ledger, engine, _info())  # type: ignore[arg-type]
        assert engine.asked == 1
        assert again.layers == first.layers
        after = ledger.images.get(first.id)
        assert before is not None
        assert after is not None
        assert after.seen >= before.seen
        remember(ledger, engine, _info(tags=("a:1", "b:1")))  # type: ignore[arg-type]
        assert engine.asked == 2
        found = ledger.images.find("b:1")
        assert found is not None
        assert found.layers == first.layers
