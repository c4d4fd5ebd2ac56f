"""Containers as fixtures, in plain pytest runs on the host."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours, prune

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine

    from .projects import Project

DOCKER = "unix:///var/run/docker.sock"
NO_ENGINE = "unix:///nowhere/docker.sock"


@pytest.mark.engine
def test_a_container_per_test_module_and_session(project: Project) -> None:
    project.stage('env = { APP = "shelf" }')
    result = project.suite(
        """
        import os
        seen = set()
        def test_env(qa_container):
            assert qa_container.exec(["printenv", "APP"], check=True).text == "shelf\\n"
            assert qa_container.stage == "qa"
            seen.add(qa_container.id)
        def test_fresh(qa_container):
            assert qa_container.id not in seen
            qa_container.write("/left", "x")
        def test_fresh_again(qa_container):
            assert not qa_container.exec(["test", "-e", "/left"]).ok
        def test_module(qa_container_module):
            qa_container_module.write("/left", "x")
        def test_module_again(qa_container_module):
            assert qa_container_module.read_text("/left") == "x"
        def test_session(qa_container_session, qa_container_module):
            assert qa_container_session.id != qa_container_module.id
        def test_project_is_there(qa_container):
            here = os.path.abspath(__file__)
            assert "test_project_is_there" in qa_container.read_text(here)
            qa_container.exec(["sh", "-c", "echo changed > " + here], check=True)
            assert "test_project_is_there" in open(here).read()
        def test_changes(qa_container):
            qa_container.write("/etc/app.conf", "x")
            qa_container.exec(["rm", "/etc/issue"], check=True)
            found = {(str(change.path), change.kind) for change in qa_container.changes()}
            assert found == {("/etc/app.conf", "added"), ("/etc/issue", "removed")}
        def test_diff_and_manifest(qa_container, envpar_containers):
            other = envpar_containers.start("qa")
            other.write("/etc/app.conf", "x")
            qa_container.exec(["chmod", "600", "/etc/issue"], check=True)
            found = {(each.path, each.kind) for each in qa_container.diff(other).changes}
            assert ("/etc/app.conf", "added") in found and ("/etc/issue", "modified") in found
            assert all(path.startswith("/etc") for path, _ in found), found
            paths = {entry.path: entry for entry in other.manifest()}
            assert paths["/etc/app.conf"].size == 1
            assert not any(path.startswith(os.path.dirname(__file__) + "/") for path in paths)
        """,
        "-p",
        "no:randomly",
        stage="",
    ).ok()
    assert result.line == "9 passed"
    assert "locked stage qa to" in result.out
    assert (project.root / "envpar.lock").exists()


@pytest.mark.engine
def test_the_default_stage_and_no_stage(project: Project) -> None:
    project.stage(name="first")
    project.suite(
        """
        def test_it(envpar_container, envpar_stage, first_container_module):
            assert envpar_container.stage == "first"
            assert envpar_stage is None
        """,
        stage="",
    ).ok()


@pytest.mark.engine
def test_the_factory(project: Project) -> None:
    project.write("server.py", "import http.server as s; s.HTTPServer(('', 80), s.SimpleHTTPRequestHandler)")
    project.stage()
    result = project.suite(
        f"""
        import socket, time, pytest, pytest_envpar
        def test_many(envpar_containers):
            some = envpar_containers.start_many(5, "qa")
            assert len({{each.id for each in some}}) == 5
            assert all(each.exec(["true"]).ok for each in some)
        def test_image(envpar_containers):
            one = envpar_containers.start(image={project.image!r}, env={{"A": "b"}})
            assert one.stage is None
            assert one.exec(["printenv", "A"]).text == "b\\n"
        def test_command_and_port(envpar_containers):
            server = envpar_containers.start(
                image={project.image!r}, command=["python3", "-m", "http.server", "8000"], ports=[8000])
            server.wait_ready()
            deadline = time.monotonic() + 60
            while True:
                try:
                    with socket.create_connection(server.port(8000), timeout=5) as client:
                        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                        answer = client.recv(4)
                    if answer:  # the engine's proxy takes a connection before anybody inside does
                        assert answer == b"HTTP"
                        break
                    raise ConnectionResetError
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
        def test_wrong(envpar_containers):
            with pytest.raises(pytest_envpar.UsageError, match="not both"):
                envpar_containers.start("qa", image="x")
            with pytest.raises(pytest_envpar.UsageError, match="0 containers"):
                envpar_containers.start_many(0)
            with pytest.raises(pytest_envpar.UsageError, match="list of words"):
                envpar_containers.start("qa", command="ls -l")
            with pytest.raises(pytest_envpar.EnvparError):
                envpar_containers.start_many(3, "qa", command=["/no/such/program"])
        """,
        stage="",
    ).ok()
    assert result.line == "4 passed"


@pytest.mark.engine
def test_a_database_is_migrated_once_and_restored_per_test(project: Project) -> None:
    code = """
        import pytest
        MIGRATE = "import sqlite3; c = sqlite3.connect('/db'); c.execute('create table t (x)'); c.commit()"
        INSERT = MIGRATE.replace("create table t (x)", "insert into t values (1)")
        COUNT = "import sqlite3; print(sqlite3.connect('/db').execute('select count(*) from t').fetchone()[0])"

        @pytest.fixture(scope="session")
        def migrated(envpar_containers_session):
            found = envpar_containers_session.checkpoint("migrated")
            if found is None:
                print("migrating")
                container = envpar_containers_session.start("qa")
                container.exec(["python3", "-c", MIGRATE], check=True)
                found = container.checkpoint("migrated")
            return found

        @pytest.fixture
        def database(envpar_containers, migrated):
            return envpar_containers.restore(migrated)

        @pytest.mark.parametrize("number", range(3))
        def test_it(database, number):
            assert database.exec(["python3", "-c", COUNT], check=True).text == "0\\n"
            database.exec(["python3", "-c", INSERT], check=True)
            assert database.exec(["python3", "-c", COUNT], check=True).text == "1\\n"
    """
    project.stage()
    try:
        assert project.suite(code, "-s", stage="").ok().out.count("migrating") == 1
        assert "migrating" not in project.suite(code, "-s", stage="").ok().out
    finally:
        for each in list_ours(project.engine):
            if each.type == "image" and each.project == str(project.root):
                project.engine.remove_image(each.name or each.id, force=True)


def test_without_a_configuration_it_skips_with_a_hint(plain: Project) -> None:
    plain.write("test_it.py", "def test_it(qa_container): pass\ndef test_other(envpar_container): pass\n")
    result = plain.run("-rs", stage=None).ok()
    assert result.line == "2 skipped"
    assert "stage 'qa' is not configured" in result.out
    assert "no stages are configured" in result.out
    assert "envpar init" in result.out


def test_without_an_engine_it_skips_and_fails_in_ci(plain: Project) -> None:
    plain.write("envpar.toml", f'engine = "{NO_ENGINE}"\n[stages.qa]\nimage = "x"\n')
    plain.write("test_it.py", "def test_it(qa_container): pass\ndef test_other(dev_container): pass\n")
    result = plain.run("-rs", stage=None).ok()
    assert result.line == "2 skipped"
    assert "/nowhere/docker.sock" in result.out
    result = plain.run("-rs", stage=None, CI="true")
    assert result.code == 1, result.text
    assert result.line == "2 errors"


@pytest.mark.engine
def test_in_ci_only_what_is_locked_runs(project: Project) -> None:
    code = "def test_it(qa_container): pass\n"
    project.stage()
    project.write("test_it.py", code)
    result = project.run(stage=None, CI="true")
    assert result.code == 1, result.text
    assert "only what is locked may run" in result.out
    project.run(stage=None).ok()
    project.run(stage=None, CI="true").ok()


def test_a_broken_configuration_fails_the_test_and_only_it(plain: Project) -> None:
    plain.write("envpar.toml", '[stages.qa]\nimage = "x"\nimagee = 1\n')
    plain.write("test_it.py", "def test_it(qa_container): pass\ndef test_other(): pass\n")
    result = plain.run(stage=None)
    assert result.code == 1, result.text
    assert "imagee" in result.out
    assert result.line == "1 passed, 1 error"


def test_fixtures_are_listed_with_their_words(plain: Project) -> None:
    plain.write("envpar.toml", '[stages.qa]\nimage = "x"\n[stages.soak_test]\nextends = "qa"\n')
    result = plain.run("--fixtures", stage=None, may_trace=True).ok()
    for name in ("envpar_stage", "envpar_container", "dev_container_module", "soak_test_container_session"):
        assert re.search(rf"^{name}\b", result.out, re.MULTILINE), result.text
    assert "A fresh container of stage 'soak_test', for this session" in result.out
    assert "any number at the same time" in result.out


def test_what_is_not_used_is_not_imported(plain: Project) -> None:
    plain.write("envpar.toml", '[stages.qa]\nimage = "x"\n')
    plain.write(
        "test_it.py",
        """
        import sys
        def test_it(envpar_stage):
            loaded = {name.split(".")[1] for name in sys.modules if name.startswith("pytest_envpar.")}
            assert not loaded & {"engine", "containers", "images", "session", "drift", "ledger"}
        """,
    )
    plain.run(stage=None).ok()


@pytest.mark.engine
@pytest.mark.parametrize("stage", ["", "qa"])
def test_a_failed_test_shows_the_containers_log(project: Project, stage: str) -> None:
    project.stage()
    result = project.suite(
        """
        import time
        def test_it(envpar_containers):
            one = envpar_containers.start("qa", command=["sh", "-c", "echo words of the container; sleep 600"])
            while not one.logs():
                time.sleep(0.02)
            assert False
        """,
        stage=stage,
    )
    assert result.code == 1
    assert re.search(r"-+ envpar: log of envpar-qa-\S+ \(envpar_containers\) -+", result.out), result.text
    assert "words of the container" in result.out


@pytest.mark.engine
@pytest.mark.parametrize(
    ("when", "kept"),
    [
        pytest.param("never", [], marks=pytest.mark.slow),
        ("failed", ["bad"]),
        ("always", ["bad", "good"]),
    ],
)
def test_containers_are_kept(project: Project, engine: Engine, when: str, kept: list[str]) -> None:
    project.stage()
    project.write(
        "test_it.py",
        """
        def test_good(qa_container): qa_container.write("/good", "x")
        def test_bad(qa_container):
            qa_container.write("/bad", "x")
            assert False
        """,
    )
    result = project.run(f"--env-keep={when}", stage=None, alone=False)
    assert result.code == 1
    names = re.findall(r"enter:  docker exec -it .*?(envpar-kept-\S+) \S+", result.out)
    assert re.findall(r"remove: docker rm --force --volumes (\S+)", result.out) == names
    found = [
        next(what for what in ("good", "bad") if engine.exec(name, ["test", "-e", f"/{what}"]).ok)
        for name in names
    ]
    try:
        assert sorted(found) == kept
        # A later run's sweep leaves them, with their project; prune does not.
        project.run("-k", "good", stage=None, alone=False).ok()
        for name in names:
            assert engine.exec(name, ["test", "-e", str(project.root / "test_it.py")]).ok
        ours = [
            each for each in list_ours(engine) if each.project == str(project.root) and each.state != "cache"
        ]
        assert {each.state for each in ours} == ({"kept"} if kept else set())
        if kept:
            listed = subprocess.run(
                [sys.executable, "-m", "pytest_envpar", "ps", "--engine", DOCKER],
                env=project.environ,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert re.search(rf"^container +{names[0]} +run +kept +qa ", listed, re.MULTILINE), listed
    finally:
        prune(engine, project=str(project.root))
    assert [
        each for each in list_ours(engine) if each.project == str(project.root) and each.state != "cache"
    ] == []


def test_a_wrong_value_is_refused(plain: Project) -> None:
    plain.run("--env-keep=maybe", stage=None).refused("--env-keep=maybe: not one of never, failed, always")


@pytest.mark.engine
@pytest.mark.parametrize("stage", [None, "qa"])
def test_containers_of_a_stage_share_its_services(project: Project, stage: str | None) -> None:
    project.write(
        "envpar.toml",
        f"""
        engine = "{DOCKER}"
        [stages.qa]
        image = "{project.image}"
        [stages.qa.services.web]
        image = "{project.image}"
        command = ["python3", "-m", "http.server", "8000"]
        ready = {{ tcp = 8000, timeout = 60 }}
        """,
    )
    project.write(
        "test_it.py",
        """
        import pytest
        ASK = "import urllib.request; print(urllib.request.urlopen('http://web:8000').status)"
        @pytest.mark.parametrize("number", range(2))
        def test_it(qa_container, number):
            assert qa_container.exec(["python3", "-c", ASK], check=True, timeout=60).text == "200\\n"
            asked = qa_container.exec(["sh", "-c", "echo $ENVPAR_WEB_HOST:$ENVPAR_WEB_PORT"], check=True)
            assert asked.text == "web:8000\\n"
        def test_fails(qa_container):
            ask = "import http.client as h; c = h.HTTPConnection('web', 8000); c.request('GET', '/missing')"
            qa_container.exec(["python3", "-c", ask + "; c.getresponse()"], check=True, timeout=60)
            assert 0
        """,
    )
    result = project.run(stage=stage)
    assert result.line == "1 failed, 2 passed", result.text
    (said,) = re.findall(r"^-+ service web -+\n((?:\d.*\n)*)", result.out, re.MULTILINE)
    assert '"GET /missing HTTP/1.1" 404' in said
    assert '"GET / HTTP/1.1"' not in said


@pytest.mark.engine
def test_an_error_is_told_once(project: Project) -> None:
    project.stage("[stages.empty]")
    result = project.suite("def test_a(empty_container): pass", stage="")
    assert result.code == 1
    assert result.out.count("hint: a stage may also take it from another one") == 1, result.text
    assert "During handling" not in result.out
