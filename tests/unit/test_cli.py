"""The command ``envpar``, without an engine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import doctor
from pytest_envpar.cli import NOT_YET, init, main, run, show
from pytest_envpar.config import load_settings
from pytest_envpar.containers import sweep
from pytest_envpar.containers.sweep import OurObject, Swept
from pytest_envpar.doctor import Check
from pytest_envpar.errors import ConnectionLostError, EngineError, EnvparError, NoEngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., subprocess.CompletedProcess[str]]

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _Engine:
    class info:  # noqa: N801 - stands for an attribute
        kind = "docker"
        url = "unix:///x.sock"

    closed = False

    def close(self) -> None:
        self.closed = True


def _object(name: str, state: Any = "dead", type_: Any = "container") -> OurObject:
    return OurObject(type_, "0" * 64, name, "run", "/proj", "qa", "r1", None, state, "exited")


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> _Engine:
    made = _Engine()
    monkeypatch.setattr(show, "select_engine", lambda *_: made)
    return made


# --- the program -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_are_cheap(argument: str) -> None:
    code = (
        "import sys\nfrom pytest_envpar.cli import main\n"
        f"try:\n    main([{argument!r}])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = [n for n in ('pytest', '_pytest', 'docker', 'requests', 'sqlite3') if n in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "envpar" in done.stdout


def test_as_a_module(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_envpar", "replay"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 2
    assert "[not-yet]" in done.stderr


@pytest.mark.parametrize("command", sorted(NOT_YET))
def test_commands_of_later_versions_are_refused(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "some", "--option=1", "--format", "json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"envpar: {command}: ")
    assert "not yet part of this version [not-yet]" in err
    assert "\nenvpar: hint: until then: " in err


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["ps", "--nonsense"], ["ps", "--format", "xml"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: envpar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (NoEngineError("no engine", hint="get one", detail=("tried x",)), 2, "no engine [no-engine]"),
        (EngineError("it broke"), 3, "it broke [engine]"),
        (ZeroDivisionError("oops"), 3, "internal error: ZeroDivisionError: oops"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_end_without_a_traceback(
    error: BaseException,
    code: int,
    shown: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(configured: object, environ: object) -> None:
        raise error

    monkeypatch.setattr(show, "select_engine", fail)
    assert main(["ps"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"envpar: {shown}")
    assert "Traceback" not in err
    if isinstance(error, NoEngineError):
        assert err.splitlines()[1:] == ["envpar:   | tried x", "envpar: hint: get one"]


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    code = "import sys\nfrom pytest_envpar.cli import main\nsys.exit(main(['init', '--format', 'json']))"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-u", "-c", code],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


# --- doctor, ps, prune -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("missing", 1)])
def test_doctor(
    state: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("engine", "ok", "fine"), Check("disk", state, "little", "free some")]
    monkeypatch.setattr(doctor, "run_checks", lambda *_: checks)
    assert main(["doctor"]) == code
    assert "fix: free some" in capsys.readouterr().out
    assert main(["doctor", "--format=json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["state"]) == (1, state)


def test_doctor_asks_the_engine_that_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "envpar.toml").write_text('engine = "unix:///nowhere.sock"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 1
    assert "engine: unix:///nowhere.sock" in capsys.readouterr().out


def test_ps(engine: _Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sweep, "list_ours", lambda _: (_object("run-1"), _object("vol", "cache", "volume")))
    assert main(["ps"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["TYPE", "NAME", "KIND", "STATE", "STAGE", "PROJECT"]
    assert [row.split() for row in rows] == [["container", "run-1", "run", "dead", "qa", "/proj"]]
    assert engine.closed

    assert main(["ps", "--cache", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == 1
    assert [each["name"] for each in answer["objects"]] == ["run-1", "vol"]

    monkeypatch.setattr(sweep, "list_ours", lambda _: ())
    assert main(["ps"]) == 0
    assert "nothing of pytest-envpar is on docker" in capsys.readouterr().out


@pytest.mark.parametrize("cache", [False, True])
def test_prune_says_what_it_removed(
    cache: bool, engine: _Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def prune(_: object, cache: bool, *__: object) -> Swept:
        asked.append(cache)
        return Swept((_object("run-1"),), ((_object("vol", "cache", "volume"), "in use"),))

    monkeypatch.setattr(sweep, "prune", prune)
    assert main(["prune", *(["--cache"] if cache else [])]) == 0  # a cache in use is no failure
    assert asked == [cache]
    assert capsys.readouterr().out.splitlines() == [
        "removed container run-1",
        "could not remove volume vol: in use",
    ]
    assert main(["prune", "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in answer["removed"]] == ["run-1"]
    assert answer["failed"][0]["reason"] == "in use"


def test_prune_that_cannot_remove_a_leftover_fails(engine: _Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "prune", lambda *_, **__: Swept((), ((_object("run-1"), "busy"),)))
    assert main(["prune"]) == 1


@pytest.fixture
def two_projects(engine: _Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Leftovers of this project and of another one; which were removed."""
    mine = [dataclasses.replace(_object(name), project=str(folder)) for name in ("run-1", "run-2")]
    others = [_object("run-3", "kept"), _object("net", "kept", "network"), _object("run-4", "live")]
    removed: list[str] = []
    monkeypatch.setattr(sweep, "list_ours", lambda _: (*others, *mine))
    monkeypatch.setattr(sweep, "_remove_one", lambda _, ours: removed.append(ours.name))
    return removed


