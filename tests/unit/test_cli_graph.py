"""``envpar graph`` without an engine: drawings, hostile names, and what only the ledger knows."""

from __future__ import annotations

import html.parser
import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.cli import graph_text, main
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.engine.values.origins import HistoryEntry
from pytest_envpar.errors import NoEngineError
from pytest_envpar.images import lockfile
from pytest_envpar.images.graph import Pictured, sharing
from pytest_envpar.ledger import CheckpointRecord, ImageRecord, LayerRecord, Ledger, RunRecord

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = 'RUN echo "</text></svg><script>alert(1)</script>" \x1b[31m \u202e \ud800 & more'
BASE = LayerRecord("sha256:" + "b" * 64, 216_700_000, "ADD base.tar /")
DEV, QA = "sha256:" + "d" * 64, "sha256:" + "a" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENVPAR_LEDGER", str(tmp_path / "ledger.sqlite3"))
    (tmp_path / "envpar.toml").write_text(
        '[stages.dev]\nimage = "base:1"\n[stages.qa]\nbuild = { context = "." }\n'
    )
    return tmp_path


class _Engine:
    """An engine that has one image."""

    class info:  # noqa: N801 - stands for an attribute
        kind = "docker"
        version = "20.10"
        url = "unix:///x.sock"

    closed = False

    def inspect_image(self, reference: str) -> ImageInfo | None:
        if reference not in ("base:1", DEV):
            return None
        layers = (BASE.diff_id,)
        return ImageInfo(
            DEV, ("base:1",), (), layers, "linux", "amd64", "", {}, "", "", (), (), (), {}, "", 216_700_000
        )

    def image_history(self, image: str) -> tuple[HistoryEntry, ...]:
        assert image == DEV
        return (HistoryEntry(BASE.instruction, 216_700_000), HistoryEntry("ENV A=1", 0))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> _Engine:
    made = _Engine()
    monkeypatch.setattr("pytest_envpar.engine.select.select_engine", lambda *_: made)
    return made


@pytest.fixture
def no_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NoEngineError("no engine")

    monkeypatch.setattr("pytest_envpar.engine.select.select_engine", fail)


@pytest.fixture
def past(folder: Path) -> None:
    """The ledger knows what stage qa ran in."""
    layers = (BASE, LayerRecord("sha256:" + "1" * 64, 1_500, HOSTILE), LayerRecord("sha256:" + "2" * 64))
    with Ledger(folder / "ledger.sqlite3") as ledger:
        ledger.images.record(ImageRecord(QA, layers, "linux/amd64", ("<b>qa</b>:1",), size_bytes=216_701_500))
        ledger.runs.record(RunRecord(str(folder), "qa", QA, "docker", 1.0, 2.0, 0))


# --- text ------------------------------------------------------------------------------------------------------


