"""Every key of a stage shows its effect inside, and a value that the engine refuses is told by its key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine


def test_environment(project: Project) -> None:
    project.stage(
        'env = { APP_ENV = "qa", EMPTY = "", ODD = "a=b \\"c\\" $HOME\\n" }',
        'pass-env = ["GIVEN", "ABSENT", "EMPTY_HERE"]',
    )
    project.write(
        "test_it.py",
        r"""
        import os
        def test_env():
            assert os.environ["APP_ENV"] == "qa"
            assert os.environ["EMPTY"] == ""
            assert os.environ["ODD"] == 'a=b "c" $HOME\n'
        def test_pass_env():
            assert os.environ["GIVEN"] == "by the host"
            assert os.environ["EMPTY_HERE"] == ""
            assert "ABSENT" not in os.environ
        def test_nothing_else_of_the_host():
            assert "SECRET_OF_THE_HOST" not in os.environ
        def test_nothing_of_ours():
            ours = [name for name in os.environ if "ENVPAR" in name.upper()]
            assert ours == []
            assert {name for name in os.environ if name.startswith("PYTEST")} == {
                "PYTEST_VERSION", "PYTEST_CURRENT_TEST"
            }
        """,
    )
    project.run(GIVEN="by the host", EMPTY_HERE="", SECRET_OF_THE_HOST="x").ok()


def test_limits_and_mounts(project: Project) -> None:
    """Keys that do not touch each other, in one container."""
    project.write("data/seen.txt", "host")
    project.stage(
        'memory = "300m"',
        "cpus = 1.5",
        "pids = 77",
        'shm-size = "33m"',
        'tmpfs = ["/scratch:size=5m", "/more"]',
        "ulimits = { nofile = 321, core = 0 }",
        'cap-drop = ["CHOWN"]',
        'runtime = "runc"',
        'platform = "linux/amd64"',
        'volumes = ["./data:/data:ro", "./data:/data-rw"]',
    )
    project.suite(
        """
        import os, resource, shutil, pytest
        def cgroup(*names):
            for name in names:
                try:
                    return open("/sys/fs/cgroup/" + name).read().split()
                except OSError:
                    pass
            raise AssertionError(names)
        def test_memory():
            assert cgroup("memory.max", "memory/memory.limit_in_bytes") == [str(300 << 20)]
        def test_cpus():
            try:
                quota, period = cgroup("cpu.max")
            except AssertionError:
                quota, = cgroup("cpu/cpu.cfs_quota_us")
                period, = cgroup("cpu/cpu.cfs_period_us")
            assert int(quota) / int(period) == 1.5
        def test_pids():
            assert cgroup("pids.max", "pids/pids.max") == ["77"]
        def test_shm_size():
            assert shutil.disk_usage("/dev/shm").total == 33 << 20
        def test_tmpfs():
            mounts = {line.split()[1]: line.split()[2] for line in open("/proc/mounts")}
            assert mounts["/scratch"] == mounts["/more"] == "tmpfs"
            assert shutil.disk_usage("/scratch").total == 5 << 20
        def test_ulimits():
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (321, 321)
            assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        def test_cap_drop(tmp_path):
            with pytest.raises(PermissionError):
                os.chown(tmp_path, 1, 1)
        def test_volumes():
            assert open("/data/seen.txt").read() == "host"
            with pytest.raises(OSError, match="Read-only"):
                open("/data/x", "w")
            with open("/data-rw/written.txt", "w") as file:
                file.write("inside")
        """
    ).ok()
    assert (project.root / "data" / "written.txt").read_text() == "inside"


def test_cap_drop_all(project: Project) -> None:
    project.stage('cap-drop = ["ALL"]')
    project.suite(
        """
        def test_none():
            found = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
            assert int(found[0], 16) == 0
        """
    ).ok()


@pytest.mark.parametrize(
    ("user", "uid", "gid"),
    [
        ("1234", 1234, 0),
        ("1000:1001", 1000, 1001),
        ("nobody", 65534, 65534),
        ("root", 0, 0),
        ("games:mail", 5, 8),
    ],
)
def test_user(user: str, uid: int, gid: int, project: Project) -> None:
    project.stage(f'user = "{user}"')
    project.suite(
        f"""
        import os, pathlib, tempfile
        def test_who(tmp_path):
            assert (os.getuid(), os.getgid()) == ({uid}, {gid})
            assert os.geteuid() == {uid}
        def test_the_tree_is_theirs_to_write(tmp_path):
            (tmp_path / "a").write_text("x")
            pathlib.Path("made").mkdir()
            pathlib.Path("made/by-them").write_text("x")
            assert pathlib.Path("made/by-them").stat().st_uid == {uid}
        def test_their_project_is_readable():
            assert "def test_who" in pathlib.Path(__file__).read_text()
        """
    ).ok()
    assert not (project.root / "made").exists()


def test_read_only_root(project: Project) -> None:
    project.stage("read-only = true", 'tmpfs = ["/tmp"]')
    project.suite(
        """
        import errno, pytest
        def test_read_only(tmp_path):
            (tmp_path / "a").write_text("fine")
            with pytest.raises(OSError) as info:
                open("/etc/x", "w")
            assert info.value.errno == errno.EROFS
            open("made", "w").close()  # the project itself stays writable
        """
    ).ok()
    assert not (project.root / "made").exists()


def test_read_only_root_and_a_user_of_its_own(project: Project) -> None:
    project.stage("read-only = true", 'user = "1000"', 'network = "none"')
    project.suite("import os\ndef test_a(): assert os.getuid() == 1000").ok()


def test_network(project: Project) -> None:
    suite = """
        import os
        def test_interfaces():
            assert sorted(os.listdir("/sys/class/net")) == {expected}
    """
    project.suite(suite.format(expected=["lo"])).ok()
    project.stage('network = "bridge"')
    project.suite(suite.format(expected=["eth0", "lo"])).ok()
    project.stage('network = "not-there"')
    project.run().refused("stage 'qa'", "network = 'not-there'", "hint: ")


def test_python_of_a_virtual_environment(project: Project, built: list[str]) -> None:
    project.write(
        "docker/Dockerfile", f"FROM {project.image}\nRUN python3 -m venv --without-pip /opt/theirs\n"
    )
    project.stage('build = { dockerfile = "docker/Dockerfile" }', 'python = "/opt/theirs/bin/python"')
    result = project.suite(
        """
        import subprocess, sys
        def test_prefix():
            assert sys.prefix == "/opt/theirs"
            assert sys.executable == "/opt/theirs/bin/python"
            assert subprocess.check_output([sys.executable, "-c", "import sys; print(sys.prefix)"], text=True) == (
                "/opt/theirs\\n"
            )
        """
    ).ok()
    built.append(_built(result.err))
    project.stage(f'image = "{built[0]}"', 'python = "/opt/theirs/bin/python"')
    project.run().ok()


def _built(text: str) -> str:
    return next(word for word in text.split() if word.startswith("pytest-envpar/"))


def test_python_that_is_not_there(project: Project) -> None:
    project.stage('python = "/opt/no/python"')
    project.run().refused('[tool.envpar.stages.qa] python = "/opt/no/python"', "[stage]")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('runtime = "kata-not-here"', "runtime = 'kata-not-here'"),
        ('platform = "linux/s390x"', "linux/s390x"),
        ('user = "nobody-of-this-name"', "user = 'nobody-of-this-name'"),
        ('memory = "1k"', "memory"),
        ("cpus = 5000", "cpus"),
        ('cap-drop = ["NOT_A_CAP"]', "cap-drop"),
        ('image = "localhost:1/not/there:1"', "localhost:1/not/there:1"),
        ('volumes = ["/not/on/the/host:/x"]', "volumes"),
    ],
)
def test_what_the_engine_refuses(line: str, shown: str, project: Project) -> None:
    project.stage(line)
    result = project.suite("def test_a(): pass").refused("stage 'qa'", shown)
    assert "test_a" not in result.out


# --- workdir: other paths inside -------------------------------------------------------------------------------


def test_workdir_maps_paths(project: Project) -> None:
    project.stage('workdir = "/inside/here"')
    project.write("pkg/sub/helper.py", "def boom():\n    raise ValueError('from the helper')\n")
    test = project.write(
        "pkg/sub/test_it.py",
        """
        import os, warnings
        import helper
        def test_where():
            assert os.getcwd() == "/inside/here"
            assert __file__ == "/inside/here/pkg/sub/test_it.py"
        def test_fails():
            helper.boom()
        def test_warns():
            warnings.warn("look")
        """,
    )
    junit = project.root / "out" / "junit.xml"
    result = project.run("-v", f"--junitxml={junit}", "--rootdir", str(project.root))
    assert result.code == 1, result.text
    assert "pkg/sub/test_it.py::test_where PASSED" in result.out
    assert "\npkg/sub/helper.py:2: ValueError" in result.out
    assert "at /inside/here" in result.out  # the header says that the path is another one
    xml = junit.read_text()
    assert 'classname="pkg.sub.test_it" name="test_fails"' in xml
    assert "pkg/sub/helper.py:2: ValueError" in xml
    for args in (
        [f"{test}::test_where"],
        [
            "--deselect=pkg/sub/test_it.py::test_fails",
            f"--ignore={project.root / 'nothing'}",
            str(test.parent),
        ],
        ["-c", str(project.write("other.ini", "[pytest]\n")), "-k", "where"],
    ):
        project.run(*args).ok()
    assert project.run("test_it.py::test_where", cwd=test.parent).code == 1  # its cwd is another one
    assert "1 passed" in project.run("test_it.py::test_warns", cwd=test.parent).ok().out


def test_workdir_of_copy(project: Project) -> None:
    project.stage('workdir = "/w"', top='source = "copy"')
    project.suite("import os\ndef test_a(): assert os.getcwd() == '/w' and os.path.exists('test_it.py')").ok()


def test_workdir_that_cannot_be(project: Project) -> None:
    project.stage('workdir = "/"')
    project.suite("def test_a(): pass").refused("workdir")
    project.stage('workdir = "/etc/passwd"')
    project.run().refused("workdir")


# --- extends, names, and what is not there ---------------------------------------------------------------------


def test_extends(project: Project) -> None:
    project.write(
        "envpar.toml",
        f"""
        engine = "unix:///var/run/docker.sock"
        [stages.base]
        image = "{project.image}"
        network = "none"
        env = {{ A = "base", B = "base" }}
        user = "1000"
        [stages.qa]
        extends = "base"
        env = {{ B = "qa" }}
        """,
    )
    project.suite(
        """
        import os
        def test_a():
            assert (os.environ["A"], os.environ["B"], os.getuid()) == ("base", "qa", 1000)
        """
    ).ok()
    assert project.run(stage="base").code == 1


@pytest.mark.parametrize(
    "option",
    [
        "--env-bisect=a..b",
    ],
)
def test_options_of_later_versions_are_refused(option: str, project: Project) -> None:
    project.suite("def test_a(): pass", option).refused(option.partition("=")[0], "[not-yet]", "hint: ")


def test_unknown_stage(project: Project) -> None:
    project.run(stage="qq").refused("qq", "qa")


def test_no_stage_is_named(project: Project) -> None:
    project.run("--env=", stage=None).refused("--env needs the name of a stage")


def test_no_configuration(project: Project) -> None:
    (project.root / "envpar.toml").unlink()
    project.run().refused("--env=qa: no stages are configured", str(project.root), "envpar init")


def test_mistakes_of_the_configuration_are_told(project: Project) -> None:
    project.stage('memry = "1g"', "cpus = 'two'")
    project.run().refused("memry", "memory", "cpus", "[config]")


def test_outside_of_the_project(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    test = outside / "test_out.py"
    test.write_text("def test_a(): pass\n")
    project.suite("def test_a(): pass")
    for args in ([str(test)], ["../elsewhere/test_out.py::test_a", "test_it.py"]):
        result = project.run(*args).refused("file or directory not found")
        assert f"{args[0]} is outside of the project {project.root}: it is not in the container" in result.out
    project.run(f"--rootdir={project.root}", cwd=outside).refused(str(outside), "outside", "hint: ")


def test_from_a_folder_of_the_project(project: Project) -> None:
    project.write("a/test_a.py", "import os\ndef test_a(): assert os.getcwd().endswith('/a')\n")
    project.write("b/test_b.py", "def test_b(): pass\n")
    folder = project.root / "a"
    assert "1 passed" in project.run(cwd=folder).ok().out
    result = project.run("../b/test_b.py", "test_a.py::test_a", cwd=folder).ok()
    assert result.line == "2 passed"


def test_a_stage_in_addopts(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\naddopts = --env=qa -q\n")
    result = project.suite("import os\ndef test_a(): assert os.path.exists('/.envpar')")
    assert project.run(stage=None).ok().line == "1 passed"
    assert result.code == 0


def test_envpar_run(project: Project) -> None:
    """The same command line, with everything on it that the host's pytest refuses before we are loaded."""
    project.write(
        "pytest.ini",
        """
        [pytest]
        minversion = 8.0
        pythonpath = src
        filterwarnings = error::theirs.Warned
        addopts = -p theirs -W ignore::theirs.Ignored
        """,
    )
    project.write(
        "src/theirs.py",
        """
        import os
        assert os.path.exists("/.envpar"), "imported on the host"
        class Warned(Warning): pass
        class Ignored(Warning): pass
        def pytest_addoption(parser): parser.addoption("--mine")
        """,
    )
    project.write("src/more.py", "import pytest\n@pytest.fixture\ndef more(): return 42\n")
    project.write(
        "test_it.py",
        """
        import warnings, pytest, theirs
        def test_a(request, more):
            assert (request.config.getoption("--mine"), more) == ("two words", 42)
            warnings.warn("no", theirs.Ignored)
            with pytest.raises(theirs.Warned):
                warnings.warn("yes", theirs.Warned)
        """,
    )
    result = project.run("--mine", "two words", command="run", PYTEST_PLUGINS="more").ok()
    assert result.line.startswith("1 passed")  # pytest 9.2 warns of a plugin that a filter imported
    assert (
        project.run("--mine", "two words", "-pmore", "-W", "ignore::theirs.Ignored", command="run").ok().code
        == 0
    )
    (project.root / "pytest.ini").unlink()
    assert project.run("-p", "more", may_trace=True).code != 0  # what the tolerant start is for
    inside = project.run("-p", "not_there_either", command="run", may_trace=True)  # pytest 8 shows one
    assert inside.code != 0
    assert "not_there_either" in inside.err + inside.out


