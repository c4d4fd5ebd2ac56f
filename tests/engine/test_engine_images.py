"""The contract of the engine's image verbs, against Docker and Podman."""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest
from rig.ports import free_port

from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.retry import Backoff
from pytest_envpar.errors import EngineError, NotFoundError
from pytest_envpar.images.lineage import describe

from .engines import DOCKER_FIRST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine


def context(dockerfile: str, name: str = "Dockerfile") -> Iterator[bytes]:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path, content in ((name, dockerfile.encode()), ("data.txt", b"data\n")):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    raw = target.getvalue()
    yield raw[:1000]
    yield raw[1000:]


@pytest.fixture
def base_name(engine: Engine, base_image: str) -> str:
    image = engine.inspect_image(base_image)
    assert image is not None
    return image.tags[0]


def test_an_image_is_described(engine: Engine, base_image: str) -> None:
    image = engine.inspect_image(base_image)
    assert image is not None
    assert image.id == base_image
    assert image.id.startswith("sha256:")
    assert image.layers
    assert all(layer.startswith("sha256:") for layer in image.layers)
    assert (image.os, image.architecture) == (engine.info.os, engine.info.architecture)


def test_tagged_images_are_listed(engine: Engine, base_image: str) -> None:
    """Podman adds a registry to the name of a tag, here that of Docker."""
    repository = f"envpar-test/{secrets.token_hex(6)}"
    engine.tag_image(base_image, f"{repository}:1")
    (listed,) = engine.list_tagged(repository)
    assert listed.id == base_image
    assert listed.name.endswith(f"{repository}:1")
    engine.remove_image(listed.name)
    assert engine.list_tagged(repository) == ()
    assert engine.inspect_image(base_image) is not None


def test_a_build_makes_a_labelled_image(
    engine: Engine, base_name: str, run_labels: Mapping[str, str], create: Callable[..., str]
) -> None:
    dockerfile = (
        f"FROM {base_name} AS first\nARG VALUE\nRUN echo built-$VALUE > /made\nCOPY data.txt /data.txt\n"
        f"ENV A=b\nUSER 12\nWORKDIR /opt\n\nFROM first AS second\nRUN false\n"
    )
    told: list[str] = []
    image = engine.build(
        context(dockerfile, "docker/x.Dockerfile"),
        dockerfile="docker/x.Dockerfile",
        tag="envpar-test-built:1",
        target="first",
        args={"VALUE": "yes"},
        labels=run_labels,
        progress=told.append,
    )
    try:
        info = engine.inspect_image(image)
        assert info is not None
        assert info.id == image
        assert (info.env.get("A"), info.user, info.workdir) == ("b", "12", "/opt")
        assert info.labels["pytest-envpar.run"] == run_labels["pytest-envpar.run"]
        assert any("FROM" in line for line in told)
        wanted = {"pytest-envpar.run": run_labels["pytest-envpar.run"]}
        assert image in {listed.id for listed in engine.list_images(wanted)}
        engine.tag_image(image, "envpar-test-built:2")
        container = create("cat", "/made", "/data.txt", image="envpar-test-built:2")
        engine.start(container)
        assert engine.wait(container, timeout_s=60) == 0
        assert engine.logs(container) == b"built-yes\ndata\n"
        engine.remove_container(container)
    finally:
        engine.remove_image("envpar-test-built:1")
        engine.remove_image("envpar-test-built:2")
    assert engine.inspect_image(image) is None
    engine.remove_image("envpar-test-built:1")


def test_a_build_without_a_tag(engine: Engine, base_name: str, run_labels: Mapping[str, str]) -> None:
    image = engine.build(
        context(f"FROM {base_name}\nENV A=untagged\n"), dockerfile="Dockerfile", tag=None, labels=run_labels
    )
    try:
        info = engine.inspect_image(image)
        assert info is not None
        assert info.env["A"] == "untagged"
    finally:
        engine.remove_image(image, force=True)


def test_a_failing_step_is_shown_with_the_end_of_its_output(engine: Engine, base_name: str) -> None:
    dockerfile = f"FROM {base_name}\nENV A=1\nRUN seq 1 50; echo the-cause >&2; exit 3\nRUN echo never\n"
    with pytest.raises(EngineError) as caught:
        engine.build(context(dockerfile), dockerfile="Dockerfile", tag="envpar-test-failed:1")
    error = caught.value
    assert "build of Dockerfile" in error.message
    assert "RUN seq 1 50" in error.message
    assert "RUN seq 1 50" in error.detail[0]
    shown = "\n".join(error.detail)
    assert "the-cause" in shown
    assert "\n50\n" in shown
    assert "\n20\n" not in shown
    assert "3" in error.detail[-1]
    assert engine.inspect_image("envpar-test-failed:1") is None


