"""Who may use a registry: certificates, users, helpers, tokens; and what is said to who may not."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shutil
from typing import TYPE_CHECKING

import pytest
from rig.needs import missing

from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.errors import EngineError, ImageError
from pytest_envpar.images.registry import ask_directly, remote_digest

from .servers import USERS, Answer, Ask, Registry, Tokens, basic, failing, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from .cases import Case
    from .servers import Front

pytestmark = pytest.mark.engine


def _once_on_podman(name: str, values: list[str]) -> pytest.MarkDecorator:
    """All values with Docker, and the first of them with Podman; the others are slow."""
    rows = [
        *(("docker", value) for value in values),
        ("podman", values[0]),
        *(pytest.param("podman", value, marks=pytest.mark.slow) for value in values[1:]),
    ]
    return pytest.mark.parametrize(("anyone", name), rows, indirect=["anyone"])


@pytest.fixture(params=["docker", "podman"])
def anyone(request: pytest.FixtureRequest) -> DockerEngine:
    """Each engine in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, DockerEngine)
    return found


@pytest.fixture
def trusting(trusted: Callable[..., None]) -> Callable[[DockerEngine, Registry], None]:
    """``trusting(engine, registry)``: the engine, and this process, believe the registry's certificate."""

    def trust(engine: DockerEngine, registry: Registry) -> None:
        trusted(
            registry, "/etc/containers/certs.d" if engine.info.kind == "podman" else "/etc/docker/certs.d"
        )

    return trust


