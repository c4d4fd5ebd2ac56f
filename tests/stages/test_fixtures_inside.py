"""Containers that a test inside a stage asks for: its calls travel to the host."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.engine


def test_everything_a_handle_can_do(project: Project) -> None:
    project.stage('env = { APP = "shelf" }\nmemory = "256m"')
    result = project.suite(
        """
        import os, pathlib, threading
        import pytest, pytest_envpar
        from pytest_envpar.errors import EnvparError

        def test_stage(envpar_stage):
            assert envpar_stage.name == "qa"
            assert envpar_stage.image.startswith("sha256:")
            assert envpar_stage.engine.startswith("docker")

        def test_commands(qa_container):
            c = qa_container
            assert isinstance(c, pytest_envpar.Container)
            assert c.stage == "qa" and c.image.image_id.startswith("sha256:")
            result = c.exec(["sh", "-c", "cat; echo $APP; echo err >&2; exit 3"], input=b"in ")
            assert isinstance(result, pytest_envpar.ExecResult)
            assert (result.exit_code, result.text, result.stderr) == (3, "in shelf\\n", b"err\\n")
            with pytest.raises(pytest_envpar.CommandError, match="exit code 7") as caught:
                c.exec(["sh", "-c", "echo o; echo e >&2; exit 7"], check=True)
            assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (7, b"o\\n", b"e\\n")
            with pytest.raises(pytest_envpar.CommandTimeoutError) as caught:
                c.exec(["sh", "-c", "echo begun; sleep 600"], timeout=0.5)
            assert caught.value.stdout == b"begun\\n" and isinstance(caught.value, TimeoutError)
            with pytest.raises(pytest_envpar.UsageError, match="as a list"):
                c.exec("ls")
            with c.popen(["cat"]) as process:
                process.write(b"one")
                assert process.read(60) == (1, b"one")
                assert process.read(0.01) is None
                process.close_stdin()
                assert process.wait(60) == 0
            assert c.popen(["cat"]).communicate(b"x", 60).stdout == b"x"

        def test_files(qa_container, tmp_path):
            c = qa_container
            big = os.urandom(3_000_000)
            c.write("/new/big", big, mode=0o600)
            assert c.read_bytes("/new/big") == big
            assert c.exec(["stat", "-c", "%a", "/new/big"]).text == "600\\n"
            with pytest.raises(FileNotFoundError):
                c.read_text("/nowhere")
            with pytest.raises(IsADirectoryError):
                c.read_text("/etc")
            (tmp_path / "d" / "e").mkdir(parents=True)
            (tmp_path / "d" / "e" / "run").write_text("echo ran")
            (tmp_path / "d" / "link").symlink_to("e/run")
            c.copy_in(tmp_path / "d", "/opt")
            assert c.exec(["sh", "/opt/d/link"]).text == "ran\\n"
            c.exec(["sh", "-c", "cd /opt/d; ln -s /etc/passwd out; mkfifo pipe"], check=True)
            back = c.copy_out("/opt/d", tmp_path / "back")
            assert back == tmp_path / "back"
            assert sorted(p.name for p in back.iterdir()) == ["e", "link"]
            assert (back / "link").read_text() == "echo ran"
            assert c.copy_out("/new/big", tmp_path).read_bytes() == big
            assert c.changes()

        def test_life(qa_container):
            c = qa_container
            c.pause(); c.unpause()
            assert c.stats().memory_limit_bytes == 256 << 20
            c.write("/kept", "x")
            c.stop(); c.restart(); c.wait_ready(60)
            assert c.read_text("/kept") == "x"
            assert c.logs() == ""
            with pytest.raises(pytest_envpar.UsageError, match="not published"):
                c.port(80)
            c.kill()
            with pytest.raises(pytest_envpar.ConflictError):
                c.kill()

        def test_checkpoint(envpar_containers):
            one = envpar_containers.start("qa")
            one.write("/rows", "1")
            point = one.checkpoint("rows")
            assert isinstance(point, pytest_envpar.Checkpoint)
            with one.restore(point) as other:
                assert other.read_text("/rows") == "1"
            assert envpar_containers.restore("rows").read_text("/rows") == "1"
            assert envpar_containers.checkpoint("none") is None
            with pytest.raises(pytest_envpar.UsageError, match="no checkpoint"):
                envpar_containers.restore("none")

        def test_many_threads(envpar_containers):
            some = envpar_containers.start_many(3)
            assert len({c.name for c in some}) == 3
            found = []
            def ask(c, n):
                found.append(c.exec(["echo", str(n)]).text)
            threads = [threading.Thread(target=ask, args=(some[n % 3], n)) for n in range(9)]
            for t in threads: t.start()
            for t in threads: t.join()
            assert sorted(found) == [f"{n}\\n" for n in range(9)]

        def test_only_ours(qa_container):
            key, qa_container._key = qa_container._key, "c999"
            with pytest.raises(pytest_envpar.UsageError, match="not one that this run has started"):
                qa_container.exec(["true"])
            qa_container._key = key
            with pytest.raises(EnvparError):
                qa_container._caller.call("start", stage="qa", count="many")

        def test_other_stage(integration_container): pass

        def test_forked(qa_container):
            pid = os.fork()
            if pid == 0:
                try:
                    qa_container.exec(["true"])
                except pytest_envpar.UsageError:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        """,
        "-rs",
    )
    try:
        result.ok()
        assert result.line == "8 passed, 1 skipped"
        assert "stage 'integration' is not configured" in result.out
    finally:
        from pytest_envpar.containers.sweep import list_ours

        for each in list_ours(project.engine):
            if each.type == "image" and each.project == str(project.root):
                project.engine.remove_image(each.name or each.id, force=True)


def test_a_worker_that_dies_takes_its_containers_along(project: Project) -> None:
    project.stage()
    result = project.suite(
        """
        import os
        def test_dies(qa_container):
            os._exit(3)
        def test_goes_on(qa_container):
            assert qa_container.exec(["true"]).ok
        """
    )
    assert result.line == "1 failed, 1 passed"


def test_the_two_sides_have_the_same_words() -> None:
    import sys

    from pytest_envpar import errors
    from pytest_envpar.containers import handle, handle_process
    from pytest_envpar.session import shelf

    name = "pytest_envpar.worker.agent"
    sys.modules[f"{name}.errors"] = errors
    import pytest_envpar.worker.agent as agent

    agent.errors = errors  # type: ignore[attr-defined]
    from pytest_envpar.worker.agent import handles

    for ours, theirs in (
        (handle.Container, handles.Container),
        (handle_process.Process, handles.Process),
        (shelf.ContainerFactory, handles.ContainerFactory),
    ):
        public = {each for each in dir(ours) if not each.startswith("_")} - {"inspect", "unpack"}
        assert public == {each for each in dir(theirs) if not each.startswith("_")}
        for method in public:
            here, there = (inspect.signature(getattr(cls, method)).parameters for cls in (ours, theirs))
            assert [(p.name, p.kind) for p in here.values()] == [(p.name, p.kind) for p in there.values()], (
                method
            )