def test_what_is_required_is_required_inside(project: Project, built: list[str]) -> None:
    """``required_plugins`` names distributions of the image; the host needs none of them and does not stop."""
    project.write("image/theirs.py", "def pytest_report_header(): return 'theirs is here'\n")
    project.write("image/info/METADATA", "Metadata-Version: 2.1\nName: pytest-theirs\nVersion: 1.5\n")
    project.write("image/info/entry_points.txt", "[pytest11]\ntheirs = theirs\n")
    project.write(
        "image/Dockerfile",
        f"""\
        FROM {project.image}
        COPY theirs.py /usr/local/lib/python3.11/dist-packages/
        COPY info /usr/local/lib/python3.11/dist-packages/pytest_theirs-1.5.dist-info
        """,
    )
    project.stage('build = { context = "image" }')
    project.write("pytest.ini", "[pytest]\nrequired_plugins = pytest-theirs>=1.2\n")
    there = project.suite("def test_a(): pass")
    built += re.findall(r"pytest-envpar/[\w./-]+:\w+", there.err)
    assert "theirs is here" in there.ok().out
    project.write("pytest.ini", "[pytest]\nrequired_plugins = pytest-theirs>=2 pytest-absent\n")
    absent = project.run()
    assert absent.code == 4, absent.text
    assert "Missing required plugins: pytest-absent, pytest-theirs>=2" in absent.err + absent.out


def test_a_conftest_with_an_env_option_of_its_own(project: Project) -> None:
    project.write("conftest.py", "def pytest_addoption(parser): parser.addoption('--env', default='none')\n")
    project.suite(
        """
        import os
        def test_a(request):
            inside = os.path.exists("/.envpar")
            assert request.config.getoption("--env") == ("none" if inside else "live")
        """
    )
    assert project.run(stage="live").ok().line == "1 passed"
    assert project.run("--envpar-stage=qa", stage=None).ok().line == "1 passed"


def test_the_tests_run_for_real(project: Project) -> None:
    """This suite's own measure: the same file gives other outcomes on the host."""
    project.suite("import os\ndef test_a(): assert os.path.exists('/.envpar')").ok()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project.root,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
