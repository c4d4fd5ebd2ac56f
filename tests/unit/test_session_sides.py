"""What a name on either side of a comparison means."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.cli.diff import presets
from pytest_envpar.config.model import Settings, Stage
from pytest_envpar.drift.policy import EVERY_PRESET
from pytest_envpar.errors import NotFoundError, UsageError
from pytest_envpar.session import hooks
from pytest_envpar.session.sides import parse, split_pair

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path


class Engine:
    """An engine that has one image and one container."""

    info = SimpleNamespace(kind="docker")

    def inspect_image(self, name: str) -> object | None:
        return name if name in ("python:3.12", "both") else None

    def inspect_container(self, name: str) -> object:
        if name not in ("web", "both"):
            raise NotFoundError(name)
        return name


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    stages = {name: Stage(name, image="x") for name in ("dev", "qa")}
    return Settings(tmp_path, tmp_path / "envpar.toml", MappingProxyType(stages))


def meaning(text: str, settings: Settings | None, here: Path) -> tuple[str, str]:
    def engine() -> Any:
        return Engine()

    named = parse(text, settings, here, engine)
    return named.kind, named.name


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("host", "host", "host"),
        ("dev", "stage", "dev"),
        ("stage:qa", "stage", "qa"),
        ("lock:qa", "lock", "qa"),
        ("image.tar", "file", "image.tar"),
        ("layout", "file", "layout"),
        ("file:layout", "file", "layout"),
        ("python:3.12", "image", "python:3.12"),
        ("both", "image", "both"),
        ("container:both", "container", "both"),
        ("web", "container", "web"),
    ],
)
def test_a_name(text: str, kind: str, name: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(b"")
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/oci-layout").write_bytes(b"")
    (tmp_path / "other").mkdir()
    assert meaning(text, settings, tmp_path) == (kind, name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("des", "'des' is no stage, no file, and neither an image nor a container that docker has"),
        ("other", "'other' is no stage, no file"),
        ("left.tar", "there is no file of this name in this folder"),
        ("stage:des", "there is no stage 'des'"),
        ("image:", "'image:' names nothing"),
        ("file:gone.tar", "there is no file or folder"),
        ("a\0b", "is no stage"),
    ],
)
def test_no_name(text: str, shown: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError) as raised:
        meaning(text, settings, tmp_path)
    assert shown in f"{raised.value.message}; {raised.value.hint}"


@pytest.mark.parametrize(
    "name", ["", "../x", "a/../../containers/json", "a//b", "Foo Bar", "a@sha256:12", "no\x1bthing", "x?y=1"]
)
def test_what_can_be_no_name_is_not_asked_for(name: str, settings: Settings, tmp_path: Path) -> None:
    """In an engine's API a name is part of a path."""

    class Silent:
        info = SimpleNamespace(kind="docker")

        def __getattr__(self, what: str) -> Any:
            pytest.fail(f"{what} was asked")

    for prefix in ("", "image:", "container:"):
        with pytest.raises(UsageError) as raised:
            parse(prefix + name, settings, tmp_path, Silent)  # type: ignore[arg-type]
        assert raised.value.message.isprintable()


def test_a_container_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="docker has no container 'gone'"):
        meaning("container:gone", settings, tmp_path)


def test_stages_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stages are configured here"):
        meaning("stage:qa", None, tmp_path)
    assert meaning("web", None, tmp_path) == ("container", "web")


def test_pairs() -> None:
    assert split_pair("dev..qa") == ("dev", "qa")
    for text in ("dev", "dev..", "..qa", ""):
        with pytest.raises(UsageError, match="is no pair"):
            split_pair(text)


def test_a_side_behind_no_presets_is_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_envpar.cli import diff, main

    seen: list[Namespace] = []

    def work(asked: Namespace) -> int:
        seen.append(asked)
        return 0

    monkeypatch.setattr(diff, "diff", work)
    assert main(["diff", "--no-presets", "dev", "qa"]) == 0
    assert (seen[0].left, seen[0].right, seen[0].no_presets) == ("dev", "qa", "*")


def test_names_of_presets() -> None:
    assert presets("") == frozenset()
    assert presets("*") == EVERY_PRESET
    assert presets("mtime,bytecode") == {"mtime", "bytecode"}
    with pytest.raises(UsageError, match="there is no preset 'bytecod'"):
        presets("bytecod")


def test_a_path_behind_the_option_stays_a_path() -> None:
    args = ["--env-drift", "tests", "--env-drift=a..b", "--", "--env-drift"]
    options.separate_drift(args)
    assert args == ["--env-drift=", "tests", "--env-drift=a..b", "--", "--env-drift"]


def test_hooks_are_checked_where_they_are_called() -> None:
    manager = hooks.command_manager()
    assert [each.ecosystem for each in hooks.formats(manager.hook)] == [
        "dpkg",
        "rpm",
        "apk",
        "conda",
        "pip",
        "npm",
    ]
    assert hooks.classifier(manager.hook) is None

    class Wrong:
        @staticmethod
        def pytest_envpar_packages() -> list[object]:
            return [1]

        @staticmethod
        def pytest_envpar_drift_classify() -> str:
            return "grave"

    from pluggy import HookimplMarker

    mark = HookimplMarker("pytest")
    mark(Wrong.pytest_envpar_packages)
    mark(Wrong.pytest_envpar_drift_classify)
    manager.register(Wrong())
    with pytest.raises(UsageError, match="pytest_envpar_packages returned 1"):
        hooks.formats(manager.hook)
    classify = hooks.classifier(manager.hook)
    assert classify is not None
    with pytest.raises(UsageError, match="'grave', which is no level"):
        classify(None, "file")  # type: ignore[arg-type]
