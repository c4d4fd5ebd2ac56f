"""Registries that fail, lie or die: what is tried again, what is refused, what is left."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.config.model import Settings
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.retry import Backoff
from pytest_envpar.errors import ImageError
from pytest_envpar.images.lockfile import read
from pytest_envpar.images.locking import resolve_stage, settle
from pytest_envpar.images.registry import ask_directly, remote_digest

from .servers import Answer, Ask, failing, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .cases import Case
    from .servers import Front, Registry

pytestmark = pytest.mark.engine

LARGE = 3_000_000


_PODMAN_FIRST = pytest.mark.parametrize(
    "each", [pytest.param("docker", marks=pytest.mark.slow), "podman"], indirect=True
)


@pytest.fixture(params=["docker", "podman"])
def each(request: pytest.FixtureRequest, plain: Registry, front: Front) -> Case:
    """A repository behind :func:`front`, for each engine in turn."""
    engine = request.getfixturevalue(request.param)
    # After the engine, so that it cleans up before the engine is closed.
    make_case: Callable[..., Case] = request.getfixturevalue("make_case")
    return make_case(engine, plain, host=front.host)


def again(lines: list[str]) -> int:
    return sum("trying again in " in line for line in lines)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "broken"), (502, "bad gateway"), (503, "busy"), (429, "toomanyrequests")]
)
def test_what_passes_is_tried_again(status: int, said: str, fronted: Case, front: Front) -> None:
    pushed = fronted.push()
    front.before = failing(3, status, said=said, headers={"Retry-After": "1"})
    lines: list[str] = []
    assert fronted.resolve(progress=lines.append).digest == pushed.digest
    assert again(lines) >= 1
    front.before = failing(2, status, said=said, headers={"Retry-After": "1"})
    waited: list[float] = []
    lines.clear()
    found = ask_directly(fronted.reference(), {}, progress=lines.append, wait=waited.append)
    assert found.digest == pushed.digest
    # As long as was asked for, or twice as long as the last time.
    assert waited == [1.0, 2.0]
    assert again(lines) == 2


def test_what_does_not_pass_ends(each: Case, front: Front) -> None:
    each.push()
    front.before = failing(999, 500, said="broken for good")
    lines: list[str] = []
    with pytest.raises(ImageError, match="or the network to it, fails again and again"):
        each.resolve(progress=lines.append)
    assert again(lines) == 3
    waited: list[float] = []
    with pytest.raises(ImageError, match="fails again and again"):
        ask_directly(each.reference(), {}, backoff=Backoff(tries=3, first_s=0.5), wait=waited.append)
    assert waited == [0.5, 1.0]
    front.before = lambda _: None
    assert each.resolve().digest


@_PODMAN_FIRST
def test_a_connection_that_breaks_off_in_a_layer(each: Case, front: Front) -> None:
    """What comes in the end is whole."""
    content = secrets.token_bytes(LARGE)
    pushed = each.push(content)
    # Docker itself waits for seconds before it goes on where it was.
    cuts = [1_000] if each.engine.info.kind == "docker" else [1_000, LARGE // 2]

    def cut(ask: Ask, answer: Answer) -> Answer:
        if ask.is_blob and ask.method == "GET" and len(answer.body) > LARGE // 2 and cuts:
            answer.cut = cuts.pop(0)
        return answer

    front.after = cut
    assert each.resolve().image_id == pushed.image_id
    assert cuts == []


def test_a_registry_that_dies_in_the_middle_of_a_pull_and_comes_back(
    program: Path, docker: DockerEngine, front: Front, make_case: Callable[..., Case], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(serving(program, tmp_path / "r"))
        port = int(registry.host.rpartition(":")[2])
        front._to = registry
        case = make_case(docker, registry, host=front.host)
        pushed = case.push(secrets.token_bytes(LARGE))
        killed: list[Registry] = []

        def kill(ask: Ask, answer: Answer) -> Answer:
            if ask.is_blob and len(answer.body) > LARGE // 2 and not killed:
                killed.append(registry)
                registry.process.kill()
                registry.process.wait()
                answer.cut = 1_000
                front._to = stack.enter_context(serving(program, tmp_path / "r", port=port))
            return answer

        front.after = kill
        assert case.resolve().image_id == pushed.image_id
        assert killed


@pytest.mark.slow
def test_a_registry_that_dies_in_the_middle_of_a_pull(
    program: Path, docker: DockerEngine, front: Front, make_case: Callable[..., Case], tmp_path: Path
) -> None:
    """It is killed while it sends a layer, and nothing answers any more; the pull ends with that. When it is back on
    its port the same pull goes through."""
    with serving(program, tmp_path / "r") as registry:
        case = make_case(docker, registry)
        pushed = case.push(secrets.token_bytes(LARGE))
        port = int(registry.host.rpartition(":")[2])
    killed = threading.Event()
    with serving(program, tmp_path / "r", port=port) as registry:
        front._to = registry
        behind = make_case(docker, registry, host=front.host)
        behind.name = case.name

        def kill(ask: Ask, answer: Answer) -> Answer:
            if ask.is_blob and len(answer.body) > LARGE // 2:
                registry.process.kill()
                registry.process.wait()
                killed.set()
                answer.cut = 1_000
            return answer

        front.after = kill
        with pytest.raises(ImageError) as caught:
            behind.resolve()
        assert killed.is_set()
        assert "fails again and again" in caught.value.message or "cannot be reached" in caught.value.message
        assert docker.inspect_image(behind.reference()) is None
    with serving(program, tmp_path / "r", port=port) as registry:
        front._to = registry
        front.after = lambda _, answer: answer
        assert behind.resolve().image_id == pushed.image_id
        assert case.resolve().digest == pushed.digest


def test_another_manifest_than_the_digest_names(each: Case, front: Front) -> None:
    wanted, other = each.push(tag="wanted"), each.push(tag="other")

    def swap(ask: Ask) -> Answer | None:
        ask.path = ask.path.replace(wanted.digest, other.digest)
        return None

    def lie(_: Ask, answer: Answer) -> Answer:
        headers = {
            key: value for key, value in answer.headers.items() if key.lower() != "docker-content-digest"
        }
        return Answer(answer.status, {**headers, "Docker-Content-Digest": wanted.digest}, answer.body)

    front.before, front.after = swap, lie
    with pytest.raises(ImageError, match="the registry serves other bytes than the digest names") as caught:
        each.resolve(digest=wanted.digest)
    assert "nothing of it was used" in str(caught.value.hint)
    assert each.engine.inspect_image(other.image_id) is None
    exact = each.reference(digest=wanted.digest)
    with pytest.raises(ImageError, match="the registry serves other bytes than the digest names"):
        ask_directly(exact, {})


def test_another_layer_than_the_manifest_names(each: Case, front: Front) -> None:
    pushed = each.push(secrets.token_bytes(5_000))

    def lie(ask: Ask, answer: Answer) -> Answer:
        if ask.is_blob and answer.status == 200 and len(answer.body) > 4_000:
            flipped = answer.body[:2_000] + bytes([answer.body[2_000] ^ 1]) + answer.body[2_001:]
            return Answer(200, answer.headers, flipped)
        return answer

    front.after = lie
    with pytest.raises(ImageError, match="the registry serves other bytes than the digest names"):
        each.resolve(digest=pushed.digest)
    assert each.engine.inspect_image(pushed.image_id) is None


def test_another_configuration_than_the_manifest_names(fronted: Case, front: Front) -> None:
    """Of which our own client reads the platform."""
    fronted.push()

    def lie(ask: Ask, answer: Answer) -> Answer:
        if ask.is_blob:
            return Answer(200, {}, json.dumps({"os": "linux", "architecture": "s390x"}).encode())
        return answer

    front.after = lie
    with pytest.raises(ImageError, match="the registry serves other bytes than the digest names"):
        ask_directly(fronted.reference(), {})


@pytest.mark.parametrize("body", [b"", b"[]", b"no JSON", b'{"mediaType": "x/y"}', b"{" * 100_000], ids=len)
def test_answers_that_make_no_sense(body: bytes, fronted: Case, front: Front) -> None:
    front.before = lambda _: Answer(200, {"Content-Type": "application/json"}, body)
    with pytest.raises(ImageError, match=fronted.reference()):
        ask_directly(fronted.reference(), {})


def test_an_answer_without_an_end(fronted: Case, front: Front) -> None:
    front.before = lambda _: Answer(200, {"Content-Type": "application/json"}, b" " * (5 << 20))
    with pytest.raises(ImageError, match=r"could not be|cannot be"):
        ask_directly(fronted.reference(), {}, wait=lambda _: None)


def test_two_pulls_of_one_image_at_once(fronted: Case, front: Front, docker_config: Path) -> None:
    pushed = fronted.push(secrets.token_bytes(LARGE))
    both = threading.Barrier(2)

    def one() -> str:
        with contextlib.closing(DockerEngine(fronted.engine.info.url, docker_config=docker_config)) as engine:
            case = type(fronted)(engine, fronted.registry, fronted.name, fronted.host, fronted.made)
            both.wait(30)
            return case.resolve().image_id

    with ThreadPoolExecutor(2) as pool:
        found = {future.result(60) for future in [pool.submit(one) for _ in range(2)]}
    assert found == {pushed.image_id}


def test_a_lock_from_another_machine(case: Case, tmp_path: Path) -> None:
    """Locked there, then the tag moves; here the engine has nothing, and gets what was locked, in CI, too."""
    old = case.push()
    stage = case.stage()
    settings = Settings(tmp_path, tmp_path / "envpar.toml", {"qa": stage})
    settle(resolve_stage(case.engine, stage, settings, "local"))
    case.noted(old.image_id)
    lock = read(tmp_path / "envpar.lock")
    assert lock is not None
    assert (lock.stages["qa"].digest, lock.stages["qa"].image_id) == (old.digest, old.image_id)
    case.engine.remove_image(case.reference())
    new = case.push()
    found = resolve_stage(case.engine, stage, settings, "ci")
    assert (found.image.digest, found.pending) == (old.digest, False)
    assert remote_digest(case.engine, case.reference()).digest == new.digest
    case.reference(digest=old.digest)


def test_a_build_starts_from_the_locked_base(case: Case, tmp_path: Path) -> None:
    """On a machine that has neither the image nor its base."""
    from pytest_envpar.config.model import Build, Stage

    old = case.push(b"#!old")
    (tmp_path / "Dockerfile").write_text(f"FROM {case.reference()}\nENV A=1\n", encoding="utf-8")
    (tmp_path / ".dockerignore").write_text("docker-config\n", encoding="utf-8")
    stage = Stage("qa", build=Build(tmp_path, tmp_path / "Dockerfile"))
    settings = Settings(tmp_path, tmp_path / "envpar.toml", {"qa": stage})

    def build(mode: str) -> str:
        found = resolve_stage(case.engine, stage, settings, mode)  # type: ignore[arg-type]
        settle(found)
        base = found.image.layers[0]
        assert found.entry.base == {case.reference(): old.digest if mode != "update" else new.digest}
        for name in (found.image.reference, case.reference(), case.reference(digest=old.digest)):
            case.engine.remove_image(name, force=True)
        return base

    first = build("local")
    new = case.push(b"#!new")
    assert build("ci") == first
    assert build("update") != first
    case.engine.remove_image(case.reference(digest=new.digest), force=True)
