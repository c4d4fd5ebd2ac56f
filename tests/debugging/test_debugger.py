"""A debugger inside, at the user's terminal: the same keys, the same screen and the same end as locally."""

from __future__ import annotations

import signal
import socket
import socketserver
import threading
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER
from rig.needs import module

from .projects import same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_envpar.engine.api import Engine

    from .projects import Project
    from .terminal import Session, Terminal

pytestmark = pytest.mark.engine

BREAKPOINT = """
    def test_before(): print("captured before")
    def test_debugged(capsys):
        number = 41
        breakpoint()
        print("captured after", number)
        assert capsys.readouterr().out == "captured after 42\\n"
    def test_after(): pass
    """
FAILURES = """
    def helper(value):
        print("said before")
        raise ValueError(value)
    def test_ok(): pass
    def test_first(): helper(7)
    def test_second(): helper(8)
    def test_never(): pass
    """


def both(project: Project, use: Callable[[Terminal], object], *args: str) -> tuple[Session, Session]:
    """The same at two terminals, locally and in the stage: the screens have to be the same."""
    sessions = []
    for stage in (None, "qa"):
        terminal = project.at_terminal(*args, stage=stage)
        use(terminal)
        sessions.append(terminal.end())
    local, inside = sessions
    assert same(inside.text) == same(local.text)
    assert inside.code == local.code
    project.clean(inside)
    return local, inside


def test_breakpoint_is_as_locally(project: Project) -> None:
    project.write("test_it.py", BREAKPOINT)

    def use(terminal: Terminal) -> None:
        terminal.answer("p number + 1", "number = 42")
        terminal.until("[(]Pdb[)] ")
        terminal.type("\x03")  # Ctrl-C is the debugger's
        # Arrow keys reach it, too: the last line but one once more.
        terminal.answer("\x1b[A\x1b[A")
        terminal.until("\n43\n")
        terminal.answer("!import os; print(tuple(os.get_terminal_size()), os.isatty(0), os.environ['TERM'])")
        terminal.until(r"\(100, 30\) True xterm")
        terminal.resize(40, 120)
        size = ""
        while "(120, 40)" not in size:
            terminal.answer("tuple(os.get_terminal_size())")
            size = terminal.until(r"\n\(1\d\d, \d\d\)\n")
        terminal.resize(30, 100)
        terminal.answer("c")

    terminal = project.at_terminal("-v")
    use(terminal)
    session = project.clean(terminal.end())
    assert session.code == 0
    assert "--KeyboardInterrupt--" in session.text
    assert "3 passed" in session.lines[-1]

    both(project, lambda terminal: terminal.answer("number", "number = 42", "n", "c"))


def test_post_mortem_and_quit_are_as_locally(project: Project) -> None:
    project.write("test_it.py", FAILURES)
    _, inside = both(project, lambda terminal: terminal.answer("p value", "up", "c", "q"), "--pdb")
    assert inside.code == 2
    assert "!!! _pytest.outcomes.Exit: Quitting debugger !!!" in inside.text
    # What the debugger has shown is not shown again.
    assert inside.text.count("ValueError: 7") == local_count(inside)


def local_count(session: Session) -> int:
    """In the traceback above the prompt and in the short summary."""
    return sum("ValueError: 7" in line for line in session.lines if line.startswith(("E ", "FAILED")))


def test_trace_and_a_debugger_of_the_project(project: Project) -> None:
    project.write(
        "mine.py", "import pdb\nclass Mine(pdb.Pdb):\n    def do_mine(self, arg): self.message('it is mine')"
    )
    project.write("test_it.py", "def test_a():\n    x = 1\n    assert x\n")
    _, inside = both(
        project,
        lambda terminal: terminal.answer("mine", "n", "p x", "c"),
        "--trace",
        "--pdbcls=mine:Mine",
        "-v",
    )
    assert "it is mine" in inside.text
    assert "PDB runcall" in inside.text
    assert inside.code == 0


