"""What is asked of an image, what is believed of the answer, and what is said if there is none."""

# ruff: noqa: ARG002 - stand-ins take what the real ones take
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.engine.values.engine import EngineInfo
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.errors import ConnectionLostError, EngineError, StageError
from pytest_envpar.worker.agent import probe_inside
from pytest_envpar.worker.probe import Probe, candidates, probe

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.create import ContainerSpec

ANSWER: dict[str, Any] = {
    "python": "/venv/bin/python",
    "version": [3, 12, 1],
    "cache_tag": "cpython-312",
    "magic": "cb0d0d0a",
    "implementation": "cpython",
    "machine": "x86_64",
    "prefix": "/venv",
    "scripts": "/venv/bin",
    "pytest": "8.4.2",
    "uid": 1000,
    "gid": 0,
    "home": "/home/app",
    "project_path_state": "absent",
    "project_reachable": True,
}


def image(**env: str) -> ImageInfo:
    none: tuple[str, ...] = ()
    variables = MappingProxyType(env)
    return ImageInfo(
        "sha256:1",
        ("app:qa",),
        none,
        none,
        "linux",
        "amd64",
        "",
        variables,
        "",
        "",
        none,
        none,
        none,
        variables,
    )


class FakeEngine:
    """Answers each command with output for standard output, or with an error to raise at the start."""

    info = EngineInfo("docker", "20", "1.41", "unix:///x", True, False, True, 1, "linux", "amd64", "ENGINE")

    def __init__(self, answers: dict[str, dict[str, Any] | bytes | Exception]) -> None:
        self.answers = answers
        self.specs: list[ContainerSpec] = []
        self.removed = 0

    def create_container(self, spec: ContainerSpec) -> str:
        self.specs.append(spec)
        return "c"

    def attach(self, container: str) -> FakeEngine:
        return self

    def start(self, container: str) -> None:
        answer = self.answers.get(self.specs[-1].entrypoint[0], EngineError("exec: not found in $PATH"))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            answer = f"noise\n{probe_inside.MARK}{json.dumps(answer)}\n".encode()
        descriptor = 2 if answer.startswith(b"E") else 1
        self._pieces = iter([(descriptor, answer[1:] if descriptor == 2 else answer), (0, b"")])

    def read(self, timeout_s: float | None = None) -> tuple[int, bytes]:
        return next(self._pieces)

    def close(self) -> None: ...

    def wait(self, container: str, *, timeout_s: float | None = None) -> int:
        return 1

    def remove_container(self, container: str) -> None:
        self.removed += 1


def ask(engine: FakeEngine, cache_dir: Path, stage: Stage | None = None, **env: str) -> Probe:
    stage = stage or Stage("qa")
    return probe(cast("Engine", engine), image(**env), stage, Path("/data/p"), cache_dir)


def test_answer(tmp_path: Path) -> None:
    engine = FakeEngine({"python3": ANSWER})
    found = ask(engine, tmp_path)
    assert found.python == PurePosixPath("/venv/bin/python")
    assert found.version == (3, 12, 1)
    assert found.pytest_version == "8.4.2"
    assert (found.uid, found.gid, found.home) == (1000, 0, PurePosixPath("/home/app"))
    assert (found.project_path_state, found.project_reachable) == ("absent", True)
    assert Probe.parse(found.as_json()) == found
    (spec,) = engine.specs
    assert spec.network == "none"
    assert spec.mounts == ()
    assert spec.command[0] == "-c"
    assert spec.command[2] == "/data/p"
    assert spec.labels["pytest-envpar.kind"] == "probe"
    assert engine.removed == 1


def test_asked_once(tmp_path: Path) -> None:
    engine = FakeEngine({"python3": ANSWER})
    first = ask(engine, tmp_path)
    engine.answers.clear()
    assert ask(engine, tmp_path) == first
    assert len(engine.specs) == 1


