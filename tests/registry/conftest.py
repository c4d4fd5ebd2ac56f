"""Engines and real registries: one that anybody may use, two with TLS and a user each."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig.engines import DOCKER, podman_settings
from rig.needs import missing, registry_program

from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.podman_service import PodmanService
from pytest_envpar.engine.retry import Backoff
from pytest_envpar.errors import EngineError

from .cases import Case
from .servers import Front, Registry, own_address, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_envpar.engine.api import Engine

HELPER = """\
#!{python}
import json, sys
known = json.load(open("{answers}"))
if sys.argv[1] == "list":
    print(json.dumps({{server: entry["Username"] for server, entry in known.items()}}))
else:
    entry = known.get(sys.stdin.read().strip())
    print(json.dumps(entry) if entry else "credentials not found in native keychain")
    sys.exit(0 if entry else 1)
"""
"""A credential helper that knows what a file says."""
QUICK = Backoff(tries=4, first_s=0.05)


@pytest.fixture(scope="session")
def program() -> Path:
    """The registry program."""
    return registry_program()


@pytest.fixture(scope="session")
def plain(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on the loopback that anybody may use."""
    with serving(program, tmp_path_factory.mktemp("plain") / "r") as registry:
        yield registry


@pytest.fixture(scope="session")
def address() -> str:
    """An address of this machine where engines insist on TLS."""
    found = own_address()
    if found is None or shutil.which("openssl") is None:
        missing("no address beyond the loopback, or no openssl")
    return found


@pytest.fixture(scope="session")
def first(program: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS for the user ``one``."""
    with serving(
        program, tmp_path_factory.mktemp("one") / "r", address=address, user="one", tls=True
    ) as registry:
        yield registry


@pytest.fixture(scope="session")
def second(program: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS for the user ``two``."""
    with serving(
        program, tmp_path_factory.mktemp("two") / "r", address=address, user="two", tls=True
    ) as registry:
        yield registry


@pytest.fixture
def trusted() -> Iterator[Callable[[Registry, str], None]]:
    """``trusted(registry, folder)`` lets an engine of this machine trust it, as its documentation says."""
    made: list[Path] = []

    def trust(registry: Registry, folder: str = "/etc/docker/certs.d") -> None:
        assert registry.cafile is not None
        target = Path(folder, registry.host)
        try:
            target.mkdir(parents=True)
            made.append(target)
            shutil.copy(registry.cafile, target / "ca.crt")
        except PermissionError as error:
            missing(f"certificates of engines belong to root: {error}")

    yield trust
    for target in made:
        shutil.rmtree(target)
        with contextlib.suppress(OSError):
            target.parent.rmdir()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[str, str]]], str]:
    """``helper({server: (user, secret)})`` makes a credential helper, puts it on PATH, and returns its name."""

    def make(known: dict[str, tuple[str, str]]) -> str:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        answers = {server: {"Username": user, "Secret": secret} for server, (user, secret) in known.items()}
        (folder / "answers").write_text(json.dumps(answers), encoding="utf-8")
        program = folder / "docker-credential-envpar-test"
        program.write_text(HELPER.format(python=sys.executable, answers=folder / "answers"), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return "envpar-test"

    return make


@pytest.fixture
def front(plain: Registry) -> Iterator[Front]:
    """A front before the registry that anybody may use."""
    with contextlib.closing(Front(plain)) as made:
        yield made


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's Docker configuration folder."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture
def configured(docker_config: Path) -> Callable[..., None]:
    """``configured(**keys)`` writes the user's Docker configuration."""

    def write(**content: Any) -> None:
        (docker_config / "config.json").write_text(json.dumps(content), encoding="utf-8")

    return write


@pytest.fixture
def docker(docker_config: Path) -> Iterator[DockerEngine]:
    """The Docker daemon of this machine, with quick retries."""
    try:
        engine = DockerEngine(DOCKER, docker_config=docker_config, backoff=QUICK)
    except EngineError as error:
        missing(f"no docker: {error}")
    with contextlib.closing(engine):
        yield engine


@pytest.fixture(scope="session")
def podman_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Podman service of our own that speaks plain HTTP to registries on the loopback."""
    folder = tmp_path_factory.mktemp("podman")
    registries = folder / "registries.conf"
    registries.write_text(
        '[[registry]]\nprefix = "127.0.0.1"\nlocation = "127.0.0.1"\ninsecure = true\n', encoding="utf-8"
    )
    # It reads the user's credentials itself, too; those of the first test would be there for all.
    environ = {
        **os.environ,
        "DOCKER_CONFIG": str(folder),
        **podman_settings(folder),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
    }
    try:
        service = PodmanService.start(environ)
    except EngineError as error:
        missing(f"no podman: {error}")
    with contextlib.closing(service):
        yield service.url


@pytest.fixture
def podman(docker_config: Path, podman_service: str) -> Iterator[DockerEngine]:
    """That service, with quick retries."""
    engine = DockerEngine(podman_service, docker_config=docker_config, backoff=QUICK, ours=True)
    with contextlib.closing(engine):
        yield engine


@pytest.fixture
def make_case() -> Iterator[Callable[..., Case]]:
    """``make_case(engine, registry, host=...)``: a repository; ``host`` if it is reached through a front."""
    cases: list[Case] = []

    def make(engine: Engine, registry: Registry, *, host: str | None = None) -> Case:
        case = Case(engine, registry, f"test/{secrets.token_hex(6)}", host or registry.host, [])
        cases.append(case)
        return case

    yield make
    for case in cases:
        for each in reversed(case.made):
            with contextlib.suppress(EngineError):
                case.engine.remove_image(each, force=True)
        listed = case.engine.list_images({})
        assert not [each for each in listed if case.name in each.name], case.name


@pytest.fixture
def case(docker: DockerEngine, plain: Registry, make_case: Callable[..., Case]) -> Case:
    """A repository on the registry that anybody may use, for Docker."""
    return make_case(docker, plain)


@pytest.fixture
def fronted(docker: DockerEngine, plain: Registry, front: Front, make_case: Callable[..., Case]) -> Case:
    """The same behind :func:`front`."""
    return make_case(docker, plain, host=front.host)
