"""``envpar lock``, ``lock --check``, ``upgrade`` and ``outdated``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.cli import main, outdated
from pytest_envpar.engine import select
from pytest_envpar.errors import EngineError, EnvparError, ImageError, NoEngineError
from pytest_envpar.images.lockfile import Entry, Lock, read, write

from .shelf import Shelf, info, sha

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Out = Callable[..., tuple[int, str, str]]

ONE = info("1", "a", "b", tags=("app:1",), digests=(f"app@{sha('d')}",))
TWO = info("2", "a", "c", tags=("app:1",), digests=(f"app@{sha('e')}",))
LOCAL = info("7", tags=("made:here",))
PINNED = Entry("app:1", None, sha("d"), sha("1"), "linux/amd64", layers=(sha("a"), sha("b")))
CONFIGURED = '[stages.qa]\nimage = "app:1"\n[stages.dev]\nimage = "made:here"\n'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")  # what is asked for by name is done in CI, too
    (tmp_path / "envpar.toml").write_text(CONFIGURED, encoding="utf-8")
    return tmp_path


@pytest.fixture
def shelf(root: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    made.put(ONE)
    made.put(LOCAL)
    monkeypatch.setattr(select, "select_engine", lambda *_: made)
    return made


@pytest.fixture
def no_engine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NoEngineError("no container engine answers")

    monkeypatch.setattr(select, "select_engine", fail)


@pytest.fixture
def envpar(capsys: pytest.CaptureFixture[str]) -> Out:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def held(root: Path) -> Lock:
    lock = read(root / "envpar.lock")
    assert lock is not None
    return lock


def test_lock_locks_all_stages_once(root: Path, shelf: Shelf, envpar: Out) -> None:
    assert envpar("lock") == (
        0,
        "dev: locked to made:here (local sha256:777777777777)\nqa: locked to app:1@sha256:dddddddddddd\n",
        "",
    )
    assert held(root).stages["qa"] == PINNED
    before = (root / "envpar.lock").read_bytes()
    shelf.has["app:1"] = TWO
    shelf.has[ONE.id] = info("1", "a", "b", digests=ONE.digests)
    assert envpar("lock") == (
        0,
        (
            "dev: unchanged, made:here (local sha256:777777777777)\n"
            "qa: unchanged, app:1@sha256:dddddddddddd\n"
            "  tag app:1 now means sha256:eeeeeeeeeeee; using the locked sha256:dddddddddddd\n"
        ),
        "",
    )
    assert (root / "envpar.lock").read_bytes() == before


def test_lock_locks_what_was_edited_and_drops_what_is_gone(root: Path, shelf: Shelf, envpar: Out) -> None:
    old = Entry("app:0", None, None, sha("3"), "linux/amd64")
    write(root / "envpar.lock", Lock({"qa": old, "gone": old}))
    status, out, _ = envpar("lock")
    assert status == 0
    assert "qa: locked anew: reference edited: app:0 -> app:1; now app:1@sha256:dddddddddddd\n" in out
    assert "gone: removed: there is no such stage any more\n" in out
    assert sorted(held(root).stages) == ["dev", "qa"]


def test_lock_goes_on_behind_a_stage_that_fails(root: Path, shelf: Shelf, envpar: Out) -> None:
    del shelf.has["made:here"]
    status, out, err = envpar("lock")
    assert status == 2
    assert (
        "dev: stage 'dev': image made:here was not found [image]\n    | manifest for made:here not found\n"
        in out
    )
    assert "qa: locked to app:1@sha256:dddddddddddd\n" in out
    assert err == "envpar: pulling made:here\n"
    assert list(held(root).stages) == ["qa"]


def test_lock_replaces_a_broken_file_and_no_newer_one(root: Path, shelf: Shelf, envpar: Out) -> None:
    path = root / "envpar.lock"
    path.write_text("version = 1\n<<<<<<< HEAD\n", encoding="utf-8")
    status, out, _ = envpar("lock")
    assert status == 0
    assert out.startswith(f"{path}:2: unresolved merge conflict (<<<<<<<): written anew\ndev: locked to ")
    assert sorted(held(root).stages) == ["dev", "qa"]
    path.write_text("version = 2\n", encoding="utf-8")
    for command in (("lock",), ("lock", "--check"), ("upgrade", "qa")):
        status, out, err = envpar(*command)
        assert (status, out) == (2, "")
        assert "written by a newer pytest-envpar" in err
    assert path.read_text(encoding="utf-8") == "version = 2\n"


def test_lock_needs_an_engine(no_engine: None, envpar: Out) -> None:
    status, _, err = envpar("lock")
    assert status == 2
    assert "no container engine answers" in err


@pytest.mark.usefixtures("no_engine")
def test_check_asks_no_engine_and_writes_nothing(root: Path, envpar: Out) -> None:
    assert envpar("lock", "--check") == (
        1,
        "dev: not locked\nqa: not locked\nmend it with: envpar lock\n",
        "",
    )
    assert not (root / "envpar.lock").exists()
    here = Entry("made:here", None, None, sha("7"), "linux/amd64")
    write(root / "envpar.lock", Lock({"qa": PINNED, "dev": here}))
    assert envpar("lock", "--check") == (0, "dev: locked as configured\nqa: locked as configured\n", "")
    write(root / "envpar.lock", Lock({"qa": here, "dev": here, "old": here}))
    before = (root / "envpar.lock").read_bytes()
    assert envpar("lock", "--check") == (
        1,
        (
            "dev: locked as configured\n"
            "qa: reference edited: made:here -> app:1\n"
            "old: locked, and there is no such stage\n"
            "mend it with: envpar lock\n"
        ),
        "",
    )
    assert (root / "envpar.lock").read_bytes() == before


@pytest.mark.usefixtures("no_engine")
def test_check_looks_at_the_files_of_a_build(root: Path, envpar: Out) -> None:
    (root / "envpar.toml").write_text("[stages.qa]\nbuild = {}\n", encoding="utf-8")
    (root / "Dockerfile").write_text("FROM app:1\n", encoding="utf-8")
    built = Entry(None, "Dockerfile", None, sha("1"), "linux/amd64", inputs=sha("0"))
    write(root / "envpar.lock", Lock({"qa": built}))
    status, out, _ = envpar("lock", "--check")
    assert (status, out.splitlines()[0]) == (1, "qa: Dockerfile, context or arguments of the build changed")
    (root / "Dockerfile").unlink()
    status, _, err = envpar("lock", "--check")
    assert status == 2
    assert "the Dockerfile" in err


def test_upgrade_moves_one_stage(root: Path, shelf: Shelf, envpar: Out) -> None:
    envpar("lock")
    other = held(root).stages["dev"]
    shelf.registry["app:1"] = TWO
    status, out, err = envpar("upgrade", "qa")
    assert (status, err) == (0, "envpar: pulling app:1\n")
    assert out == (
        "qa: locked anew: digest sha256:dddddddddddd -> sha256:eeeeeeeeeeee, 1 of 2 layers differ; "
        "now app:1@sha256:eeeeeeeeeeee\n"
    )
    assert held(root).stages["qa"].digest == sha("e")
    assert held(root).stages["dev"] == other
    assert envpar("upgrade", "qa")[1] == "qa: unchanged, app:1@sha256:eeeeeeeeeeee\n"


def test_upgrade_takes_the_images_of_services_along(root: Path, shelf: Shelf, envpar: Out) -> None:
    (root / "envpar.toml").write_text(
        CONFIGURED + '[stages.qa.services.db]\nimage = "db:16"\n', encoding="utf-8"
    )
    shelf.put(info("8", tags=("db:16",), digests=(f"db@{sha('8')}",)))
    envpar("lock")
    assert held(root).stages["qa"].services == {"db:16": sha("8")}
    shelf.registry = {"app:1": ONE, "db:16": info("9", tags=("db:16",), digests=(f"db@{sha('9')}",))}
    assert envpar("upgrade", "qa")[1] == (
        "qa: locked anew: service image db:16 sha256:888888888888 -> sha256:999999999999; "
        "now app:1@sha256:dddddddddddd\n"
    )
    assert held(root).stages["qa"].services == {"db:16": sha("9")}


def test_upgrade_of_no_stage(root: Path, shelf: Shelf, envpar: Out) -> None:
    status, _, err = envpar("upgrade", "qq")
    assert status == 2
    assert 'there is no stage "qq"' in err


def test_without_a_configuration(root: Path, envpar: Out) -> None:
    (root / "envpar.toml").unlink()
    for command in (("lock",), ("lock", "--check"), ("upgrade", "qa")):
        status, _, err = envpar(*command)
        assert status == 2
        assert "no stages are configured" in err


def test_as_json(root: Path, shelf: Shelf, envpar: Out) -> None:
    def answer(*arguments: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(envpar(*arguments, "--format", "json")[1])
        assert (made["version"], made["file"]) == (1, str(root / "envpar.lock"))
        return made

    locked = answer("lock")["stages"]
    assert [(line["stage"], line["state"]) for line in locked] == [("dev", "locked"), ("qa", "locked")]
    assert locked[1]["digest"] == sha("d")
    assert [line["state"] for line in answer("lock", "--check")["stages"]] == ["fine", "fine"]
    shelf.registry["app:1"] = TWO
    (line,) = answer("upgrade", "qa")["stages"]
    assert (line["state"], line["digest"], line["image_id"]) == ("changed", sha("e"), sha("2"))


class Registry:
    """What registries serve, by reference; an error is raised."""

    def __init__(self) -> None:
        self.serves: dict[str, str | EnvparError] = {}
        self.asked: list[str] = []

    def remote_digest(self, reference: str) -> str:
        self.asked.append(reference)
        answer = self.serves[reference]
        if isinstance(answer, EnvparError):
            raise answer
        return answer


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(outdated.Registries, "newest", lambda _, image: made.remote_digest(image))
    return made


@pytest.mark.usefixtures("no_engine")
def test_outdated_asks_registries_only(root: Path, registry: Registry, envpar: Out) -> None:
    (root / "envpar.toml").write_text(
        CONFIGURED + '[stages.built]\nbuild = {}\n[stages.exact]\nimage = "x@' + sha("5") + '"\n',
        encoding="utf-8",
    )
    built = Entry(
        None,
        "Dockerfile",
        None,
        sha("1"),
        "linux/amd64",
        base={"debian:12": sha("b"), "here:1": f"local {sha('c')}"},
    )
    stages = {
        "qa": dataclasses.replace(PINNED, services={"db:16": sha("8"), "own:1": f"local {sha('9')}"}),
        "dev": Entry("made:here", None, None, sha("7"), "linux/amd64"),
        "built": built,
        "exact": Entry(f"x@{sha('5')}", None, sha("5"), sha("6"), "linux/amd64"),
    }
    write(root / "envpar.lock", Lock(stages))
    registry.serves = {"app:1": sha("e"), "debian:12": sha("b"), "db:16": sha("3")}
    status, out, err = envpar("outdated")
    assert (status, err) == (1, "")
    assert [line.split() for line in out.splitlines()] == [
        ["STAGE", "IMAGE", "LOCKED", "NEWEST", "STATE"],
        ["built", "debian:12", "sha256:bbbbbbbbbbbb", "sha256:bbbbbbbbbbbb", "current"],
        ["built", "here:1", "sha256:cccccccccccc", "-", "local"],
        ["dev", "made:here", "-", "-", "local"],
        ["exact", f"x@{sha('5')}", "sha256:555555555555", "-", "pinned"],
        ["qa", "app:1", "sha256:dddddddddddd", "sha256:eeeeeeeeeeee", "outdated"],
        ["qa", "db:16", "sha256:888888888888", "sha256:333333333333", "outdated"],
        ["qa", "own:1", "sha256:999999999999", "-", "local"],
        ["take", "it", "with:", "envpar", "upgrade", "qa"],
    ]
    assert registry.asked == ["debian:12", "app:1", "db:16"]
    images = json.loads(envpar("outdated", "--format", "json")[1])["images"]
    assert images[-3] == {
        "stage": "qa",
        "image": "app:1",
        "locked": sha("d"),
        "newest": sha("e"),
        "state": "outdated",
        "error": [],
    }
    registry.serves["app:1"] = sha("d")
    assert envpar("outdated")[0] == 1
    registry.serves["db:16"] = sha("8")
    assert envpar("outdated")[0] == 0
    registry.serves["app:1"] = ImageError("app:1 was refused by its registry", hint="log in")
    status, out, _ = envpar("outdated")
    assert status == 2
    assert out.endswith("qa: app:1 was refused by its registry [image]\nqa: hint: log in\n")
    registry.serves["app:1"] = EngineError("no network")
    assert envpar("outdated")[0] == 3
    (root / "envpar.lock").unlink()
    status, out, _ = envpar("outdated")
    assert status == 1
    assert ["qa", "app:1", "-", "-", "unlocked"] in [line.split() for line in out.splitlines()]
