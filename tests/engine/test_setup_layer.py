"""``setup`` steps on real engines: the image they are kept in, and what it has of its base."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.config.model import Build, Settings, Stage
from pytest_envpar.containers.labels import CACHE, KIND, Owner
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import EngineError, ImageError
from pytest_envpar.images.pinned import PinnedImage, pin
from pytest_envpar.images.resolve import resolve
from pytest_envpar.images.tags import SETUP
from pytest_envpar.worker.setup import Setup

from .engines import DOCKER_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

CONFIGURED = """\
FROM {base}
ENV WORDS="two words" EMPTY=""
RUN useradd -u 1234 app && mkdir /here && chown app /here
USER app
WORKDIR /here
ENTRYPOINT ["/bin/echo", "a b"]
CMD ["c", "d e"]
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGINT
SHELL ["/bin/bash", "-c"]
ONBUILD RUN true
HEALTHCHECK --interval=5m CMD true
LABEL said="so \\"it\\" is"
"""


@dataclasses.dataclass
class Case:
    """A project with a stage, and the images made for it."""

    engine: Engine
    root: Path
    cache: Path
    base: PinnedImage
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def run(self, *steps: str, base: PinnedImage | None = None, **keys: Any) -> tuple[PinnedImage, list[str]]:
        """The image of these steps, and the lines that were told."""
        stage = Stage("qa", image="x", setup=steps, **keys)
        settings = Settings(self.root, self.root / "envpar.toml", {"qa": stage})
        told: list[str] = []
        owner = Owner.current(self.root)
        setup = Setup(self.engine, settings, owner, self.cache, self.environ, told.append)
        return setup(stage, base or self.base), told

    def prints(self, image: PinnedImage, *command: str) -> str:
        """What a command in the image prints."""
        spec = ContainerSpec(
            image.image_id,
            command[1:],
            {KIND: "probe"},
            entrypoint=command[:1],
            network="none",
        )
        container = self.engine.create_container(spec)
        try:
            self.engine.start(container)
            self.engine.wait(container, timeout_s=60)
            return self.engine.logs(container).decode()
        finally:
            self.engine.remove_container(container)


@pytest.fixture
def case(engine: Engine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    info = engine.inspect_image(base_image)
    assert info is not None
    root = tmp_path / f"Proj {secrets.token_hex(3)}"
    root.mkdir()
    made = Case(engine, root, tmp_path / "cache", pin(info.tags[0], info))
    yield made
    for each in engine.list_images({"pytest-envpar.project": str(root)}):
        engine.remove_image(each.name, force=True)
    assert not engine.list_containers({"pytest-envpar.project": str(root)})
    assert not engine.list_volumes({"pytest-envpar.project": str(root)})


def unchanged(image: PinnedImage, base: PinnedImage) -> None:
    """The configuration of ``image`` is that of its base."""
    now, was = image.info, base.info
    for name in ("env", "user", "entrypoint", "cmd", "volumes"):
        assert getattr(now, name) == getattr(was, name), name
    for name in ("ports", "healthcheck", "stop_signal", "shell", "on_build"):
        assert getattr(now.config, name) == getattr(was.config, name), name
    # Podman writes the default out.
    assert (now.workdir or "/") == (was.workdir or "/")
    assert {**now.labels, **was.labels} == now.labels
    assert image.layers[:-1] == base.layers


@DOCKER_FIRST
def test_one_layer_and_nothing_else(case: Case) -> None:
    (case.root / "seed").write_text("sown")
    steps = ("cat seed > /made", "{ echo x > new; } 2> /told || rm /etc/debian_version; echo done")
    image, told = case.run(*steps)
    assert told[0] == "setup of stage qa, step 1 of 2: cat seed > /made"
    assert told[-2:] == ["done", f"setup of stage qa is kept as {image.reference}"]
    unchanged(image, case.base)
    assert image.info.labels[KIND] == CACHE
    assert len(image.info.labels[SETUP]) == 64
    assert case.prints(image, "cat", "/made") == "sown"
    assert "debian_version" not in case.prints(image, "ls", "/etc")
    # The host's own project is there, and cannot be written to.
    assert "Read-only file system" in case.prints(image, "cat", "/told")
    assert not (case.root / "new").exists()
    again, told = case.run(*steps)
    assert (again, told) == (image, [])
    (case.root / "seed").write_text("reaped")
    other, _ = case.run(*steps)
    assert case.prints(other, "cat", "/made") == "reaped"


@DOCKER_FIRST
def test_the_configuration_of_the_base_stays(case: Case) -> None:
    folder = case.root / "docker"
    folder.mkdir()
    (folder / "Dockerfile").write_text(CONFIGURED.format(base=case.base.info.tags[0]))
    stage = Stage("qa", build=Build(folder, folder / "Dockerfile"))
    labels = Owner.current(case.root).labels("cache", "qa")
    base = resolve(case.engine, stage, case.root, owner_labels=labels)
    # Buildah's images have no such instructions.
    assert bool(base.info.config.shell and base.info.config.on_build) == (case.engine.info.kind == "docker")
    image, _ = case.run(
        'id -un > /here/told; echo "$WORDS" "$A" >> /here/told; echo ${PATH:+path} ${EMPTY-unset} >> /here/told',
        base=base,
        env={"A": "a"},
    )
    unchanged(image, base)
    assert case.prints(image, "cat", "/here/told") == "app\ntwo words a\npath\n"


@DOCKER_FIRST
def test_another_user_and_a_place_of_its_own(case: Case) -> None:
    (case.root / "seed").write_text("sown")
    image, _ = case.run(
        "{ pwd; id -u; cat seed; echo x > new; } > /tmp/told 2>&1 || true",
        user="4321",
        workdir=PurePosixPath("/a/place"),
    )
    where, uid, rest = case.prints(image, "cat", "/tmp/told").splitlines()
    assert (where, uid) == ("/a/place", "4321")
    assert rest.startswith("sown")
    assert "Read-only file system" in rest
    assert image.info.user == case.base.info.user
    assert not (case.root / "new").exists()


@DOCKER_FIRST
def test_a_failure_leaves_nothing(case: Case) -> None:
    case.environ = {"TOKEN": "hush-hush"}
    with pytest.raises(ImageError) as caught:
        case.run("true", "echo it is $TOKEN; exit 9", pass_env=("TOKEN",))
    assert caught.value.message == "stage 'qa': setup step 2 of 2 failed: exit code 9"
    assert caught.value.detail == ("$ echo it is $TOKEN; exit 9", "it is $TOKEN")
    assert not case.engine.list_images({"pytest-envpar.project": str(case.root)})


@DOCKER_FIRST
def test_a_file_that_changes_meanwhile(case: Case) -> None:
    file = case.root / "seed"
    file.write_text("before")
    plain = case.engine

    class Changing:
        """The engine; the file changes as soon as the first step is asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def exec_stream(self, *args: Any, **keywords: Any) -> Any:
            file.write_text("after")
            return plain.exec_stream(*args, **keywords)

    case.engine = Changing()
    with pytest.raises(ImageError, match="a file that its setup steps name changed while they ran"):
        case.run("cat seed")
    assert not plain.list_images({"pytest-envpar.project": str(case.root)})


@DOCKER_FIRST
def test_an_interrupt_ends_a_step(case: Case, engine: Engine) -> None:
    """A run that is cancelled refuses all calls but removals; a step that would last is not waited for."""

    class Cancelled:
        """The engine, as soon as it is asked whether a step still runs."""

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        def inspect_container(self, container: str) -> Any:
            raise EngineError(f"cancelled: {container}")

    case.engine = Cancelled()
    with pytest.raises(EngineError, match="cancelled"):
        case.run("sleep 600")


def test_the_labels_say_nothing_of_the_run(case: Case) -> None:
    image, _ = case.run("true")
    unchanged(image, case.base)
    text = json.dumps({key: value for key, value in image.info.labels.items() if value})
    assert Owner.current(case.root).host not in text
    assert Owner.parse(image.info.labels) is None