def test_prune_says_first_how_much_of_which_project(
    two_projects: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object) -> None:
        raise ConnectionLostError("gone")

    first = [f"removing of {folder}: 2 containers", "removing of /proj: 1 container, 1 network"]
    assert main(["prune"]) == 0
    assert two_projects == ["run-3", "net", "run-1", "run-2"]
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[:2]) == sorted(first)
    assert [line.split()[0] for line in lines[2:]] == ["removed"] * 4
    monkeypatch.setattr(sweep, "_remove_one", refused)
    assert main(["prune"]) == 3  # beforehand, indeed
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(first)


@pytest.mark.parametrize("configured", [True, False])
def test_prune_of_one_project(
    configured: bool,
    two_projects: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if configured:
        (folder / "envpar.toml").write_text("")
        (folder / "sub").mkdir()
        monkeypatch.chdir(folder / "sub")
    assert main(["prune", "--project"]) == 0
    assert two_projects == ["run-1", "run-2"]
    assert capsys.readouterr().out.splitlines()[0] == f"removing of {folder}: 2 containers"
    (folder / "other").mkdir()
    (folder / "other" / "envpar.toml").write_text("")
    monkeypatch.chdir(folder / "other")
    assert main(["prune", "--project"]) == 0
    assert capsys.readouterr().out == f"nothing to remove of {folder / 'other'}\n"


def test_all_engines_of_a_pool(
    folder: Path, engine: _Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "envpar.toml").write_text('engine = ["tcp://a:1", "tcp://b:1", "tcp://c:1"]\n')

    def select(names: tuple[str, ...], *_: object) -> _Engine:
        if names == ("tcp://b:1",):
            raise NoEngineError("no engine", detail=("tcp://b:1: refused",))
        return engine

    monkeypatch.setattr(show, "select_engine", select)
    monkeypatch.setattr(sweep, "list_ours", lambda _: (_object("run-1"),))
    assert main(["ps"]) == 0
    told = capsys.readouterr()
    header, *rows = told.out.splitlines()
    assert header.split()[-1] == "ENGINE"
    assert len(rows) == 2
    assert "tcp://b:1: refused" in told.err
    monkeypatch.setattr(sweep, "prune", lambda *_, **__: Swept((_object("run-1"),)))
    assert main(["prune"]) == 0
    assert capsys.readouterr().out.count("removed container run-1") == 2
    monkeypatch.setattr(show, "select_engine", lambda *_: select(("tcp://b:1",)))
    assert main(["ps"]) == 2
    assert "no engine of the pool answers" in capsys.readouterr().err


def test_the_engine_is_the_configured_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "envpar.toml").write_text('engine = "podman"\n[stages.qa]\nimage = "x:1"\n')
    asked: list[tuple[str, ...]] = []

    def select(configured: tuple[str, ...], environ: object) -> _Engine:
        asked.append(configured)
        return _Engine()

    monkeypatch.setattr(show, "select_engine", select)
    monkeypatch.setattr(sweep, "list_ours", lambda _: ())
    main(["ps"])
    main(["ps", "--engine", "unix:///y.sock"])
    (folder / "envpar.toml").unlink()
    main(["ps"])
    assert asked == [("podman",), ("unix:///y.sock",), ("auto",)]


# --- init ------------------------------------------------------------------------------------------------------


def test_init_writes_a_configuration_that_loads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--image", "python:3.12-slim", "--stage", "qa2"]) == 0
    assert "next: pytest --env=qa2" in capsys.readouterr().out
    settings = load_settings(folder / "envpar.toml")
    assert settings.stages["qa2"].image == "python:3.12-slim"
    assert [path.name for path in folder.iterdir()] == ["envpar.toml"]


def test_what_init_comments_out_is_valid(folder: Path) -> None:
    main(["init"])
    file = folder / "envpar.toml"
    lines = file.read_text().splitlines()
    keys = [line.removeprefix("# ") if " = " in line or "[stages" in line else line for line in lines]
    file.write_text("\n".join(keys))
    settings = load_settings(file)
    assert settings.source == "overlay"
    assert settings.artifacts == ("reports/**",)
    assert settings.stages["dev"].memory_bytes == 512 << 20
    assert settings.stages["qa"].build is not None


