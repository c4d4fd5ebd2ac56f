"""``envpar graph`` of real images on Docker and Podman, also after they are gone from the engine."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import tarfile
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.cli import main
from pytest_envpar.engine import select

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine


@pytest.fixture
def built(engine: Engine, base_image: str, run_labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Two images on one base: the second has another layer on top of the first."""
    base = engine.inspect_image(base_image)
    assert base is not None
    token = secrets.token_hex(4)
    names = (f"envpar-test-graph:{token}a", f"envpar-test-graph:{token}b")
    steps = f"FROM {base.tags[0]}\nRUN echo {token} > /made\nENV A=1\n"
    try:
        for name, dockerfile in zip(names, (steps, f"{steps}RUN echo more > /more\n"), strict=True):
            engine.build(_context(dockerfile), dockerfile="Dockerfile", tag=name, labels=run_labels)
        yield names
    finally:
        for name in reversed(names):
            engine.remove_image(name)


def _context(dockerfile: str) -> Iterator[bytes]:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        archive.addfile(member, io.BytesIO(dockerfile.encode()))
    yield target.getvalue()


@pytest.fixture
def folder(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the command finds the engine of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENVPAR_LEDGER", str(tmp_path / "ledger.sqlite3"))

    class _Kept:
        """The test goes on with the engine when the command is done."""

        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def close(self) -> None:
            pass

    monkeypatch.setattr(select, "select_engine", lambda *_: _Kept())
    return tmp_path


def test_what_built_images_share(
    engine: Engine, built: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lower, upper = built
    assert main(["graph", lower, upper, "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    below, above = answer["images"]
    assert below["layers"] == above["layers"][: len(below["layers"])]
    instructions = {layer["diff_id"]: layer["instruction"] for layer in answer["layers"]}
    assert instructions[below["layers"][-1]].startswith("RUN echo ")
    assert instructions[below["layers"][-1]].endswith(" > /made")
    assert instructions[above["layers"][-1]] == "RUN echo more > /more"
    (pair,) = answer["sharing"]["pairs"]
    assert (pair["layers"], pair["layers_of_unknown_size"]) == (len(below["layers"]), 0)
    assert pair["size_bytes"] > 50_000_000
    assert {image["source"] for image in answer["images"]} == {"engine"}

    engine.remove_image(upper)
    assert main(["graph", lower, upper, "--format=json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert [image["source"] for image in after["images"]] == ["engine", "ledger"]
    assert after["layers"] == answer["layers"]
    assert after["sharing"] == answer["sharing"]
    with contextlib.suppress(FileNotFoundError):
        (folder / "ledger.sqlite3").unlink()
    assert main(["graph", lower, upper]) == 2
    assert f"{upper}: neither on the engine nor in the ledger" in capsys.readouterr().err