@pytest.mark.slow
def test_ctrl_c_after_continue_is_the_debuggers(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import time
        def test_a(capsys):
            breakpoint()
            with capsys.disabled():
                print("sleeping", flush=True)
            for _ in range(6000): time.sleep(0.01)
        def test_b(): pass
        """,
    )
    terminal = project.at_terminal()
    terminal.answer("c")
    terminal.until("sleeping")
    terminal.type("\x03")
    terminal.answer("p 'here', 6 * 7", "q")
    session = project.clean(terminal.end())
    assert "('here', 42)" in session.text
    assert session.code == 2


def test_a_worker_that_dies_in_the_debugger(project: Project) -> None:
    project.write("test_it.py", BREAKPOINT)
    terminal = project.at_terminal("-v")
    terminal.answer("import os; os.kill(os.getpid(), 9)")
    session = project.clean(terminal.end())
    assert session.code == 1
    assert "cause: killed by signal 9 (SIGKILL)" in session.text
    assert "1 failed, 2 passed" in session.lines[-1]


def test_a_host_that_is_told_to_end_in_the_debugger(project: Project) -> None:
    project.write("test_it.py", BREAKPOINT)
    terminal = project.at_terminal()
    terminal.until(r"\(Pdb\) ")
    terminal.process.send_signal(signal.SIGTERM)
    session = project.clean(terminal.end())
    assert session.code == 143


@pytest.mark.slow
def test_an_error_of_the_host_in_the_debugger(project: Project) -> None:
    project.write(
        "broken.py",
        """
        import os
        def pytest_warning_recorded(warning_message):
            if "now" in str(warning_message.message) and not os.path.exists("/.envpar"):
                raise RuntimeError("of a plugin on the host")
        """,
    )
    project.write("test_it.py", "def test_a(pytestconfig):\n    breakpoint()\n")
    terminal = project.at_terminal("-p", "broken")
    terminal.until(r"\(Pdb\) ")
    warn = "pytestconfig.issue_config_time_warning(UserWarning('now'), stacklevel=1)"
    terminal.answer_now(f"import sys; {warn}", "c")
    session = terminal.end()
    assert session.restored, session.text
    assert "of a plugin on the host" in session.text
    assert session.code == 3


@pytest.mark.parametrize("options", [("--pdb",), ("--trace",)])
def test_several_stages_are_refused(project: Project, options: tuple[str, ...]) -> None:
    code, text = project.with_input(None, *options, stage="dev,qa")
    assert code == 4
    assert f"{options[0]} needs one stage, and this run has 2: dev, qa" in text
    assert f"pick one, for example --env=dev {options[0]}" in text


def test_xdist_refuses_and_auto_means_none(project: Project) -> None:
    module("xdist")
    project.write("test_it.py", "def test_a(): assert 0")
    code, text = project.with_input(None, "--pdb", "-n2")
    assert code == 4
    assert "--pdb is incompatible with distributing tests" in text
    terminal = project.at_terminal("--pdb", "-nauto")
    terminal.answer("c")
    session = project.clean(terminal.end())
    assert "1 failed" in session.lines[-1]


def test_podman(podman_project: Project) -> None:
    project = podman_project
    project.write("test_it.py", BREAKPOINT)
    terminal = project.at_terminal()
    terminal.answer("number + 1", "number = 42", "c")
    session = project.clean(terminal.end())
    assert session.code == 0
    assert "podman" in session.text
    assert "IO-capturing resumed" in session.text


class Relay(socketserver.ThreadingTCPServer):
    """Passes the Docker daemon on over TCP, so that it is an engine elsewhere, without this machine's files."""

    daemon_threads = True

    def finish_request(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Serve one connection to its end."""
        assert isinstance(request, socket.socket)
        with request, socket.socket(socket.AF_UNIX) as away:
            away.connect(DOCKER.removeprefix("unix://"))
            back = threading.Thread(target=_pump, args=(away, request), daemon=True)
            back.start()
            _pump(request, away)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def far() -> Iterator[str]:
    """The URL of an engine elsewhere."""
    with Relay(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_remote_engine(docker: Engine, far: str, make_project: Callable[[Engine, str], Project]) -> None:
    project = make_project(docker, far)
    project.write("test_it.py", BREAKPOINT)
    terminal = project.at_terminal()
    terminal.answer("number + 1", "number = 42", "c")
    session = project.clean(terminal.end())
    assert session.code == 0
    assert "source copy" in session.text
