"""What goes wrong around container fixtures: removed from outside, full, killed, many."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

    from .projects import Project

pytestmark = pytest.mark.engine

_LIMIT_S = 90.0


def test_removed_and_killed_from_outside(project: Project) -> None:
    project.stage()
    result = project.suite(
        """
        import subprocess
        def test_removed(qa_container):
            qa_container.recipe.engine.remove_container(qa_container.id)
            qa_container.exec(["true"])
        def test_killed(qa_container):
            qa_container.recipe.engine.kill(qa_container.id)
            qa_container.exec(["true"])
        def test_the_next_one_is_fine(qa_container):
            assert qa_container.exec(["true"]).ok
        """,
        stage="",
    )
    assert result.code == 1
    assert result.line == "2 failed, 1 passed", result.text
    assert "[not-found]" in result.out
    assert "[conflict]" in result.out


def test_a_full_disk_in_the_container(project: Project) -> None:
    project.stage('tmpfs = ["/small:size=1m"]')
    project.suite(
        """
        import pytest, pytest_envpar
        def test_full(qa_container):
            with pytest.raises(pytest_envpar.CommandError, match="exit code") as caught:
                qa_container.write("/small/big", b"x" * (4 << 20))
            assert "No space left" in str(caught.value)
            qa_container.write("/small/little", b"x")
            assert qa_container.read_bytes("/small/little") == b"x"
        """,
        stage="",
    ).ok()


def test_an_image_that_is_deleted_while_in_use(project: Project, engine: Engine) -> None:
    from pytest_envpar.images import tarstream

    tag = f"envpar-test-gone-{secrets.token_hex(4)}:1"
    context = tarstream.tar(
        [
            tarstream.bytes_file(
                "Dockerfile", f"FROM {project.image}\nRUN touch /mark-{tag[-10:-2]}\n".encode()
            )
        ]
    )
    engine.build(context, dockerfile="Dockerfile", tag=tag)
    try:
        project.stage(f'image = "{tag}"')
        project.suite(
            f"""
            import time, pytest, pytest_envpar
            def test_it(qa_container):
                # Its name goes; what a container uses stays.
                qa_container.recipe.engine.remove_image({tag!r}, force=True)
                assert qa_container.exec(["true"]).ok
            def test_gone(envpar_containers):
                one = envpar_containers.start("qa")
                engine, image = one.recipe.engine, one.image.image_id
                one.remove()
                deadline = time.monotonic() + 60
                while engine.inspect_image(image) is not None and time.monotonic() < deadline:
                    try:
                        engine.remove_image(image, force=True)
                    except pytest_envpar.EnvparError:
                        time.sleep(0.1)  # the container of the test before is just being removed
                with pytest.raises(pytest_envpar.EngineError, match="[Nn]o such image"):
                    envpar_containers.start("qa")
            """,
            stage="",
        ).ok()
    finally:
        engine.remove_image(tag, force=True)


@pytest.mark.parametrize(
    "moment",
    [
        "starting",
        "used",
        *(
            pytest.param(moment, marks=pytest.mark.slow)
            for moment in ("collecting", "setup", "exec", "copy", "checkpoint", "factory", "teardown", "end")
        ),
    ],
)
def test_pytest_is_killed_and_the_sweep_leaves_nothing(project: Project, engine: Engine, moment: str) -> None:
    project.stage()
    project.write(
        "conftest.py",
        """
        import os, signal, sys
        def here(moment):
            if os.environ.get("MOMENT") == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        def pytest_collection_modifyitems():
            here("collecting")
        def pytest_sessionfinish():
            here("end")
        sys.modules["moments"] = sys.modules[__name__]
        """,
    )
    project.write(
        "test_it.py",
        """
        import os, threading, time, pytest
        from conftest import here
        from pytest_envpar.engine.docker_api import DockerEngine

        @pytest.fixture(autouse=True)
        def begun(monkeypatch):
            create = DockerEngine.create_container
            def created(*args):
                made = create(*args)
                here("starting")
                return made
            monkeypatch.setattr(DockerEngine, "create_container", created)

        @pytest.fixture
        def mine(qa_container):
            here("setup")
            yield qa_container
            here("teardown")

        def test_it(begun, mine, envpar_containers, tmp_path):
            here("used")
            if os.environ["MOMENT"] == "exec":
                threading.Timer(0.3, here, ["exec"]).start()
                mine.exec(["sleep", "600"])
            mine.write("/data/big", b"x" * 1_000_000)
            if os.environ["MOMENT"] == "copy":
                threading.Timer(0.01, here, ["copy"]).start()
                for _ in range(1000):
                    mine.copy_out("/data", tmp_path / "copy")
            if os.environ["MOMENT"] == "factory":
                threading.Timer(0.2, here, ["factory"]).start()
                while True:
                    envpar_containers.start_many(4, "qa")
            if os.environ["MOMENT"] == "checkpoint":
                threading.Timer(0.05, here, ["checkpoint"]).start()
                while True:
                    mine.checkpoint("point")

        def test_more(mine):
            pass
        """,
    )
    other = _waiting_run(project)
    try:
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "test_it.py"],
            cwd=project.root,
            env={**project.environ, "MOMENT": moment},
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, process.stdout
        alive = _states(project)
        sweep(engine, everything_dead=False)
        left = _states(project)
        assert "dead" not in left.values(), (moment, left)
        # Of the run that is alive nothing was touched.
        assert {key for key, state in alive.items() if state == "live"} <= left.keys()
        assert other.poll() is None
        other.communicate(b"go on\n", timeout=_LIMIT_S)
        assert other.returncode == 0
    finally:
        other.kill()
        other.wait()
        for pipe in (other.stdin, other.stdout):
            if pipe is not None:
                pipe.close()
        for each in list_ours(engine):
            if each.type == "image" and each.project == str(project.root):
                engine.remove_image(each.name or each.id, force=True)


def _waiting_run(project: Project) -> subprocess.Popen[bytes]:
    """A run of the same project that has a container and waits."""
    project.write(
        "alive.py",
        """
        import sys
        def test_alive(qa_container):
            print("up", flush=True)
            sys.stdin.readline()
            assert qa_container.exec(["true"]).ok
        """,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "alive.py"],
        cwd=project.root,
        env={**project.environ, "MOMENT": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"up" in line:
            return process
    raise AssertionError("it did not start")


def _states(project: Project) -> dict[tuple[str, str], str]:
    return {
        (each.type, each.id): each.state
        for each in list_ours(project.engine)
        if each.project == str(project.root) and each.state != "cache"
    }


@pytest.mark.parametrize("cycles", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_many_cycles_do_not_grow(project: Project, cycles: int, tmp_path: Path) -> None:
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.worker.supply import Supply

    supply = Supply(None, Owner.current(project.root), project.engine, tmp_path, project.environ)
    try:
        recipe = supply.image(project.image)

        def cycle() -> None:
            container = supply.take("each", lambda: recipe, more=1)
            assert container.exec(["true"]).ok
            supply.drop(container)

        for _ in range(6):
            cycle()
        supply.settle()
        descriptors, memory = _descriptors(), _memory()
        for _ in range(cycles):
            cycle()
        supply.settle()
        # Connections are pooled: a few more or less are no growth.
        assert _descriptors() <= descriptors + 12
        assert _memory() <= memory + (16 << 20)
    finally:
        supply.close()


# More than are started at the same moment, in any case.
@pytest.mark.parametrize("count", [20, pytest.param(50, marks=pytest.mark.slow)])
def test_many_at_once(project: Project, count: int) -> None:
    project.stage()
    project.suite(
        f"""
        def test_it(envpar_containers):
            some = envpar_containers.start_many({count}, "qa")
            assert len({{each.id for each in some}}) == {count}
            assert some[0].exec(["true"]).ok and some[-1].exec(["true"]).ok
        """,
        stage="",
    ).ok()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _memory() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()
