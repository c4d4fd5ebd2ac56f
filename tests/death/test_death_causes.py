"""A test that takes its worker with it fails with the cause, and the rest of the suite goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

DEATHS = {
    "exit_0": ("os._exit(0)", "exit code 0"),
    "exit_3": ("os._exit(3)", "exit code 3"),
    "segv": ("ctypes.string_at(0)", "SIGSEGV"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "abort": ("os.abort()", "SIGABRT"),
    "stack": ("signal.signal(signal.SIGSEGV, signal.SIG_DFL); eat(0)", "SIGSEGV"),
}
HEAD = """
import ctypes, os, re, signal, sys, threading
import pytest
"""


def test_each_cause_is_named_and_every_other_test_runs(project: Project) -> None:
    text = HEAD + "def eat(n):\n    sys.setrecursionlimit(10**9)\n    repeat = re.sub\n"
    text += "    return repeat('x', lambda m: eat(n + 1), 'x')\n"
    text += "@pytest.fixture(scope='module')\ndef held():\n    yield 1\n    print('torn down')\n"
    text += "def test_first(held):\n    print('hello')\n"
    for name, (code, _) in DEATHS.items():
        text += f"def test_{name}(held):\n    print('last words of {name}', flush=True)\n"
        text += f"    os.write(2, b'raw words of {name}\\n')\n    {code}\n"
        text += f"def test_after_{name}(held):\n    assert held\n"
    project.write("test_it.py", text)
    result = project.run("-v", "-s")
    assert result.code == 1
    assert result.counts == {"failed": len(DEATHS), "passed": len(DEATHS) + 1}
    cases = result.cases()
    for name, (_, cause) in DEATHS.items():
        assert cases[f"test_{name}"] == "failure"
        assert cases[f"test_after_{name}"] == "passed"
        told = result.text.split(f"test_it.py::test_{name} crashed the worker", 1)[1].split("____", 1)[0]
        assert cause in told
        assert f"raw words of {name}" in told


def test_memory_limit_and_peak_are_named(project: Project) -> None:
    project.stage('memory = "64m"')
    project.write(
        "test_it.py",
        """
        def test_before(): pass
        def test_eats():
            hold = []
            while True:
                hold.append(bytearray(1 << 20))
        def test_after(): pass
        """,
    )
    result = project.run()
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 2}
    assert "cause: killed: memory limit 64 MiB, peak 6" in result.text
    assert result.cases() == {"test_before": "passed", "test_eats": "failure", "test_after": "passed"}


def test_memory_limit_during_collection(project: Project) -> None:
    project.stage('memory = "64m"')
    project.write("test_a.py", "def test_a(): pass\n")
    project.write("test_b.py", "hold = []\nwhile True:\n    hold.append(bytearray(1 << 20))\n")
    result = project.run()
    assert result.code == 2
    assert "importing test_b.py crashed the worker" in result.text
    assert "memory limit 64 MiB" in result.text


@pytest.mark.parametrize("code", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_death_while_a_file_is_imported(project: Project, code: str) -> None:
    project.write("test_a.py", "def test_a(): pass\n")
    project.write("test_b.py", f"import os, sys\nprint('importing b', flush=True)\n{code}\n")
    project.write("test_c.py", "def test_c(): pass\n")
    result = project.run()
    assert result.code == 2
    assert "importing test_b.py crashed the worker" in result.text
    assert result.counts == {"error": 1}


def test_death_of_conftest(project: Project) -> None:
    project.write("conftest.py", "import os\nos._exit(5)\n")
    project.write("test_a.py", "def test_a(): pass\n")
    result = project.run()
    assert result.code == 3
    assert "died before it had a session" in result.text
    assert "exit code 5" in result.text


def test_death_in_the_teardown_of_a_session_fixture(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pytest
        @pytest.fixture(scope="session", autouse=True)
        def everything():
            yield
            os.write(1, b"going down")
            os._exit(0)
        def test_a(): pass
        def test_b(): pass
        """,
    )
    result = project.run("-v")
    assert result.code == 1
    assert result.cases()["test_a"] == "passed"
    assert "test_it.py::test_b crashed the worker" in result.text
    assert "exit code 0" in result.text


def test_death_at_the_end_of_a_session_without_tests(project: Project) -> None:
    project.write("conftest.py", "import os\ndef pytest_sessionfinish(): os._exit(6)\n")
    result = project.run()
    assert result.code in (1, 5)
    assert "the end of the session crashed the worker of stage qa" in result.text
    assert "exit code 6" in result.text


