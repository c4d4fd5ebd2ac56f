"""What an engine's refusal to give an image is turned into."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.engine.values.engine import EngineInfo, Listed
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError, NotFoundError
from pytest_envpar.images.resolve import resolve

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine, Progress

ID = "sha256:" + "ab" * 32
DIGEST = "sha256:" + "cd" * 32


def image(platform: str = "linux/amd64") -> ImageInfo:
    os_name, _, architecture = platform.partition("/")
    nothing: MappingProxyType[str, str] = MappingProxyType({})
    return ImageInfo(
        ID, (), (), ("sha256:l",), os_name, architecture, "", nothing, "", "", (), (), (), nothing
    )


class Images:
    """An engine that has some images, and pulls as it is told."""

    info = EngineInfo("docker", "1", "1.41", "unix:///e", True, False, True, 1, "linux", "amd64", "id")

    def __init__(
        self, *, has: dict[str, ImageInfo] | None = None, pulls: ImageInfo | EngineError | None = None
    ) -> None:
        self.has = dict(has or {})
        self.pulls = pulls
        self.pulled: list[tuple[str, str | None]] = []

    def inspect_image(self, reference: str) -> ImageInfo | None:
        return self.has.get(reference)

    def pull(self, reference: str, *, platform: str | None = None, progress: Progress | None = None) -> None:
        assert progress is None or callable(progress)
        self.pulled.append((reference, platform))
        if isinstance(self.pulls, EngineError):
            raise self.pulls
        if self.pulls is not None:
            self.has[reference] = self.pulls

    def list_images(self, _labels: object) -> tuple[Listed, ...]:
        return tuple(Listed(ID, name, {}) for name in self.has)


def run(
    engine: Images, reference: str, platform: str | None = None, lines: list[str] | None = None
) -> object:
    stage = Stage("qa", image=reference, platform=platform)
    progress = None if lines is None else lines.append
    return resolve(cast("Engine", engine), stage, Path("/p"), progress=progress)


def failing(engine: Images, reference: str, platform: str | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        run(engine, reference, platform)
    assert "'qa'" in caught.value.message
    return str(caught.value)


def test_an_image_that_is_there_is_not_pulled() -> None:
    engine = Images(has={"a:1": image()})
    run(engine, "a:1", "linux/amd64")
    assert engine.pulled == []


def test_a_missing_image_is_pulled_for_its_platform() -> None:
    engine = Images(pulls=image("linux/arm64"))
    lines: list[str] = []
    run(engine, "a:1", "linux/arm64", lines)
    assert engine.pulled == [("a:1", "linux/arm64")]
    assert lines == ["pulling a:1"]


def test_an_image_of_another_platform_is_refused() -> None:
    said = failing(Images(has={"a:1": image()}), "a:1", "linux/arm64")
    assert "the engine has a:1 for linux/amd64, the stage asks for linux/arm64" in said
    assert "--platform linux/arm64" in said


@pytest.mark.parametrize("reference", ["A b", "a@sha256:12"])
def test_no_reference(reference: str) -> None:
    assert "is not an image reference" in failing(Images(), reference)


def test_an_unknown_id_cannot_be_pulled() -> None:
    engine = Images()
    assert "has no image with the id" in failing(engine, ID)
    assert engine.pulled == []


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (NotFoundError("manifest for python:3.99 not found"), "was not found", "python:3.12"),
        (EngineError("pull access denied for x, repository does not exist or may require 'docker login'"),
         "was not found", "docker login"),
        (EngineError("reading manifest: manifest unknown"), "was not found", "check the name"),
        (EngineError("unauthorized: authentication required"), "refused by its registry", "docker login"),
        (EngineError("requested access to the resource is denied"), "refused by its registry", "docker login"),
        (EngineError("dial tcp: lookup reg.example: no such host"), "cannot be reached", "network"),
        (EngineError("x509: certificate signed by unknown authority"),
         "certificate of docker.io is not trusted", "/etc/docker/certs.d/docker.io/ca.crt"),
        (EngineError("no matching manifest for linux/amd64 in the manifest list"),
         "does not exist for the platform linux/amd64", "'platform'"),
        (EngineError("disk full"), "could not be pulled", "python:3.12"),
    ],
)  # fmt: skip
def test_refusals(error: EngineError, message: str, hint: str) -> None:
    said = failing(Images(has={"python:3.12": image()}, pulls=error), "python:3.99")
    assert message in said
    assert hint in said.partition("hint:")[2]
    assert error.message in said


def test_the_login_names_the_registry() -> None:
    engine = Images(pulls=EngineError("unauthorized"))
    assert "docker login reg.example:5000" in failing(engine, "reg.example:5000/a:1")


def test_a_lost_engine_is_no_image_error() -> None:
    with pytest.raises(ConnectionLostError):
        run(Images(pulls=ConnectionLostError("gone")), "a:1")


def test_a_digest_that_does_not_exist() -> None:
    said = failing(Images(pulls=NotFoundError("manifest unknown")), f"python@{DIGEST}")
    assert f"python@{DIGEST} was not found" in said


def test_an_engine_that_forgets_what_it_pulled() -> None:
    assert "does not know it" in failing(Images(), "a:1")


def test_a_stage_without_an_image() -> None:
    with pytest.raises(ImageError, match="neither an image nor a build"):
        resolve(cast("Engine", Images()), Stage("qa"), Path("/p"))


def test_images_are_pinned_by_id() -> None:
    engine = Images(has={"a:1": dataclasses.replace(image(), digests=(f"a@{DIGEST}",))})
    pinned = resolve(cast("Engine", engine), Stage("qa", image="a:1"), Path("/p"))
    assert (pinned.image_id, pinned.digest) == (ID, DIGEST)
