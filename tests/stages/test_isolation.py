"""What the code under test can see of us, proven by a suite that runs through the real run."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from rig.needs import images

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = '''
    import importlib.metadata, importlib.util, multiprocessing, os, signal, subprocess, sys, threading
    import pytest

    LACKING = ["pluggy", "iniconfig", "packaging", "pygments", "coverage", "docker", "filelock", "py"] + (
        ["exceptiongroup", "tomli"] if sys.version_info >= (3, 11) else [])

    @pytest.mark.parametrize("name", LACKING)
    def test_what_the_image_lacks_cannot_be_imported(name):
        if name == "py":
            pytest.skip("pytest brings a module of this name for its old users")
        with pytest.raises(ModuleNotFoundError):
            __import__(name)
        assert name not in sys.modules
        assert importlib.util.find_spec(name) is None

    def test_of_us_only_the_names_for_tests_can_be_imported():
        import pytest_envpar
        assert pytest_envpar.__doc__.startswith("pytest-envpar inside a stage")
        for name in ("config", "engine", "session", "worker"):
            with pytest.raises(ModuleNotFoundError):
                __import__("pytest_envpar." + name)

    def test_no_distribution_is_added():
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("pytest")
        names = {each.metadata["Name"] for each in importlib.metadata.distributions()}
        assert not {name for name in names if "pytest" in name or name in LACKING}
        assert not importlib.metadata.entry_points().select(group="pytest11") if (
            sys.version_info >= (3, 10)) else True

    def test_sys_path():
        own = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.path[1:], sep='|')"], text=True)
        expected = own.strip().split("|")
        added = [entry for entry in sys.path if entry not in expected]
        # The project's folder (rootdir of this file), the folder of scripts or the cwd as pytest has it, and ours.
        ours = [entry for entry in added if "envpar" in entry and entry != os.getcwd()]
        assert ours == ["/.envpar/agent/site"], sys.path
        assert sys.path.index(ours[0]) > max(sys.path.index(entry) for entry in expected if entry in sys.path)
        assert set(added) - set(ours) <= {os.getcwd(), os.path.dirname(__file__), os.path.dirname(sys.executable)}

    def test_argv_and_main():
        assert os.path.basename(sys.argv[0]) in ("pytest", "__main__.py")
        main = sys.modules["__main__"]
        assert "envpar" not in repr(vars(main))

    def test_environment():
        ours = {name for name in os.environ if "ENVPAR" in name.upper() or name.startswith("PYTEST")}
        assert ours == {"PYTEST_VERSION", "PYTEST_CURRENT_TEST"}
        assert "PYTHONPATH" not in os.environ and "PYTHONDONTWRITEBYTECODE" not in os.environ

    @pytest.mark.parametrize("flags", [[], ["-S"], ["-I"]], ids=str)
    @pytest.mark.parametrize("name", ["pytest", "_pytest", "pytest_envpar", *LACKING])
    def test_children_see_nothing(name, flags):
        done = subprocess.run([sys.executable, *flags, "-c", "import " + name], capture_output=True, text=True)
        assert "ModuleNotFoundError" in done.stderr

    def test_children_inherit_nothing():
        code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        out = subprocess.check_output([sys.executable, "-c", code], text=True, close_fds=False)
        # 0, 1, 2 and the one that lists; nothing of ours passes an exec.
        assert len(eval(out)) <= 4, out

    def double(number):
        return 2 * number, os.getpid()

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_multiprocessing(method):
        with multiprocessing.get_context(method).Pool(2) as pool:
            answers = pool.map(double, range(4))
        assert [answer for answer, _ in answers] == [0, 2, 4, 6]
        assert os.getpid() not in {process for _, process in answers}

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_process_that_ends_badly_is_only_its_own(method):
        process = multiprocessing.get_context(method).Process(target=os._exit, args=(7,))
        process.start()
        process.join()
        assert process.exitcode == 7

    def test_not_the_first_process():
        assert os.getpid() != 1
        assert os.getppid() != 0

    def test_orphans_are_not_ours():
        """A grandchild whose parent is gone is adopted by process 1, and waiting for it is an error as anywhere."""
        code = "import subprocess; print(subprocess.Popen(['sleep', '0.2'], stdout=-3).pid)"
        orphan = int(subprocess.check_output([sys.executable, "-c", code]))
        with pytest.raises(ChildProcessError):
            os.waitpid(orphan, 0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM])
    def test_signals_to_itself(number):
        seen = []
        before = signal.signal(number, lambda *args: seen.append(args[0]))
        try:
            os.kill(os.getpid(), number)
        finally:
            signal.signal(number, before)
        assert seen == [number]

    def test_signals_are_as_python_sets_them():
        expected = {signal.SIGINT: signal.default_int_handler, signal.SIGPIPE: signal.SIG_IGN}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGPIPE):
            assert signal.getsignal(number) == expected.get(number, signal.SIG_DFL), number

    def test_threads():
        assert [each.name for each in threading.enumerate()] == ["MainThread"]

    def test_standard_streams(capfd):
        assert sys.stdin is not None
        os.write(1, b"one")
        subprocess.run(["sh", "-c", "echo two; echo three >&2"])
        assert capfd.readouterr() == ("onetwo\\n", "three\\n")

    def test_stdin_is_not_our_channel():
        assert subprocess.run(["cat"], capture_output=True, timeout=10).stdout == b""
'''


@pytest.mark.parametrize("image", ["envpar-base:py3.11", "envpar-base:py3.13", "envpar-base:py3.9"])
def test_the_code_under_test_sees_nothing_of_ours(image: str, project: Project) -> None:
    if image == "envpar-base:py3.11":
        image = project.image
    images(project.engine, [image])
    project.stage(f'image = "{image}"')
    project.suite(SUITE, "-q", "-p", "no:cacheprovider").ok()


def test_the_interpreter_ends_as_locally(project: Project) -> None:
    project.stage(top='artifacts = ["out/*"]')
    project.suite(
        """
        import gc, gzip, pathlib
        pathlib.Path("out").mkdir()

        class Held:
            def __init__(self):
                self.me = self
                self.file = gzip.open("out/held.gz", "wb")
                self.file.write(b"to the last byte")
            def __del__(self):
                write(self.file.name + ".note", "deleted")

        def write(name, text, path=pathlib.Path):
            path(name).write_text(text)

        HELD = Held()  # in a cycle: the interpreter's last search for garbage finds it

        def test_nothing_is_hidden_from_the_garbage_collector():
            assert gc.isenabled() and gc.get_freeze_count() == 0 and gc.callbacks == []
            assert any(each is pathlib.Path for each in gc.get_objects())
        """
    ).ok()
    with gzip.open(project.root / "out" / "held.gz") as file:
        assert file.read() == b"to the last byte"
    assert (project.root / "out" / "held.gz.note").read_text() == "deleted"