def test_death_after_the_session(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import atexit, ctypes
        def test_a():
            atexit.register(ctypes.string_at, 0)
        """,
    )
    result = project.run()
    assert result.code == 1
    assert result.counts == {"passed": 1}
    assert "envpar: the worker died after its session: killed by signal 11 (SIGSEGV)" in result.text


def test_many_deaths_are_bounded_and_the_rest_is_counted(project: Project) -> None:
    project.write(
        "test_it.py",
        "import os, pytest\n@pytest.mark.parametrize('n', range(30))\ndef test_dies(n): os._exit(3)\n",
    )
    result = project.run()
    assert result.code == 2
    assert result.counts == {"failed": 11}
    assert "11 workers of stage qa died; 19 tests were not run" in result.text


@pytest.mark.parametrize(("option", "shown"), [("-x", 1), ("--maxfail=2", 2)])
def test_a_death_counts_as_a_failure(project: Project, option: str, shown: int) -> None:
    project.stage(top='artifacts = ["ran/*"]')
    project.write(
        "test_it.py",
        """
        import os, pathlib, pytest
        @pytest.fixture(autouse=True)
        def ran(request):
            pathlib.Path("ran").mkdir(exist_ok=True)
            pathlib.Path("ran", request.node.name).touch()
        def test_a(): pass
        def test_dies(): os._exit(1)
        def test_fails(): assert 0
        def test_b(): pass
        def test_c(): pass
        """,
    )
    result = project.run(option)
    assert result.code == 1
    assert result.counts == {"failed": shown, "passed": 1}
    assert f"stopping after {shown} failures" in result.text
    ran = {path.name for path in (project.root / "ran").iterdir()}
    assert ran == {"test_a", "test_dies", "test_fails"} - ({"test_fails"} if shown == 1 else set())


def test_with_x_nothing_beyond_the_failure_has_run(project: Project) -> None:
    project.stage(top='artifacts = ["ran/*"]')
    project.write(
        "test_it.py",
        """
        import pathlib, pytest
        @pytest.mark.parametrize("n", range(30))
        def test_a(n):
            pathlib.Path("ran").mkdir(exist_ok=True)
            pathlib.Path("ran", str(n)).touch()
            assert n not in (5, 7)
        """,
    )
    for option, failed, passed in (("-x", 1, 5), ("--maxfail=2", 2, 6)):
        result = project.run(option)
        assert result.code == 1
        assert result.counts == {"failed": failed, "passed": passed}
        assert len(list((project.root / "ran").iterdir())) == failed + passed


def test_a_child_that_returns_into_pytest_does_not_speak(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pathlib
        def test_a(): pass
        def test_forks():
            global child
            child = os.fork()
        def test_b():
            if child:
                os.waitpid(child, 0)
        def test_c(): pass
        """,
    )
    result = project.run("-v")
    assert result.code == 0
    assert result.counts == {"passed": 4}


def test_background_processes_hold_nobody_up(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, subprocess
        def test_starts():
            subprocess.Popen(["sleep", "1000"])
        def test_detached():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
        def test_dies():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            os._exit(1)
        def test_nothing_is_left_by_the_dead_one():
            names = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with open("/proc/%s/cmdline" % pid) as file:
                    names.append(file.read())
            assert not [name for name in names if "sleep" in name]
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
        """,
    )
    result = project.run()
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 3}


def test_a_flood_of_a_background_process(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, subprocess
        def test_floods():
            subprocess.Popen("yes", start_new_session=True)
        def test_dies():
            os._exit(1)
        def test_after(): pass
        """,
    )
    result = project.run("-s")
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 2}


def test_descriptors(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os
        def test_redirects():
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
        def test_after_redirect(): print("seen?")
        def test_closes_0_to_2():
            os.closerange(0, 3)
        def test_after_0_to_2(): pass
        """,
    )
    result = project.run("--capture=sys")
    assert result.code == 0
    assert result.counts == {"passed": 4}


def test_all_descriptors_closed(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os
        def test_a(): pass
        def test_closes():
            os.closerange(3, 65536)
        def test_b(): pass
        """,
    )
    result = project.run("--capture=sys")
    assert result.code == 1
    assert result.cases()["test_a"] == "passed"
    assert result.cases()["test_closes"] == "failure"
    assert result.cases()["test_b"] == "passed"
    assert "descriptor" in result.text


def test_a_changed_world(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, sys, time
        def test_cwd():
            os.chdir("/")
        def test_environ():
            os.environ.clear()
        def test_time(monkeypatch):
            global real
            real = time.time, time.monotonic, time.perf_counter
            time.time = time.monotonic = time.perf_counter = lambda: 0.0
        def test_time_stands():
            assert time.time() == 0.0
            time.time, time.monotonic, time.perf_counter = real
        def test_stdout():
            sys.stdout = sys.stderr = None
        def test_stdout_object():
            sys.stdout = sys.__stdout__ = object()
        def test_recursion():
            def down(): down()
            try:
                down()
            except RecursionError:
                pass
        def test_recursion_fails():
            def down(): down()
            down()
        def test_limit():
            sys.setrecursionlimit(100)
        def test_umask_and_root():
            os.umask(0o777)
        def test_last(): pass
        """,
    )
    for options in ((), ("-s",)):
        result = project.run(*options)
        assert result.code == 1
        assert result.counts == {"failed": 1, "passed": 10}


def test_threads_at_the_end(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import threading, time
        def test_thread():
            threading.Thread(target=time.sleep, args=(1000,)).start()
        """,
    )
    result = project.run()
    assert result.code == 0
    assert "did not leave within 5 seconds" in result.text