@DOCKER_FIRST
def test_a_dockerfile_for_buildkit(
    engine: Engine, base_name: str, run_labels: Mapping[str, str], create: Callable[..., str]
) -> None:
    token = secrets.token_hex(4)
    dockerfile = (
        f"FROM {base_name}\nCOPY data.txt /\nENV TOKEN={token}\n"
        "RUN --mount=type=cache,target=/cache echo told-$TOKEN && echo made > /made\n"
    )
    told: list[str] = []
    tag = "envpar-test-buildkit:1"
    image = engine.build(
        context(dockerfile), dockerfile="Dockerfile", tag=tag, labels=run_labels, progress=told.append
    )
    try:
        assert f"told-{token}" in told
        container = create("cat", "/made", image=image)
        engine.start(container)
        engine.wait(container, timeout_s=60)
        assert engine.logs(container) == b"made\n"
        engine.remove_container(container)
    finally:
        engine.remove_image(tag)
    with pytest.raises(EngineError) as caught:
        engine.build(context(dockerfile + "RUN seq 1 50; exit 3\n"), dockerfile="Dockerfile", tag=None)
    assert "RUN seq 1 50; exit 3" in caught.value.message
    shown = "\n".join(caught.value.detail)
    assert "\n50\n" in shown
    assert "\n20\n" not in shown


@pytest.mark.parametrize(
    ("dockerfile", "name", "told"),
    [
        ("FROM {base}\nNOSUCH x\n", "Dockerfile", "(?i)nosuch"),
        ("FROM {base}\nCOPY not-there /x\n", "Dockerfile", "not-there"),
        ("FROM {base}\n", "other", "Dockerfile"),
        ("", "Dockerfile", "(?i)dockerfile"),
    ],
)
def test_a_dockerfile_that_cannot_be_built(
    engine: Engine, base_name: str, dockerfile: str, name: str, told: str
) -> None:
    with pytest.raises(EngineError, match=told):
        engine.build(context(dockerfile.format(base=base_name), name), dockerfile="Dockerfile", tag=None)


@pytest.fixture
def registry(engine: Engine) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A registry that gives one answer to everything; ``answer(raw)`` sets it."""
    if not engine.info.local:
        pytest.skip("an engine of another machine does not reach the loopback of this one")
    answers: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    request = b""
                    # 22 begins TLS, which is tried first.
                    while b"\r\n\r\n" not in request and not request.startswith(b"\x16"):
                        data = connection.recv(65536)
                        if not data:
                            break
                        request += data
                    if request.startswith((b"GET", b"HEAD")):
                        connection.sendall(answers[-1])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    host, port = server.getsockname()
    yield f"{host}:{port}", answers.append
    stop.set()
    # Closing alone does not wake an accept().
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def _answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@DOCKER_FIRST
@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ("404 Not Found", "MANIFEST_UNKNOWN", "(?i)manifest unknown|not found|no such"),
        ("401 Unauthorized", "UNAUTHORIZED", "(?i)unauthorized|denied|authentication|auth"),
        ("500 Internal Server Error", "UNKNOWN", "."),
    ],
)
def test_a_registry_that_refuses(
    engine: Engine, registry: tuple[str, Callable[[bytes], None]], status: str, code: str, told: str
) -> None:
    address, answer = registry
    if engine.info.kind == "podman":
        # It speaks https to every registry unless it is configured otherwise.
        told = "EOF|TLS|https?"
    answer(_answer(status, b'{"errors": [{"code": "%b", "message": "%b"}]}' % (code.encode(), code.encode())))
    once = DockerEngine(engine.info.url, backoff=Backoff(tries=1))
    with contextlib.closing(once), pytest.raises(EngineError, match=told):
        once.pull(f"{address}/some/image:1")


@DOCKER_FIRST
def test_a_registry_that_is_not_there(engine: Engine) -> None:
    port = free_port()
    with pytest.raises(EngineError, match=r"(?i)refused") as caught:
        engine.pull(f"127.0.0.1:{port}/some/image:1")
    assert f"127.0.0.1:{port}/some/image:1" in caught.value.message


@DOCKER_FIRST
def test_an_images_history(engine: Engine, base_name: str, run_labels: Mapping[str, str]) -> None:
    steps = (
        "ENV A=1",
        "RUN mkdir /made",
        "RUN true",
        "WORKDIR /new",
        "WORKDIR /new",
        "COPY data.txt /data.txt",
    )
    dockerfile = "\n".join((f"FROM {base_name}", *steps, ""))
    base = engine.inspect_image(base_name)
    assert base is not None
    made = engine.build(context(dockerfile), dockerfile="Dockerfile", tag=None, labels=run_labels)
    try:
        image = engine.inspect_image(made)
        assert image is not None
        record = describe(engine, image)
        assert image.created
        assert record.size_bytes
    finally:
        engine.remove_image(made)
    assert [layer.diff_id for layer in record.layers] == list(image.layers)
    told = [layer.instruction for layer in record.layers[len(base.layers) :]]
    assert told[0] == "RUN mkdir /made"
    assert told[-1].startswith("COPY ")
    # Builders differ in whether what changes nothing has a layer; the order is that of the Dockerfile.
    possible = iter(("RUN true", "WORKDIR /new", "WORKDIR /new"))
    assert all(text in possible for text in told[1:-1]), told
    assert len(told) > 2
    assert [layer.size_bytes is not None for layer in record.layers] == [True] * len(record.layers)


def test_the_history_of_what_is_not_there(engine: Engine) -> None:
    with pytest.raises(NotFoundError):
        engine.image_history("envpar-test-absent:1")
