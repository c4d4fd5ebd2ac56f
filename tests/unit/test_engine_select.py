"""Where engines are looked for, what is said when there is none, and the doctor's table."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_envpar import doctor
from pytest_envpar.engine import registry_auth, select
from pytest_envpar.engine.connection import TlsFiles
from pytest_envpar.engine.parse.containers import container_info
from pytest_envpar.engine.parse.engines import engine_info
from pytest_envpar.engine.parse.files import path_changes
from pytest_envpar.engine.parse.images import image_info
from pytest_envpar.engine.select import Candidate, candidates, select_engine
from pytest_envpar.errors import EngineError, ImageError, NoEngineError, UsageError


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user without any engine."""
    monkeypatch.setattr(select, "_DOCKER_SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(select, "_ROOT_PODMAN_SOCKET", str(tmp_path / "root.sock"))
    return {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}


def context(
    home: Path, name: str, host: str | None, *, current: bool = True, skip_verify: bool = False
) -> Path:
    folder = home / ".docker"
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": skip_verify}} if host else {}
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": endpoints}))
    if current:
        (folder / "config.json").write_text(json.dumps({"currentContext": name}))
    return folder / "contexts" / "tls" / key / "docker"


def names(configured: list[str], environ: dict[str, str]) -> list[str]:
    return [candidate.name for candidate in candidates(configured, environ)]


def test_the_order_of_auto(environ: dict[str, str], tmp_path: Path) -> None:
    context(tmp_path, "remote", "tcp://h:1")
    environ["XDG_RUNTIME_DIR"] = "/run/user/1"
    tail = ["docker socket", "podman socket", "podman socket", "podman system service"]
    assert names(["auto"], environ) == ["docker context remote", *tail]
    environ |= {"DOCKER_HOST": "tcp://other:1", "CONTAINER_HOST": "unix:///p"}
    assert names(["auto"], environ) == ["DOCKER_HOST", "docker socket", "CONTAINER_HOST", *tail[1:]]
    assert names(["docker"], environ) == ["DOCKER_HOST", "docker socket"]
    assert names(["podman"], environ) == ["CONTAINER_HOST", *tail[1:]]
    assert names(["tcp://a:1", "unix:///b"], environ) == ["tcp://a:1", "unix:///b"]
    assert names([], environ) == names(["auto"], environ)


def test_one_socket_is_asked_once(environ: dict[str, str], tmp_path: Path) -> None:
    environ["DOCKER_HOST"] = f"unix://{tmp_path}/docker.sock"
    assert names(["docker", "auto"], environ)[:2] == ["DOCKER_HOST", "podman socket"]


def test_contexts(environ: dict[str, str], tmp_path: Path) -> None:
    tls = context(tmp_path, "default", "tcp://h:1")
    assert names(["docker"], environ) == ["docker socket"]
    environ["DOCKER_CONTEXT"] = "gone"
    with pytest.raises(NoEngineError, match="docker context gone"):
        select_engine(["docker"], environ)
    tls = context(tmp_path, "secure", "tcp://h:2", current=False, skip_verify=True)
    tls.mkdir(parents=True)
    (tls / "ca.pem").write_text("")
    environ["DOCKER_CONTEXT"] = "secure"
    (found, _) = candidates(["docker"], environ)
    certificates = TlsFiles(ca=tls / "ca.pem", verify=False)
    assert found == Candidate("docker context secure", "tcp://h:2", certificates, named=True, kind="docker")
    # A damaged configuration is no configuration.
    del environ["DOCKER_CONTEXT"]
    (tmp_path / ".docker" / "config.json").write_text("{")
    assert names(["docker"], environ) == ["docker socket"]


@pytest.mark.parametrize("name", ["DOCKER_HOST", "CONTAINER_HOST", "DOCKER_CONTEXT"])
def test_a_named_engine_is_not_passed_over_in_silence(
    name: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(candidate: Candidate, _: object) -> object:
        if candidate.name != "podman system service":
            raise EngineError("nobody there")
        return object()

    monkeypatch.setattr(select, "connect", connect)
    told: list[str] = []
    select_engine(["auto"], environ, told.append)
    assert told == []  # usual places are only looked at
    select_engine(["auto"], {**environ, name: "unix:///mine"}, told.append)
    (line,) = told
    assert name.removeprefix("DOCKER_").lower() in line.lower()
    assert "unix:///mine" in line
    assert "is of no use (nobody there); podman system service is used" in line


def test_tls_from_the_environment(environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("")
    environ |= {"DOCKER_HOST": "tcp://h:1", "DOCKER_CERT_PATH": str(tmp_path), "DOCKER_TLS_VERIFY": "1"}
    assert candidates(["docker"], environ)[0].tls == TlsFiles(
        ca=tmp_path / "ca.pem", cert=tmp_path / "cert.pem", key=tmp_path / "key.pem", verify=True
    )
    environ["DOCKER_HOST"] = "unix:///x"
    assert candidates(["docker"], environ)[0].tls is None


def test_tls_of_each_engine_of_a_pool(environ: dict[str, str], tmp_path: Path) -> None:
    for folder in ("", "one", "two_2376"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "ca.pem").write_text("")
    environ["DOCKER_CERT_PATH"] = str(tmp_path)
    urls = ["tcp://one:2376", "tcp://two:2376", "tcp://three:2376", "ssh://one"]
    assert [candidate.tls for candidate in candidates(urls, environ)] == [
        TlsFiles(ca=tmp_path / "one" / "ca.pem"),
        TlsFiles(ca=tmp_path / "two_2376" / "ca.pem"),
        TlsFiles(ca=tmp_path / "ca.pem", verify=False),
        None,
    ]


def test_a_context_by_name(environ: dict[str, str], tmp_path: Path) -> None:
    context(tmp_path, "far", "ssh://me@h", current=False)
    (found,) = candidates(["context://far"], environ)
    assert found == Candidate(
        "docker context far", "ssh://me@h", None, explicit=True, named=True, kind="docker"
    )
    with pytest.raises(UsageError, match="docker context gone: there is none of this name"):
        select_engine(["context://gone"], environ)


def test_no_engine_names_everything_tried(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "root.sock"))
        server.listen()
    environ["DOCKER_HOST"] = "tcp://me:secret@127.0.0.1:1"
    with pytest.raises(NoEngineError) as caught:
        select_engine(["auto"], environ)
    error = caught.value
    assert error.detail == (
        "DOCKER_HOST (tcp://127.0.0.1:1): connection refused: nothing listens there",
        f"docker socket (unix://{tmp_path}/docker.sock): no such socket",
        f"podman socket (unix://{tmp_path}/root.sock): connection refused: nothing listens there",
        "podman system service: podman is not installed",
    )
    assert "tried 4" in error.message


@pytest.mark.parametrize(
    ("configured", "programs", "hint"),
    [
        ("auto", ["dockerd", "podman"], "Docker is installed but not running: sudo systemctl start docker"),
        (
            "auto",
            ["podman", "apt-get"],
            "Podman is installed but does not serve: see what 'podman info' says",
        ),
        (
            "auto",
            ["apt-get"],
            "sudo apt-get install docker.io (or, without a daemon: sudo apt-get install podman)",
        ),
        (
            "auto",
            [],
            "install Docker Engine (https://docs.docker.com/engine/install/) or Podman (https://podman.io)",
        ),
        ("docker", ["dockerd"], "Docker is installed but not running: sudo systemctl start docker"),
        ("docker", ["podman", "apt-get"], "sudo apt-get install docker.io"),
        ("docker", ["dnf"], "install Docker Engine (https://docs.docker.com/engine/install/)"),
        ("podman", ["dockerd", "apt-get"], "sudo apt-get install podman"),
        (
            "podman",
            ["dockerd", "podman"],
            "Podman is installed but does not serve: see what 'podman info' says",
        ),
        ("podman", ["dnf"], "sudo dnf install podman"),
        ("podman", [], "install Podman (https://podman.io)"),
    ],
)
def test_the_way_out_is_to_an_engine_that_was_looked_for(
    configured: str, programs: list[str], hint: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "_DOCKERD", str(Path(environ["HOME"], "dockerd")))
    folder = Path(environ["PATH"])
    folder.mkdir()
    for name in programs:
        (folder / name).write_text("#!/bin/false\n")
        (folder / name).chmod(0o755)
    failed = [(candidate, EngineError("no")) for candidate in candidates([configured], environ)]
    assert select.way_out(failed, environ).partition(" (without systemd")[0] == hint


def test_a_podman_that_refuses_has_nothing_to_do_with_the_docker_group(environ: dict[str, str]) -> None:
    def hint(*refusing: str) -> str:
        failed = []
        for candidate in candidates(["auto"], environ):
            error = EngineError("no")
            error.__cause__ = PermissionError() if candidate.name in refusing else None
            failed.append((candidate, error))
        return select.way_out(failed, environ)

    assert "usermod" in hint("docker socket")
    assert "usermod" not in hint("podman socket")


def test_permission_denied_is_told_with_the_command(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pytest_envpar.engine.connection.Endpoint.connect", refuse)
    with pytest.raises(NoEngineError, match="permission denied") as caught:
        select_engine(["docker"], environ)
    assert caught.value.hint == "sudo usermod -aG docker $USER, then log in again"


def test_an_explicit_engine_that_is_wrong(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a password"):
        select_engine(["ssh://me:secret@h"], environ)
    with pytest.raises(UsageError, match="not an engine"):
        select_engine(["dokcer"], environ)
    with pytest.raises(NoEngineError, match="no such socket") as caught:
        select_engine([f"unix://{tmp_path}/gone"], environ)
    assert caught.value.hint is not None
    assert "auto" in caught.value.hint


def test_a_host_that_does_not_answer_costs_little(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "_ANSWER_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(NoEngineError, match="no answer in time"),
    ):
        select_engine([f"tcp://127.0.0.1:{server.getsockname()[1]}"], environ)


@pytest.mark.parametrize(
    ("changed", "unix", "expected"),
    [
        ({}, True, (True, True)),
        ({}, False, (False, False)),
        ({"OperatingSystem": "Docker Desktop"}, True, (False, False)),
        ({"KernelVersion": "6.1.0-linuxkit"}, True, (False, False)),
        ({"Name": "another-host"}, True, (False, False)),
        ({"Driver": "btrfs"}, True, (True, False)),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, True, (True, False)),
    ],
)
def test_local_and_overlay(changed: dict[str, object], unix: bool, expected: tuple[bool, bool]) -> None:
    told = {
        "Name": socket.gethostname(),
        "KernelVersion": os.uname().release,
        "OperatingSystem": "Debian",
        "OSType": "linux",
        "Driver": "overlay2",
        **changed,
    }
    info = engine_info(told, {"api-version": "1.41"}, "unix:///x", unix=unix)
    assert (info.local, info.native_overlay) == expected


def test_podman_shapes() -> None:
    info = engine_info(
        {"ID": "random"}, {"libpod-api-version": "4.3.1", "api-version": "1.41"}, "u", unix=True
    )
    again = engine_info(
        {"ID": "other"}, {"libpod-api-version": "4.3.1", "api-version": "1.41"}, "u", unix=True
    )
    assert info.kind == "podman"
    assert info.id == again.id
    assert not info.native_overlay
    image = image_info({"Id": "ab", "RepoTags": None, "Config": None, "RootFS": None})
    assert (image.id, image.tags, image.layers, image.env) == ("sha256:ab", (), (), {})
    image = image_info({"Config": {"Entrypoint": "sh", "Env": ["A=b=c", "EMPTY", "D="]}})
    assert image.entrypoint == ("sh",)
    assert image.env == {"A": "b=c", "EMPTY": "", "D": ""}
    container = container_info({"Id": "1", "Image": "ab", "State": {"Status": "exited", "ExitCode": 3}})
    assert (container.image_id, container.exit_code) == ("sha256:ab", 3)
    assert container_info(None).exit_code is None
    assert path_changes(None) == ()


def test_credentials_come_from_the_users_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert registry_auth.header_for("host/x", tmp_path) is None
    file.write_text("{}")
    assert registry_auth.header_for_all(tmp_path) is None
    file.write_text(json.dumps({"auths": {"host:5000": {"auth": "bWU6c2VjcmV0"}}}))
    header = registry_auth.header_for("host:5000/x:1", tmp_path)
    assert header is not None
    import base64

    assert json.loads(base64.urlsafe_b64decode(header))["password"] == "secret"
    assert registry_auth.header_for("other:5000/x:1", tmp_path) is None
    everything = registry_auth.header_for_all(tmp_path)
    assert everything is not None
    assert "host:5000" in json.loads(base64.urlsafe_b64decode(everything))


def test_a_credential_helper_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"host:5000": "envpar-no-such"}}))
    with pytest.raises(ImageError, match="credentials"):
        registry_auth.header_for("host:5000/x", tmp_path)