@pytest.mark.parametrize(
    "stage",
    [
        Stage("qa", python="/venv/bin/python"),
        Stage("qa", user="1000"),
        Stage("qa", platform="linux/arm64"),
        Stage("qa", env={"PATH": "/x"}),
    ],
)
def test_another_question_is_asked_anew(tmp_path: Path, stage: Stage) -> None:
    engine = FakeEngine({"python3": ANSWER, "/venv/bin/python": ANSWER})
    ask(engine, tmp_path)
    ask(engine, tmp_path, stage)
    assert len(engine.specs) == 2
    assert engine.specs[1].user == stage.user
    assert engine.specs[1].platform == stage.platform
    assert engine.specs[1].env == stage.env


def test_values_of_variables_are_not_kept_on_disk(tmp_path: Path) -> None:
    ask(FakeEngine({"python3": ANSWER}), tmp_path, Stage("qa", env={"TOKEN": "hunter2"}))
    (kept,) = (tmp_path / "probes").iterdir()
    assert "hunter2" not in kept.read_text() + kept.name


@pytest.mark.parametrize("damage", [b"", b'{"version": 1, "data": {}}', b'{"version": 99, "data": {}}'])
def test_a_damaged_answer_on_disk_is_asked_again(tmp_path: Path, damage: bytes) -> None:
    engine = FakeEngine({"python3": ANSWER})
    first = ask(engine, tmp_path)
    (kept,) = (tmp_path / "probes").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert ask(engine, tmp_path) == first
    assert kept.read_bytes() == whole


def test_candidates_follow_the_virtual_environment_then_the_path() -> None:
    assert candidates(image(VIRTUAL_ENV="/venv/"), Stage("qa")) == (
        "/venv/bin/python",
        "python3",
        "python",
        "/usr/local/bin/python3",
        "/usr/bin/python3",
        "/opt/venv/bin/python",
        "/opt/conda/bin/python",
    )
    assert candidates(image(), Stage("qa"))[0] == "python3"
    assert candidates(image(), Stage("qa", env={"VIRTUAL_ENV": "/own"}))[0] == "/own/bin/python"
    assert candidates(image(VIRTUAL_ENV="/opt/venv"), Stage("qa")).count("/opt/venv/bin/python") == 1
    assert candidates(image(VIRTUAL_ENV="/venv"), Stage("qa", python="/p")) == ("/p",)


def test_no_python_lists_what_was_looked_for(tmp_path: Path) -> None:
    answers: dict[str, dict[str, Any] | bytes | Exception] = {
        "python": b"E  File\nSyntaxError: invalid syntax\n",
        "/usr/bin/python3": b"EKilled\n",
        "/opt/venv/bin/python": EngineError("x", detail=("exec format error",)),
        "/usr/local/bin/python3": ANSWER | {"uid": "root"},
        "/opt/conda/bin/python": b"hello\n",
    }
    engine = FakeEngine(answers)
    with pytest.raises(StageError) as caught:
        ask(engine, tmp_path)
    assert str(caught.value).splitlines() == [
        "Stage qa: image app:qa has no usable Python. [stage]",
        "  | python3: not found",
        "  | python: is older than Python 3.6, or no Python (SyntaxError: invalid syntax)",
        "  | /usr/local/bin/python3: gave an answer that makes no sense (not a number: 'root')",
        "  | /usr/bin/python3: ended with exit code 1 (Killed)",
        "  | /opt/venv/bin/python: exec format error",
        "  | /opt/conda/bin/python: ended with exit code 1 (no output)",
        'hint: choose an image with Python 3.8 or newer, or set python = "/path/to/it/in/the/image"',
    ]
    assert engine.removed == len(engine.specs) == 6
    assert not (tmp_path / "probes").exists()


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = ANSWER | {"version": [3, 6, 15], "python": "/usr/bin/python3"}
    with pytest.raises(StageError) as caught:
        ask(FakeEngine({"python3": old}), tmp_path)
    text = str(caught.value)
    assert "the Python of image app:qa is 3.6.15 (/usr/bin/python3)" in text
    assert "needs 3.8 or newer" in text
    assert "python3: Python 3.6.15 at /usr/bin/python3" in text


