"""Standard input inside: at a terminal, from a pipe, and none."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from .projects import same
from .terminal import PROMPT

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

ASKS = """
    import getpass, os, subprocess, sys
    def test_input():
        assert input("name? ") == "anna"
    def test_nobody_asks(): pass
    def test_password():
        assert getpass.getpass("word: ") == "secret"
    def test_child():
        print("child? ", end="", flush=True)
        assert subprocess.run(["head", "-n1"], stdout=subprocess.PIPE).stdout == b"line\\n"
    def test_streams():
        print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stderr.isatty())
    """
FAILS = "def test_a(): assert 6 == 7\ndef test_b(): breakpoint()\ndef test_c(): pass\n"


def test_tests_that_ask_the_user_are_as_locally(project: Project) -> None:
    project.write("test_it.py", ASKS)
    sessions = []
    for stage in (None, "qa"):
        terminal = project.at_terminal("-s", "-v", stage=stage)
        terminal.until(r"name\? ")
        terminal.type("anna\r")
        terminal.until("word: ")
        terminal.type("secret\r")
        terminal.until(r"child\? ")
        terminal.type("line\r")
        sessions.append(terminal.end())
    local, inside = sessions
    project.clean(inside)
    assert inside.code == local.code == 0, inside.text
    assert "True True True" in inside.text
    assert "secret" not in inside.text
    # Typed before it was read, a line is shown twice: by the user's terminal, and by the one inside.
    assert [line for line in same(inside.text) if line != "line"] == same(local.text)


def test_ctrl_c_while_a_test_asks(project: Project) -> None:
    project.write("test_it.py", ASKS)
    terminal = project.at_terminal("-s")
    terminal.until(r"name\? ")
    terminal.type("\x03")
    session = project.clean(terminal.end())
    assert session.code == 2
    assert "test_it.py:4: KeyboardInterrupt" in session.text


@pytest.mark.parametrize(
    ("data", "options"),
    [
        pytest.param(None, ("--pdb",), id="null-pdb"),
        pytest.param(b"p 6 * 7\nc\nc\n", ("--pdb",), id="commands-pdb"),
        pytest.param(b"word\nc\n", ("-s",), id="commands-s"),
        pytest.param(b"", ("--pdb",), id="empty-pdb", marks=pytest.mark.slow),
        pytest.param(None, ("-s",), id="null-s", marks=pytest.mark.slow),
        pytest.param(b"", ("-s",), id="empty-s", marks=pytest.mark.slow),
    ],
)
def test_what_is_no_terminal(project: Project, data: bytes | None, options: tuple[str, ...]) -> None:
    project.write("test_it.py", FAILS if options == ("--pdb",) else FAILS.replace("6 == 7", "input()"))
    options = (*options, "--tb=line")
    local = project.with_input(data, *options, stage=None)
    inside = project.with_input(data, *options)
    assert (inside[0], same(inside[1])) == (local[0], same(local[1])), "\n".join((inside[1], local[1]))


def test_a_pipe_is_read_to_its_end(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import hashlib, sys
        def test_a(): assert sys.stdin.buffer.readline() == b"first\\n"
        def test_b():
            rest = sys.stdin.buffer.read()
            assert len(rest) == 3_000_000
            print(hashlib.sha256(rest).hexdigest())
        """,
    )
    data = bytes(range(256)) * 12000
    rest = data[:3_000_000]
    code, text = project.with_input(b"first\n" + rest, "-s")
    assert code == 0, text
    assert hashlib.sha256(rest).hexdigest() in text


def test_a_terminal_and_output_that_is_none(project: Project) -> None:
    project.write(
        "test_it.py", "def test_a(): assert input('name? ') == 'anna'\ndef test_b():\n    breakpoint()\n"
    )
    terminal = project.at_terminal("-s", streams=(0, 2))
    terminal.type("anna\r")
    terminal.type("c\r")
    session = project.clean(terminal.end())
    assert session.code == 0, session.text
    assert PROMPT not in session.text