def test_the_tree(engine: _Engine, past: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph"]) == 0
    assert engine.closed
    out = capsys.readouterr().out
    assert out == (
        "docker 20.10 at unix:///x.sock\n\n"
        "216.7 MB  bbbbbbbbbbbb  ADD base.tar /\n"
        "├─ ● dev: base:1\n"
        "│    dddddddddddd, linux/amd64, 216.7 MB, 1 layer\n"
        "└─   1.5 kB  111111111111  "
        'RUN echo "</text></svg><script>alert(1)</script>" \\x1b[31m \\u202e \\ud800 & more\n'
        "          ?  222222222222  (unknown instruction)\n"
        "   └─ ● qa: <b>qa</b>:1\n"
        "        aaaaaaaaaaaa, linux/amd64, 216.7 MB, 3 layers, from the ledger\n\n"
        "dev and qa share 1 layer, 216.7 MB\n"
        "in all: 2 images, 433.4 MB, of which 216.7 MB are shared: 216.7 MB to store; "
        "1 layer of unknown size is not counted\n"
        "qa: no longer on the engine, drawn from the ledger\n"
    )


def test_what_the_engine_has_is_remembered(engine: _Engine, folder: Path) -> None:
    assert main(["graph", "dev"]) == 0
    with Ledger(folder / "ledger.sqlite3") as ledger:
        found = ledger.images.find("base:1")
        assert found is not None
        assert found.layers == (BASE,)


def test_a_stage_that_is_locked_is_what_is_locked(
    engine: _Engine, past: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = lockfile.Entry(
        reference="base:1",
        build=None,
        digest=None,
        image_id=QA,
        platform="linux/amd64",
        layers=(BASE.diff_id,),
    )
    lockfile.write(folder / "envpar.lock", lockfile.Lock({"dev": entry}))
    assert main(["graph", "dev", "--format=json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert (image["id"], image["source"]) == (QA, "ledger")


def test_without_an_engine(no_engine: None, past: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no engine\n")
    assert "no engine answers: all of this is from the ledger" in out
    assert "dev: not in the ledger; it is known once the stage has run" in out
    assert "● qa: <b>qa</b>:1" in out


def test_nothing_to_draw(no_engine: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph"]) == 2
    err = capsys.readouterr().err
    assert "dev: not in the ledger" in err
    assert "hint: run the stage once" in err


def test_what_was_named_has_to_be_there(engine: _Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "base:1", "absent:1"]) == 2
    assert "absent:1: neither on the engine nor in the ledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["../../containers/json", "", "a b", "x?y", "x#y", "A:1", "a\nb", "sha256:xyz:"]
)
def test_what_is_no_name_never_reaches_the_engine(
    name: str, engine: _Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Engine, "inspect_image", lambda *_: pytest.fail("it was asked"))
    assert main(["graph", name]) == 2
    assert f"envpar: {name!r} is neither a stage nor an image: " in capsys.readouterr().err


def test_without_a_configuration(engine: _Engine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "envpar.toml").unlink()
    assert main(["graph"]) == 2
    assert "no stages are configured" in capsys.readouterr().err
    assert main(["graph", "base:1"]) == 0
    assert "● base:1" in capsys.readouterr().out


def test_many_pairs_are_not_all_told() -> None:
    images = [Pictured(ImageRecord(f"sha256:{n}", (BASE,)), (), (str(n),), "engine") for n in range(8)]
    images.append(Pictured(ImageRecord("sha256:x"), (), ("x",), "engine"))
    lines = graph_text.sums(sharing(images), len(images))
    assert lines[20:22] == ["… and 8 more pairs: --format json has all of them", "8 pairs share no layer"]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes(size: int | None, shown: str) -> None:
    assert graph_text.human(size) == shown


def test_a_terminal_that_cannot_write_the_tree() -> None:
    assert graph_text.encodable("├─ ● é", "utf-8") == "├─ ● é"
    assert graph_text.encodable("├─ ● é", "ascii") == "+- * \\xe9"
    assert graph_text.encodable("└", None) == "`"
    assert graph_text.cut("abcdef", 4) == "abc…"


# --- files -----------------------------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "onload")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_is_self_contained_and_escaped(engine: _Engine, past: None, folder: Path) -> None:
    assert main(["graph", "--output", "layers.html"]) == 0
    text = (folder / "layers.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.links == []
    assert not page.tags & {"script", "link", "img", "iframe", "b"}
    assert {"svg", "table", "h1"} <= page.tags
    assert "default-src 'none'" in text
    assert "url(" not in text
    shown = "".join(page.text)
    assert '<script>alert(1)</script>" \\x1b[31m \\u202e \\ud800 & more' in shown
    assert "<b>qa</b>:1" in shown
    assert "dev and qa share 1 layer, 216.7 MB" in shown
    assert "qa: no longer on the engine, drawn from the ledger" in shown


def test_a_drawing_is_valid_and_escaped(engine: _Engine, past: None, folder: Path) -> None:
    assert main(["graph", "--format=svg", "--output", "layers"]) == 0
    root = ET.fromstring((folder / "layers").read_bytes())
    names = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert names == {"svg", "title", "style", "path", "rect", "text", "g"}
    shown = "".join(root.itertext())
    assert "<b>qa</b>:1" in shown
    assert '"</text></svg><script>alert(1)</script>"' in shown
    kinds = [each.get("class") for each in root.iter() if each.tag.endswith("rect")]
    assert sorted(str(kind) for kind in kinds) == ["box gone", "box image", "box layer", "box shared"]
    # Every box is within the drawing.
    width, height = int(root.get("width", "0")), int(root.get("height", "0"))
    for box in (each for each in root if each.tag.endswith("}svg")):
        assert int(box.get("x", "")) + int(box.get("width", "")) <= width
        assert int(box.get("y", "")) + int(box.get("height", "")) <= height


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--output", "x.svg"], "<?xml"),
        (["--output", "x.HTM"], "<!DOCTYPE html>"),
        (["--output", "x.json"], "{"),
        (["--output", "x.txt"], "docker 20.10"),
        (["--output", "x.svg", "--format", "text"], "docker 20.10"),
        (["--format", "html", "--output", "x.svg"], "<!DOCTYPE html>"),
    ],
)
def test_which_form(arguments: list[str], begins: str, engine: _Engine, past: None, folder: Path) -> None:
    assert main(["graph", *arguments]) == 0
    (written,) = folder.glob("x.*")
    assert written.read_text(encoding="utf-8").startswith(begins)


def test_json(engine: _Engine, past: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["engine"]) == (1, "docker 20.10 at unix:///x.sock")
    assert [(each["stages"], each["source"]) for each in answer["images"]] == [
        (["dev"], "engine"),
        (["qa"], "ledger"),
    ]
    assert answer["layers"][0] == {
        "diff_id": BASE.diff_id,
        "size_bytes": BASE.size_bytes,
        "instruction": BASE.instruction,
        "images": [DEV, QA],
    }
    assert answer["sharing"]["pairs"] == [
        {"left": DEV, "right": QA, "layers": 1, "size_bytes": 216_700_000, "layers_of_unknown_size": 0}
    ]
    assert answer["sharing"]["shared_bytes"] == 216_700_000


def test_checkpoints_of_the_project_are_above_their_images(
    engine: _Engine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = "sha256:" + "3" * 64, "sha256:" + "4" * 64
    top = [LayerRecord("sha256:" + sign * 64, 10, f"checkpoint {sign}") for sign in "34"]
    with Ledger(folder / "ledger.sqlite3") as ledger:
        ledger.images.record(ImageRecord(first, (BASE, top[0]), "linux/amd64", size_bytes=20))
        ledger.images.record(ImageRecord(second, (BASE, *top), "linux/amd64", size_bytes=30))
        ledger.checkpoints.record(CheckpointRecord(str(folder), "one", first, DEV, 1.0))
        ledger.checkpoints.record(CheckpointRecord(str(folder), "two", second, first, 2.0))
        ledger.checkpoints.record(CheckpointRecord(str(folder), "gone", "sha256:" + "5" * 64, DEV))
        ledger.checkpoints.record(CheckpointRecord("/other", "foreign", first, DEV))
    assert main(["graph"]) == 0
    out = capsys.readouterr().out
    assert (
        "└─     10 B  333333333333  checkpoint 3\n"
        "   ├─ ● checkpoint one\n"
        "   │    333333333333, linux/amd64, 20 B, 2 layers, from the ledger, checkpoint of dddddddddddd\n"
        "   └─     10 B  444444444444  checkpoint 4\n"
        "      └─ ● checkpoint two\n"
        "           444444444444, linux/amd64, 30 B, 3 layers, from the ledger, checkpoint of 333333333333\n"
    ) in out
    assert "gone" not in out
    assert "foreign" not in out
    # One that is named is what the ledger knows of it, too.
    assert main(["graph", "--format=json", "dev", second]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [each["checkpoint_of"] for each in images] == [None, first]


def test_a_file_that_cannot_be_written(
    engine: _Engine, past: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graph", "--output", "absent/x.svg"]) == 2
    assert "--output absent/x.svg cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_broken_ledger_is_told(engine: _Engine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ledger.sqlite3").write_text("no database")
    assert main(["graph", "dev"]) == 0
    assert "ledger.sqlite3.broken-1" in capsys.readouterr().err
