"""Credentials of registries: where they are found, and that nothing ever tells them."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from pytest_envpar.engine import registry_auth
from pytest_envpar.engine.registry_auth import Credentials, credentials_for, header_for, header_for_all
from pytest_envpar.errors import ImageError

SECRET = "s3:cr:et"
TOKEN = "t0k3n"


def auth(user: str = "me", password: str = SECRET) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def write(folder: Path, **content: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def decoded(header: str | None) -> Any:
    assert header is not None
    return json.loads(base64.urlsafe_b64decode(header))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``helper(name, script)`` puts a credential helper on PATH; it writes what it is asked to a log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> Path:
        file = folder / f"docker-credential-{name}"
        log = folder / f"{name}.log"
        file.write_text(
            f'#!/bin/sh\nread -r server\necho "$1 $server" >> {log}\n{script}\n', encoding="utf-8"
        )
        file.chmod(0o755)
        return log

    return make


def test_a_password_may_have_colons(tmp_path: Path) -> None:
    write(tmp_path, auths={"reg.example:5000": {"auth": auth()}})
    found = credentials_for("reg.example:5000/team/app:1", tmp_path)
    assert found is not None
    assert (found.username, found.password) == ("me", SECRET)
    assert decoded(header_for("reg.example:5000/a@sha256:" + "0" * 64, tmp_path)) == {
        "username": "me",
        "password": SECRET,
        "serveraddress": "reg.example:5000",
    }


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("https://index.docker.io/v1/", "python:3.12"),
        ("docker.io", "docker.io/library/python:3.12"),
        ("index.docker.io", "team/app"),
        ("https://reg.example/v2/", "reg.example/team/app:1"),
        ("http://reg.example", "reg.example/app"),
        ("localhost", "localhost/app"),
        ("reg.example/team", "reg.example/team/app:1"),
    ],
)
def test_the_key_of_a_registry(key: str, reference: str, tmp_path: Path) -> None:
    write(tmp_path, auths={"other.example": {"auth": auth("other")}, key: {"auth": auth()}})
    found = credentials_for(reference, tmp_path)
    assert found is not None
    assert found.username == "me"
    write(tmp_path, auths={"other.example": {"auth": auth("other")}})
    assert credentials_for(reference, tmp_path) is None


@pytest.mark.parametrize("key", ["reg.example/team", "reg.example:5000", "xreg.example", "example"])
def test_keys_of_others(key: str, tmp_path: Path) -> None:
    write(tmp_path, auths={key: {"auth": auth()}})
    assert credentials_for("reg.example/teammate/app:1", tmp_path) is None


def test_an_identity_token(tmp_path: Path) -> None:
    write(tmp_path, auths={"reg.example": {"auth": auth("me", ""), "identitytoken": TOKEN}})
    assert decoded(header_for("reg.example/a:1", tmp_path)) == {
        "identitytoken": TOKEN,
        "serveraddress": "reg.example",
    }


def test_helpers_of_several_registries(tmp_path: Path, helper: Any) -> None:
    helper("one", f'echo \'{{"Username": "u1", "Secret": "{SECRET}"}}\'')
    helper("two", f'echo \'{{"Username": "<token>", "Secret": "{TOKEN}"}}\'')
    log = helper("rest", "echo credentials not found in native keychain; exit 1")
    write(
        tmp_path,
        credsStore="rest",
        credHelpers={"one.example": "one", "two.example:5000": "two"},
        auths={"file.example": {"auth": auth("u3")}},
    )
    assert decoded(header_for("one.example/a", tmp_path))["username"] == "u1"
    assert decoded(header_for("two.example:5000/a", tmp_path))["identitytoken"] == TOKEN
    assert decoded(header_for("file.example/a", tmp_path))["username"] == "u3"
    assert header_for("nobody.example/a", tmp_path) is None
    assert log.read_text().splitlines() == ["get file.example", "get nobody.example"]


def test_the_public_registry_is_asked_for_by_its_url(tmp_path: Path, helper: Any) -> None:
    log = helper("store", f'echo \'{{"Username": "u", "Secret": "{SECRET}"}}\'')
    write(tmp_path, credsStore="store")
    assert decoded(header_for("python:3.12", tmp_path))["serveraddress"] == "https://index.docker.io/v1/"
    assert log.read_text() == "get https://index.docker.io/v1/\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"echo {SECRET} >&2; echo {SECRET}; exit 3", "ended with 3"),
        (f"echo {SECRET}", "something else than JSON"),
        (f'echo \'{{"Secret": "{SECRET}", \'', "something else than JSON"),
        (f"echo '\"{SECRET}\"'", "something else than JSON"),
    ],
)
def test_a_broken_helper_is_named_and_its_words_are_not_shown(
    script: str, told: str, tmp_path: Path, helper: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    helper("bad", script)
    write(tmp_path, credHelpers={"reg.example": "bad"})
    with pytest.raises(ImageError, match="docker-credential-bad") as caught:
        header_for("reg.example/a", tmp_path)
    assert told in caught.value.message
    assert "echo reg.example | docker-credential-bad get" in (caught.value.hint or "")
    shown = "".join(traceback.format_exception(caught.value)) + str(vars(caught.value))
    assert SECRET not in shown
    assert caught.value.__context__ is None
    assert capfd.readouterr() == ("", "")
    # Of a build it may be another registry's.
    assert header_for_all(tmp_path) is None


def test_a_helper_that_cannot_be_run(tmp_path: Path, helper: Any) -> None:
    for name in ("envpar-no-such", "../bin/x"):
        write(tmp_path, credsStore=name)
        with pytest.raises(ImageError, match="not on PATH") as caught:
            credentials_for("reg.example/a", tmp_path)
        assert "credsStore" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        f'{{"auths": {{"reg.example": {{"auth": "{SECRET}" }}',
        f'["{SECRET}"]',
        json.dumps({"auths": {"reg.example": {"auth": "c2VjcmV0"}}}),
        json.dumps({"auths": {"reg.example": {"auth": f"%{SECRET}%"}}}),
    ],
)
def test_a_broken_file_is_named_without_what_it_says(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ImageError, match=r"config\.json") as caught:
        credentials_for("reg.example/a", tmp_path)
    assert caught.value.hint
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert "c2VjcmV0" not in shown


def test_all_of_them_for_a_build(tmp_path: Path, helper: Any) -> None:
    helper("one", f'echo \'{{"Username": "u1", "Secret": "{SECRET}"}}\'')
    helper(
        "rest",
        'if [ "$1" = list ]; then echo \'{"listed.example": "u4"}\'; '
        'else echo \'{"Username": "u4", "Secret": "x"}\'; fi',
    )
    write(
        tmp_path,
        credsStore="rest",
        credHelpers={"one.example": "one", "gone.example": "envpar-no-such"},
        auths={"file.example": {"auth": auth("u3")}, "empty.example": {}},
    )
    found = decoded(header_for_all(tmp_path))
    assert {server: each["username"] for server, each in found.items()} == {
        "listed.example": "u4",
        "one.example": "u1",
        "file.example": "u3",
    }


def test_podmans_own_files(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    file = tmp_path / "containers" / "auth.json"
    file.write_text(json.dumps({"auths": {"reg.example/team": {"auth": auth()}}}), encoding="utf-8")
    files = registry_auth.podman_files({"XDG_RUNTIME_DIR": str(tmp_path), "HOME": "/nowhere"})
    assert file in files
    assert Path("/nowhere/.config/containers/auth.json") in files
    assert registry_auth.podman_files({"REGISTRY_AUTH_FILE": "/x.json"}) == (Path("/x.json"),)
    found = credentials_for("reg.example/team/app", tmp_path, (file,))
    assert found is not None
    assert found.username == "me"


def test_credentials_do_not_tell_themselves() -> None:
    made = Credentials("me", SECRET, TOKEN)
    for shown in (repr(made), str(made), f"{[made]}", str(copy.copy(made))):
        assert SECRET not in shown
        assert TOKEN not in shown
        assert "me" not in shown.replace("Credentials", "")
    assert pickle.loads(pickle.dumps(made)) == made
    assert not Credentials()
