"""References, platforms, and how a pinned image is shown."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest

from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.images.pinned import Reference, parse_reference, pin, same_platform
from pytest_envpar.images.tags import build_repository, label_text, slug

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "fedcba9876543210" * 4

INFO = ImageInfo(
    id=OTHER,
    tags=("python:3.12",),
    digests=(),
    layers=("sha256:a", "sha256:b"),
    os="linux",
    architecture="amd64",
    variant="",
    env=MappingProxyType({}),
    user="",
    workdir="",
    entrypoint=(),
    cmd=(),
    volumes=(),
    labels=MappingProxyType({}),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python", Reference("docker.io/library/python", "latest", None)),
        ("python:3.12-slim", Reference("docker.io/library/python", "3.12-slim", None)),
        ("docker.io/python", Reference("docker.io/library/python", "latest", None)),
        ("team/app:1", Reference("docker.io/team/app", "1", None)),
        ("localhost:5000/app", Reference("localhost:5000/app", "latest", None)),
        ("localhost/app:x", Reference("localhost/app", "x", None)),
        ("reg.example/a/b:x", Reference("reg.example/a/b", "x", None)),
        (f"python@{DIGEST}", Reference("docker.io/library/python", None, DIGEST)),
        (f"python:3@{DIGEST}", Reference("docker.io/library/python", "3", DIGEST)),
        (DIGEST, Reference("", None, DIGEST)),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "name"),
        ("Python", "name"),
        ("a b", "name"),
        ("python:", "tag"),
        ("python:a b", "tag"),
        ("python@sha256:12", "digest"),
        ("python@", "digest"),
        ("../x", "name"),
        ("reg.example/", "name"),
        ("--privileged", "name"),
    ],
)
def test_bad_references(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_reference(text)


@pytest.mark.parametrize(
    ("asked", "has", "same"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("amd64", "linux/amd64", True),
        ("linux/x86_64", "linux/amd64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm", "linux/arm/v6", True),
        ("linux/arm64", "linux/amd64", False),
        ("windows/amd64", "linux/amd64", False),
        ("linux", "linux/arm64", True),
    ],
)
def test_platforms(asked: str, has: str, same: bool) -> None:
    assert same_platform(asked, has) is same


def test_an_image_of_a_registry_is_shown_by_digest() -> None:
    pinned = pin("python:3.12", dataclasses.replace(INFO, digests=(f"python@{DIGEST}",)))
    assert (pinned.digest, pinned.local) == (DIGEST, False)
    assert pinned.short() == "python:3.12@sha256:0123456789ab"
    assert pinned.platform == "linux/amd64"
    assert pinned.layers == ("sha256:a", "sha256:b")


def test_an_image_without_a_digest_is_local() -> None:
    pinned = pin("python:3.12", INFO)
    assert (pinned.digest, pinned.local) == (None, True)
    assert pinned.short() == "python:3.12 (local sha256:fedcba987654)"


def test_a_digest_of_another_repository_is_not_the_references() -> None:
    pinned = pin("mirror.example/python:3.12", dataclasses.replace(INFO, digests=(f"python@{DIGEST}",)))
    assert pinned.local


def test_an_image_asked_by_digest_keeps_it() -> None:
    assert pin(f"python@{DIGEST}", INFO).short() == "python@sha256:0123456789ab"


def test_an_image_asked_by_id_is_local() -> None:
    assert pin(OTHER, INFO).short() == "local sha256:fedcba987654"


def test_an_id_without_its_algorithm_is_shown_with_it() -> None:
    assert (
        pin("x", dataclasses.replace(INFO, id="abcdef0123456789")).short() == "x (local sha256:abcdef012345)"
    )


def test_names_for_an_engine() -> None:
    assert slug("My Project!") == "my-project"
    assert slug("é") == "project"
    assert build_repository("a__b", "qa_1") == "pytest-envpar/a-b-qa-1"
    assert label_text("a\udcff") == "a\\xff"
