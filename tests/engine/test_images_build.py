"""Images of stages on real engines: found, not found, built once, rebuilt when an input changed."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.config.model import Build, Stage
from pytest_envpar.containers.labels import CACHE, KIND, PROJECT, STAGE, Owner
from pytest_envpar.errors import ImageError
from pytest_envpar.images.resolve import resolve

from .engines import DOCKER_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine


class Builds:
    """The engine, counting builds; removes the images made after the test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.count = 0
        self.tags: set[str] = set()
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def build(self, *args: Any, **keywords: Any) -> str:
        with self.lock:
            self.count += 1
            self.tags.add(keywords["tag"])
        return self.engine.build(*args, **keywords)

    def tag_image(self, image: str, tag: str) -> None:
        self.tags.add(tag)
        self.engine.tag_image(image, tag)


@pytest.fixture
def builds(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Builds(engine)
    yield made
    for tag in made.tags:
        engine.remove_image(tag)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / f"Proj {secrets.token_hex(3)}"
    root.mkdir()
    (root / "data").write_text(secrets.token_hex(8))
    (root / "Dockerfile").write_text("FROM scratch\nARG V=0\nCOPY data /data\nENV V=$V\n")
    return root


@pytest.fixture
def base_name(engine: Engine, base_image: str) -> str:
    info = engine.inspect_image(base_image)
    assert info is not None
    return info.tags[0]


def stage(root: Path, **build: Any) -> Stage:
    values: dict[str, Any] = {"context": root, "dockerfile": root / "Dockerfile", **build}
    return Stage("qa", build=Build(**values))


def built(builds: Builds, stage: Stage, root: Path, **keywords: Any) -> Any:
    owner = Owner.current(root)
    return resolve(builds, stage, root, owner_labels=owner.labels("cache", stage.name), **keywords)


def test_an_image_by_tag_and_by_id(engine: Engine, base_name: str, base_image: str) -> None:
    by_tag = resolve(engine, Stage("qa", image=base_name, platform=None), Path("/"))
    by_id = resolve(engine, Stage("qa", image=base_image), Path("/"))
    assert by_tag.image_id == by_id.image_id == base_image
    assert by_tag.layers
    assert "local sha256:" in by_id.short()


def test_an_image_of_another_platform(engine: Engine, base_name: str) -> None:
    with pytest.raises(ImageError, match="the stage asks for linux/s390x"):
        resolve(engine, Stage("qa", image=base_name, platform="linux/s390x"), Path("/"))


@DOCKER_FIRST
def test_an_image_that_no_registry_gives(engine: Engine) -> None:
    # Nothing listens there: a registry that cannot be reached, told as such and with the images that exist.
    with pytest.raises(ImageError, match=r"'qa': image 127\.0\.0\.1:1/none:1 .* cannot be reached") as caught:
        resolve(engine, Stage("qa", image="127.0.0.1:1/none:1"), Path("/"))
    assert "images on this engine" in str(caught.value)


def test_an_unchanged_build_is_one_look_up(builds: Builds, project: Path) -> None:
    lines: list[str] = []
    first = built(builds, stage(project), project, progress=lines.append)
    assert builds.count == 1
    assert any(line.startswith("building pytest-envpar/proj-") for line in lines)
    again = built(builds, stage(project), project)
    assert builds.count == 1
    assert again == first
    assert first.info.labels[KIND] == CACHE
    assert first.info.labels[STAGE] == "qa"
    assert first.info.labels[PROJECT] == str(project)
    assert not [key for key in first.info.labels if key.endswith(("run", "pid"))]


@pytest.mark.parametrize("change", ["content", "dockerfile", "args", "target"])
def test_a_changed_input_builds_again(builds: Builds, project: Path, change: str) -> None:
    (project / "Dockerfile").write_text(
        "FROM scratch AS one\nARG V=0\nCOPY data /data\nENV V=$V\nFROM one AS two\n"
    )
    first = built(builds, stage(project), project)
    keys: dict[str, Any] = {}
    if change == "content":
        (project / "data").write_text("other")
    elif change == "dockerfile":
        with (project / "Dockerfile").open("a") as file:
            file.write("ENV MORE=1\n")
    elif change == "args":
        keys["args"] = MappingProxyType({"V": "7"})
    else:
        keys["target"] = "one"
    second = built(builds, stage(project, **keys), project)
    assert builds.count == 2
    assert second.reference != first.reference
    if change == "args":
        assert second.info.env["V"] == "7"


@DOCKER_FIRST
def test_a_moved_base_builds_again(builds: Builds, project: Path) -> None:
    base = f"envpar-test-{secrets.token_hex(4)}:1"
    builds.tags.add(base)
    parents = []
    for content in ("one", "two"):
        (project / "data").write_text(content)
        parents.append(built(builds, stage(project), project).image_id)
    child = project / "child"
    child.mkdir()
    (child / "Dockerfile").write_text(f"FROM {base}\nENV CHILD=1\n")
    made = []
    for parent in (*parents, parents[0]):
        builds.engine.tag_image(parent, base)
        made.append(built(builds, stage(child), project).layers)
    assert made[0] != made[1]
    assert made[0] == made[2]
    assert builds.count == 4


def test_one_builds_while_others_wait(builds: Builds, project: Path) -> None:
    lines: list[str] = []
    started = threading.Barrier(3)

    def one() -> str:
        started.wait()
        made: str = built(builds, stage(project), project, progress=lines.append).image_id
        return made

    with ThreadPoolExecutor(3) as pool:
        ids = {future.result() for future in [pool.submit(one) for _ in range(3)]}
    assert len(ids) == 1
    assert builds.count == 1


def test_the_ignore_file_keeps_files_out(builds: Builds, project: Path) -> None:
    (project / ".dockerignore").write_text("data\n")
    with pytest.raises(ImageError):
        built(builds, stage(project), project)


def test_a_dockerfile_outside_its_context(builds: Builds, project: Path) -> None:
    inner = project / "inner"
    inner.mkdir()
    (inner / "data").write_text("inner")
    assert built(builds, stage(project, context=inner), project).info.env["V"] == "0"


@pytest.mark.parametrize("key", ["context", "dockerfile"])
def test_a_missing_path_is_named_with_its_key(builds: Builds, project: Path, key: str) -> None:
    missing = project / "nowhere"
    with pytest.raises(ImageError) as caught:
        built(builds, stage(project, **{key: missing}), project)
    assert str(missing) in caught.value.message
    assert f"'{key}' in [tool.envpar.stages.qa] build" in str(caught.value.hint)
    assert builds.count == 0


def test_a_failing_build_shows_its_step_and_output(builds: Builds, project: Path, base_name: str) -> None:
    lines = [f"FROM {base_name}", "RUN echo before", "RUN echo the cause is here; exit 3"]
    (project / "Dockerfile").write_text("\n".join(lines))
    with pytest.raises(ImageError) as caught:
        built(builds, stage(project), project)
    said = str(caught.value)
    assert "stage 'qa': building " in said
    assert "the cause is here" in said
    assert "RUN echo the cause is here; exit 3" in said


def test_a_failed_build_can_be_repeated(builds: Builds, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM scratch\nCOPY nothing /x\n")
    for _ in range(2):
        with pytest.raises(ImageError):
            built(builds, stage(project), project)
    (project / "nothing").write_text("")
    assert built(builds, stage(project), project).layers


def test_a_build_for_another_platform(builds: Builds, project: Path) -> None:
    other = dataclasses.replace(stage(project), platform="linux/arm64")
    said = "linux/arm64"
    try:
        said = built(builds, other, project).platform
    except ImageError as error:
        said = str(error)
    assert "linux/arm64" in said