def test_choosing_an_engine_imports_nothing_slow() -> None:
    program = (
        "import sys\nimport pytest_envpar.engine.select, pytest_envpar.doctor\n"
        "assert not {'docker', 'requests', 'ssl', 'http.client'} & set(sys.modules), 'slow'"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_the_doctor_without_an_engine(environ: dict[str, str]) -> None:
    checks = doctor.run_checks(environ)
    by_name = {check.name: check for check in checks}
    assert checks[0].name == "engine"
    assert by_name["engine"].state == "missing"
    assert by_name["engine"].fix is not None
    assert by_name["engine: docker socket"].detail.endswith("no such socket")
    assert by_name["podman"].state == "warn"
    assert by_name["overlay"].state == "warn"
    assert by_name["python"].state == by_name["pytest"].state == "ok"
    told = doctor.as_json(checks)
    assert told["version"] == 1
    assert told["state"] == "missing"
    assert told["checks"][0]["fix"] == by_name["engine"].fix
    assert json.loads(json.dumps(told)) == told


def test_the_doctor_looks_at_the_engine_that_is_configured(environ: dict[str, str], tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    checks = doctor.run_checks(environ, (url,))
    assert [check.name for check in checks if check.name.startswith("engine")] == ["engine", f"engine: {url}"]
    assert checks[0].fix == (
        'see whether the engine runs at this address; engine = "auto" looks for one on this machine'
    )


def test_the_doctors_table() -> None:
    checks = [doctor.Check("a", "ok", "fine"), doctor.Check("longer", "missing", "gone", "get it")]
    assert doctor.render_table(checks) == [
        "ok       a       fine",
        "missing  longer  gone",
        "                 fix: get it",
    ]
    assert doctor.worst(checks[:1]) == "ok"
    assert doctor.worst([]) == "ok"