def test_init_adds_to_pyproject(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "pyproject.toml"
    file.write_bytes(b'[project]\r\nname = "x"\r\n[tool.other]\r\nsource = 1')
    file.chmod(0o640)
    assert main(["init", "--pyproject", "--format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["file"], answer["stage"]) == (1, str(file), "dev")
    text = file.read_bytes()
    assert text.startswith(b'[project]\r\nname = "x"\r\n[tool.other]\r\nsource = 1\r\n\r\n[tool.envpar]\r\n')
    assert text.count(b"\n") == text.count(b"\r\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert "dev" in load_settings(file).stages
    file.write_text(file.read_text().replace("# source", "source"))
    assert load_settings(file).source == "overlay"


@pytest.mark.parametrize("pyproject", [False, True])
@pytest.mark.parametrize("name", ["envpar.toml", "pyproject.toml"])
def test_init_never_overwrites(
    name: str, pyproject: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = '[stages.a]\nimage = "x:1"\n' if name == "envpar.toml" else "[tool.envpar]\n"
    (folder / name).write_text(content)
    assert main(["init", *(["--pyproject"] if pyproject else [])]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == content


def test_init_does_not_win_a_race(folder: Path) -> None:
    (folder / "envpar.toml").write_text("theirs")
    with pytest.raises(UsageError, match="exists already"):
        init._place(folder / "envpar.toml", "ours", replace=False)
    assert (folder / "envpar.toml").read_text() == "theirs"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--stage=all"], "--stage=all cannot be"),
        (["--stage=A-b"], "--stage=A-b cannot be"),
        (["--image", 'x"\n'], "cannot be the name of an image"),
        (["--pyproject"], "does not exist"),
    ],
)
def test_init_refuses(
    arguments: list[str], shown: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == 2
    assert shown in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_init_where_nothing_can_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EnvparError, match="cannot be written"):
        init._place(folder / "absent" / "envpar.toml", "x", replace=False)


# --- run -------------------------------------------------------------------------------------------------------


def test_the_hosts_arguments_stay_in_front_of_a_double_dash() -> None:
    made = run.host_args(["--env=qa", "-p", "theirs", "--", "-x"])
    assert made[-2:] == ["--", "-x"]
    assert made[2:5] == ["--env=qa", "-p", "theirs"]
    assert "no:warnings" in made
    assert "minversion=0" in made


def test_which_plugins_are_the_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "theirs.py").write_text("raise RuntimeError")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(folder)
    project = (folder,)
    for name in ("pytester", "terminal", "pytest_envpar.plugin", "json", "_pytest.pytester"):
        assert run._is_hosts(name, project), name
    for name in ("theirs", "package", "package.plugin", "not_there", "not.there", ".", ""):
        assert not run._is_hosts(name, project), name


@pytest.fixture
def started(folder: Path) -> Start:
    """``started(*args)`` is ``envpar run`` in a process of its own."""

    def start(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return subprocess.run(
            [sys.executable, "-m", "pytest_envpar", "run", *args],
            capture_output=True,
            text=True,
            check=False,
            env={**clean, "PYTHONPATH": str(SOURCE), **environ},
        )

    return start


def test_without_a_stage_run_is_plain_pytest(folder: Path, started: Start) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_x.py").write_text(
        "import warnings\ndef test_a(): pass\ndef test_b(): warnings.warn('no')\n"
    )
    done = started("-q")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    refused = started("-p", "not_there")
    assert refused.returncode != 0
    assert "not_there" in refused.stderr


def test_addopts_with_an_open_quote(folder: Path, started: Start) -> None:
    done = started("-q", PYTEST_ADDOPTS="-k 'open")
    assert done.returncode == 2
    assert (
        done.stderr == "envpar: PYTEST_ADDOPTS cannot be split into arguments: No closing quotation [usage]\n"
    )


def test_env_of_the_users_own_conftest_is_theirs(folder: Path, started: Start) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--env')\n")
    (folder / "test_x.py").write_text(
        "import warnings\n"
        "def test_a(request): assert request.config.getoption('--env') == 'live'\n"
        "def test_b(): warnings.warn('no')\n"
    )
    done = started("-q", "--env=live")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr


def test_help_of_run_is_that_of_pytest(folder: Path, started: Start) -> None:
    done = started("--env=qa", "--help")
    assert done.returncode == 0
    assert "--maxfail" in done.stdout
    assert "--envpar-stage" in done.stdout


def test_a_stage_run_does_not_stop_at_what_only_the_inside_knows(folder: Path, started: Start) -> None:
    """Without a configuration the run ends at our own error, which means that pytest let it get so far."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nminversion = 99\nrequired_plugins = pytest-not-here\npythonpath = src\n"
        "filterwarnings = error::theirs.Warned\naddopts = -p theirs -W ignore::theirs.Warned\n"
    )
    (folder / "src").mkdir()
    (folder / "src" / "theirs.py").write_text("raise SystemExit('imported on the host')\n")
    for args, environ in (
        (("--env=qa",), {}),
        (("--envpar-stage=qa", "-ptheirs", "-p", "more"), {}),
        (("--env=qa",), {"PYTEST_PLUGINS": "theirs,more", "PYTEST_ADDOPTS": "-p more -W error::theirs.X"}),
        ((), {"PYTEST_ADDOPTS": "--env=qa"}),
    ):
        done = started(*args, **environ)
        assert done.returncode == 4, done.stderr
        assert "no stages are configured" in done.stderr
        assert "imported on the host" not in done.stderr + done.stdout