def test_a_newer_python_elsewhere_serves(tmp_path: Path) -> None:
    old = ANSWER | {"version": [3, 6, 15]}
    found = ask(FakeEngine({"python3": old, "/opt/conda/bin/python": ANSWER}), tmp_path)
    assert found.version == (3, 12, 1)


def test_a_configured_python_that_is_not_there_names_key_and_stage(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        ask(FakeEngine({"python3": ANSWER}), tmp_path, Stage("qa", python="/nowhere/python"))
    text = str(caught.value)
    assert '[tool.envpar.stages.qa] python = "/nowhere/python" is not usable in image app:qa' in text
    assert "/nowhere/python: not found" in text
    assert "hint: set python to the absolute path" in text


@pytest.mark.parametrize(
    "error", [ConnectionLostError("gone: not found"), EngineError("no space left on device")]
)
def test_an_engine_that_fails_is_not_an_image_without_python(tmp_path: Path, error: EngineError) -> None:
    engine = FakeEngine({"python3": error})
    with pytest.raises(EngineError, match=error.message):
        ask(engine, tmp_path)
    assert engine.removed == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("python", "python3"),
        ("python", ""),
        ("python", None),
        ("version", [3, 12]),
        ("version", [3, 12, "x"]),
        ("version", "3.12.1"),
        ("uid", True),
        ("uid", -1),
        ("home", "relative"),
        ("home", "/a\0b"),
        ("scripts", "x" * 5000),
        ("pytest", 8),
        ("project_path_state", "full"),
        ("project_reachable", 1),
    ],
)
def test_answers_are_not_trusted(key: str, value: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        Probe.parse(ANSWER | {key: value})


class TestInside:
    """The script that runs in the image, here on the host."""

    def run(self, python: str, project: Path, *, cwd: Path) -> Probe:
        script = Path(probe_inside.__file__).read_text()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        output = subprocess.check_output(
            [python, "-c", script, str(project)], cwd=cwd, text=True, env=environment
        )
        assert output.startswith(probe_inside.MARK)
        return Probe.parse(json.loads(output.removeprefix(probe_inside.MARK)))

    def test_facts(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        found = self.run(sys.executable, tmp_path / "empty", cwd=tmp_path)
        assert str(found.python) == sys.executable
        assert found.version == sys.version_info[:3]
        assert found.cache_tag == sys.implementation.cache_tag
        assert found.pytest_version == pytest.__version__
        assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
        assert found.project_path_state == "empty"
        assert found.project_reachable

    def test_a_virtual_environment_without_pytest(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        found = self.run(str(tmp_path / "venv/bin/python"), tmp_path, cwd=tmp_path)
        assert found.python == PurePosixPath(tmp_path / "venv/bin/python")
        assert found.prefix == PurePosixPath(tmp_path / "venv")
        assert found.scripts == PurePosixPath(tmp_path / "venv/bin")
        assert found.pytest_version is None
        assert found.project_path_state == "nonempty"

    def test_the_working_directory_is_not_the_image(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        (tmp_path / "pytest.py").write_text("raise SystemExit('imported')\n")
        found = self.run(str(tmp_path / "venv/bin/python"), tmp_path / "absent", cwd=tmp_path)
        assert found.pytest_version is None
        assert found.project_path_state == "absent"

    def test_pytest_without_metadata_is_asked_itself(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
        (site / "pytest.py").write_text("__version__ = '7.1'\n")
        assert self.run(str(tmp_path / "venv/bin/python"), tmp_path, cwd=tmp_path).pytest_version == "7.1"
        (site / "pytest.py").write_text("raise RuntimeError\n")
        assert self.run(str(tmp_path / "venv/bin/python"), tmp_path, cwd=tmp_path).pytest_version is None

    def test_path_states(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert probe_inside.path_state(str(tmp_path / "file")) == "nonempty"
        assert probe_inside.path_state(str(tmp_path / "file" / "below")) == "nonempty"
        assert probe_inside.path_state(str(tmp_path / "a" / "b")) == "absent"
        assert probe_inside.reachable(str(tmp_path / "a" / "b"))