@pytest.fixture
def environ(docker_config: Path, tmp_path: Path) -> Mapping[str, str]:
    """What a process of the user's sees; no engine's certificates are at its home."""
    return {"DOCKER_CONFIG": str(docker_config), "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


def told(caught: pytest.ExceptionInfo[ImageError]) -> str:
    return "\n".join(caught.value.lines())


@_once_on_podman("way", ["file", "helpers", "store", "URLs"])
def test_two_registries_with_a_user_each(
    way: str,
    anyone: DockerEngine,
    first: Registry,
    second: Registry,
    trusting: Callable[..., None],
    configured: Callable[..., None],
    helper: Callable[..., str],
    make_case: Callable[..., Case],
    environ: Mapping[str, str],
) -> None:
    """The first one's password has colons and letters beyond ASCII."""
    known = {each.host: (each.user, USERS[str(each.user)][0]) for each in (first, second)}
    if way == "file":
        configured(auths={**first.auth, **second.auth})
    elif way == "URLs":
        configured(auths={f"https://{first.host}/v2/": first.auth[first.host], **second.auth})
    elif way == "helpers":
        name = helper(known)
        configured(credHelpers={first.host: name, second.host: name})
    else:
        configured(credsStore=helper(known), auths={first.host: {}})
    for registry in (first, second):
        trusting(anyone, registry)
        case = make_case(anyone, registry)
        pushed = case.push()
        assert case.resolve().digest == pushed.digest
        assert remote_digest(anyone, case.reference()).digest == pushed.digest
        assert ask_directly(case.reference(), environ).digest == pushed.digest


def test_a_certificate_that_nobody_trusts(
    anyone: DockerEngine, first: Registry, make_case: Callable[..., Case], environ: Mapping[str, str]
) -> None:
    case = make_case(anyone, first)
    case.push()
    with pytest.raises(ImageError, match=f"the certificate of {first.host} is not trusted") as caught:
        case.resolve()
    folder = "containers" if anyone.info.kind == "podman" else "docker"
    assert f"into /etc/{folder}/certs.d/{first.host}/ca.crt" in str(caught.value.hint)
    with pytest.raises(ImageError, match="is not trusted") as caught:
        ask_directly(case.reference(), environ)
    assert "SSL_CERT_FILE" in str(caught.value.hint)
    # As the hint says.
    with pytest.raises(ImageError, match="was refused by its registry"):
        ask_directly(case.reference(), {**environ, "SSL_CERT_FILE": str(first.cafile)})


@_once_on_podman("shown", ["a wrong password", "nothing", "the user of another one"])
def test_who_may_not(
    shown: str,
    anyone: DockerEngine,
    first: Registry,
    trusting: Callable[..., None],
    configured: Callable[..., None],
    make_case: Callable[..., Case],
    environ: Mapping[str, str],
) -> None:
    trusting(anyone, first)
    case = make_case(anyone, first)
    case.push()
    if shown == "a wrong password":
        configured(auths={first.host: {"auth": basic("one", "wrong-hush").partition(" ")[2]}})
    elif shown == "the user of another one":
        configured(auths={first.host: {"auth": basic("two").partition(" ")[2]}})
    lines: list[str] = []
    for refused in (
        lambda: case.resolve(progress=lines.append),
        lambda: remote_digest(anyone, case.reference()),
        lambda: ask_directly(case.reference(), environ),
    ):
        with pytest.raises(ImageError, match="was refused by its registry") as caught:
            refused()
        assert f"docker login {first.host}" in str(caught.value.hint)
        assert "wrong-hush" not in told(caught)
    # Nobody tries a wrong password again and again: that locks accounts.
    assert not [line for line in lines if "again" in line]


def test_a_helper_that_fails_is_named_and_not_quoted(
    docker: DockerEngine,
    plain: Registry,
    configured: Callable[..., None],
    helper: Callable[..., str],
    make_case: Callable[..., Case],
    tmp_path: Path,
) -> None:
    case = make_case(docker, plain)
    case.push()
    configured(credHelpers={plain.host: helper({})})
    assert case.resolve().digest, "a helper that knows nothing is no error"
    (tmp_path / "bin/docker-credential-envpar-test").write_text(
        "#!/bin/sh\necho hush-hush; echo hush-hush >&2; exit 3\n"
    )
    with pytest.raises(ImageError, match="docker-credential-envpar-test ended with 3") as caught:
        case.resolve(case.stage(pull="always"))
    assert "hush" not in str(caught.value)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    """A token service."""
    if shutil.which("openssl") is None:
        missing("no openssl")
    with contextlib.closing(Tokens(tmp_path / "tokens")) as made:
        yield made


@pytest.fixture
def by_token(program: Path, tokens: Tokens, tmp_path: Path) -> Iterator[Registry]:
    """A registry that believes tokens of that service."""
    with serving(program, tmp_path / "by-token", auth=tokens.auth) as registry:
        yield registry


@_once_on_podman("shown", ["identity token", "password", "token of a helper"])
def test_tokens(
    shown: str,
    anyone: DockerEngine,
    by_token: Registry,
    tokens: Tokens,
    configured: Callable[..., None],
    helper: Callable[..., str],
    make_case: Callable[..., Case],
    environ: Mapping[str, str],
) -> None:
    case = make_case(anyone, by_token)
    pushed = case.push_as(tokens.allowed(case.name))
    with pytest.raises(ImageError, match="was refused by its registry"):
        case.resolve()
    with pytest.raises(ImageError, match="was refused by its registry"):
        ask_directly(case.reference(), environ)
    entry = {"auth": basic("reader", tokens.password).partition(" ")[2]}
    if shown == "password":
        configured(auths={by_token.host: entry})
    elif shown == "identity token":
        configured(auths={by_token.host: {**entry, "identitytoken": tokens.refresh}})
    else:
        configured(credHelpers={by_token.host: helper({by_token.host: ("<token>", tokens.refresh)})})
    assert case.resolve().digest == pushed.digest
    assert ask_directly(case.reference(), environ).digest == pushed.digest


def test_not_there(anyone: DockerEngine, plain: Registry, make_case: Callable[..., Case]) -> None:
    case = make_case(anyone, plain)
    case.push()
    for reference in (case.reference("2"), f"{case.host}/test/nothing-of-this-name:1"):
        with pytest.raises(ImageError, match=f"image {reference} was not found"):
            case.resolve(case.stage(reference))
        with pytest.raises(ImageError, match=f"image {reference} was not found"):
            remote_digest(anyone, reference)


def test_nobody_answers(
    anyone: DockerEngine, front: Front, make_case: Callable[..., Case], plain: Registry
) -> None:
    front.close()
    case = make_case(anyone, plain, host=front.host)
    lines: list[str] = []
    with pytest.raises(ImageError, match=f"its registry {front.host} cannot be reached") as caught:
        case.resolve(progress=lines.append)
    assert "check the network" in str(caught.value.hint)
    with pytest.raises(ImageError, match="cannot be reached"):
        remote_digest(anyone, case.reference())
    assert not [line for line in lines if "again" in line]


@pytest.mark.parametrize("said", ["denied: requested access to the resource is denied", "forbidden"])
def test_denied(said: str, fronted: Case, front: Front) -> None:
    fronted.push()
    front.before = failing(99, 403, said=said)
    with pytest.raises(ImageError, match="was refused by its registry"):
        fronted.resolve()
    with pytest.raises(ImageError, match="was refused by its registry"):
        ask_directly(fronted.reference(), {})


def test_a_limit(fronted: Case, front: Front) -> None:
    fronted.push()
    text = "You have reached your pull rate limit. You may increase the limit by authenticating"
    front.before = failing(99, 429, said=text, headers={"Retry-After": "3600"})
    lines: list[str] = []
    with pytest.raises(
        ImageError, match=f"its registry {front.host} limits how often it may be asked"
    ) as caught:
        fronted.resolve(progress=lines.append)
    assert f"docker login {front.host}" in str(caught.value.hint)
    waited: list[float] = []
    with pytest.raises(ImageError, match="limits how often it may be asked"):
        ask_directly(fronted.reference(), {}, wait=waited.append)
    # An hour is too long to wait, and the limit too long to try again.
    assert waited == []
    assert not [line for line in lines if "again" in line]


def test_nothing_secret_gets_out(
    first: Registry,
    docker: DockerEngine,
    trusted: Callable[..., None],
    configured: Callable[..., None],
    make_case: Callable[..., Case],
    environ: Mapping[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever goes right or wrong: no password, in no form in which it is sent, is in what anybody could read."""
    from pytest_envpar.config.model import Settings
    from pytest_envpar.images.locking import resolve_stage, settle

    caplog.set_level(0)
    password = USERS["one"][0]
    pair = f"one:{password}"
    header = json.dumps({"username": "one", "password": password, "serveraddress": first.host})
    forms = {password, password.encode().decode("latin-1"), json.dumps(password)[1:-1], "wrong-hush"}
    for text in (password, pair, "one:wrong-hush", "wrong-hush", header):
        forms |= {
            base64.b64encode(text.encode()).decode().rstrip("="),
            base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        }
    read: list[str] = []

    def try_all(case: Case) -> None:
        stage = case.stage(pull="always")
        settings = Settings(tmp_path, tmp_path / "envpar.toml", {"qa": stage})
        for attempt in (
            lambda: settle(resolve_stage(docker, stage, settings, "update", progress=read.append)),
            lambda: case.resolve(case.stage(case.reference("none")), progress=read.append),
            lambda: remote_digest(docker, case.reference()),
            lambda: ask_directly(case.reference(), environ, progress=read.append, wait=lambda _: None),
        ):
            try:
                read.append(repr(attempt()))
            except (ImageError, EngineError) as error:
                cause: BaseException | None = error
                while cause is not None:
                    read.extend((str(cause), repr(cause), repr(cause.__dict__)))
                    cause = cause.__cause__ or cause.__context__

    case = make_case(docker, first)
    case.push()
    configured(auths=first.auth)
    try_all(case)
    assert "is not trusted" in "".join(read)
    trusted(first)
    try_all(case)
    configured(auths={first.host: {"auth": basic("one", "wrong-hush").partition(" ")[2]}})
    try_all(case)
    assert "was refused by its registry" in "".join(read)
    configured(auths={first.host: {"auth": "no base64 " + password}})
    try_all(case)
    assert "cannot be read" in "".join(read)
    lock = (tmp_path / "envpar.lock").read_text(encoding="utf-8")
    assert case.reference() in lock
    out, err = capfd.readouterr()
    everything = "\n".join([*read, lock, caplog.text, out, err])
    assert not [form for form in forms if form in everything]


def test_a_registry_that_asks_for_the_password_in_clear_text_does_not_get_it(
    first: Registry,
    trusted: Callable[..., None],
    configured: Callable[..., None],
    environ: Mapping[str, str],
    front: Front,
    make_case: Callable[..., Case],
    docker: DockerEngine,
) -> None:
    """A token service over plain HTTP, named by a registry that speaks HTTPS."""
    from pytest_envpar.engine.registry_auth import Credentials
    from pytest_envpar.images.registry_client import RegistryClient, RegistryError, Trust

    asked: list[Ask] = []

    def rule(ask: Ask) -> Answer:
        asked.append(ask)
        return Answer(200, {}, b'{"token": "x"}')

    front.before = rule
    client = RegistryClient(first.host, "test/x", Credentials("one", "hush"), trust=Trust(first.cafile, ()))
    with contextlib.closing(client), pytest.raises(RegistryError, match="in clear text"):
        client._token({"realm": f"http://{front.host}/token"})
    assert asked == []


def test_random_passwords_in_the_file(
    docker: DockerEngine, front: Front, configured: Callable[..., None], fronted: Case
) -> None:
    """What a file says is what is sent, sign for sign."""
    fronted.push()
    password = f"a:b c%d\\\"'{secrets.token_hex(4)}ü:"
    configured(auths={front.host: {"auth": basic("me", password).partition(" ")[2]}})
    challenge = {"WWW-Authenticate": 'Basic realm="x"', "Content-Type": "application/json"}

    def rule(ask: Ask) -> Answer | None:
        return None if ask.authorization == basic("me", password) else Answer(401, challenge, b"{}")

    front.before = rule
    assert fronted.resolve().digest
    assert {ask.authorization for ask in front.asked} == {None, basic("me", password)}
