"""``--env-pollution``: what each test left on the file system, and which failing test met it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rig.runs import Ran

    from .projects import Project

pytestmark = pytest.mark.engine

OPTION = "--env-pollution"


def section(result: Ran) -> list[str]:
    """The lines below the title of the section."""
    lines = result.out.splitlines()
    start = next((n for n, line in enumerate(lines) if line.strip("=") == " pollution "), None)
    assert start is not None, result.text
    end = next(n for n, line in enumerate(lines) if n > start and line.startswith(("envpar:", "=====")))
    return lines[start + 1 : end]


def left(result: Ran) -> dict[str, list[str]]:
    """Of a run with ``-v``: the paths that each one left, by the end of its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in section(result)[1:]:
        if line.startswith("  "):
            found[name].append(line.strip())
        elif " failed and " not in line:
            name = line.rpartition(": ")[0].rpartition("::")[2]
            found[name] = []
    return found


def test_what_each_test_left(project: Project) -> None:
    result = project.suite(
        r"""
        import ctypes, os, pathlib, pytest, shutil, sqlite3, subprocess, tempfile

        def sh(script): subprocess.run(["sh", "-c", script], check=True)

        def test_creates(): open("/tmp/created", "w").close()
        def test_changes_and_puts_the_time_back():
            before = os.stat("/etc/passwd")
            content = bytearray(pathlib.Path("/etc/passwd").read_bytes())
            content[0] ^= 1
            pathlib.Path("/etc/passwd").write_bytes(content)
            os.utime("/etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns))
        def test_deletes(): os.remove("/etc/issue")
        def test_renames(): os.rename("/etc/issue.net", "/etc/issue.new")
        def test_mode(): os.chmod("/etc/profile", 0o600)
        def test_folder(): shutil.copytree("/etc/skel", "/srv/skel")
        def test_removes_folder(): shutil.rmtree("/etc/skel")
        def test_of_the_project(): open("made.txt", "w").close()
        def test_child(): sh("mkdir /opt/a && echo 1 > /opt/a/b && echo 1 >> /etc/shells && rm /etc/fstab")
        def test_child_mode(): sh("chmod 600 /etc/nsswitch.conf")
        def test_child_replaces(): sh("cp /etc/group /etc/new && echo >> /etc/new && mv /etc/new /etc/group")
        def test_detached_child():
            child = subprocess.Popen(["sh", "-c", "echo 1 > /var/tmp/late"], start_new_session=True)
            child.wait()
        def test_library():
            libc = ctypes.CDLL(None)
            libc.close(libc.creat(b"/srv/library", 0o644))
        def test_sqlite():
            database = sqlite3.connect("/srv/data.db")
            database.execute("create table t (a)")
            database.commit()
            database.close()
        def test_later_child_of_an_older_folder(): sh("echo 1 > /opt/a/c")
        def test_names(): open(b"/tmp/\x1b[31m\xff\n", "w").close()
        """,
        OPTION,
        "-v",
        "--junitxml=junit.xml",
    ).ok()
    assert left(result) == {
        "test_creates": ["+ /tmp/created"],
        "test_changes_and_puts_the_time_back": ["~ /etc/passwd"],
        "test_deletes": ["- /etc/issue"],
        "test_renames": ["- /etc/issue.net", "+ /etc/issue.new"],
        "test_mode": ["~ /etc/profile (mode)"],
        "test_folder": [
            "+ /srv/skel",
            "+ /srv/skel/.bash_logout",
            "+ /srv/skel/.bashrc",
            "+ /srv/skel/.profile",
        ],
        "test_removes_folder": [
            "- /etc/skel",
            "- /etc/skel/.bash_logout",
            "- /etc/skel/.bashrc",
            "- /etc/skel/.profile",
        ],
        "test_of_the_project": [f"+ {project.root}/made.txt"],
        "test_child": ["- /etc/fstab", "~ /etc/shells", "+ /opt/a", "+ /opt/a/b"],
        "test_child_mode": ["~ /etc/nsswitch.conf (mode, owner or times)"],
        "test_child_replaces": ["~ /etc/group"],
        "test_detached_child": ["+ /var/tmp/late"],
        "test_library": ["+ /srv/library"],
        "test_sqlite": ["+ /srv/data.db"],
        "test_later_child_of_an_older_folder": ["+ /opt/a/c"],
        "test_names": [r"+ /tmp/\x1b[31m\udcff\n"],
    }, result.text
    assert section(result)[0] == (
        "16 tests left something on the file system; paths in all: 14 created, 5 changed, 7 deleted"
    )
    # All that the comparison with the image shows has somebody's name on it.
    assert "not attributed" not in result.out
    cases = {
        case.get("name"): case for case in ET.parse(project.root / "junit.xml").getroot().iter("testcase")
    }
    properties = {
        name: each.get("value")
        for name, case in cases.items()
        for each in case.iter("property")
        if each.get("name") == "envpar_pollution"
    }
    assert properties["test_child"] == "created 2, changed 1, deleted 1"
    assert len(properties) == 16


def test_a_suite_that_cleans_up_leaves_nothing(project: Project) -> None:
    """Also not by pytest's own folders, by bytecode, and by fixtures while they live."""
    project.write("helper.py", "answer = 42\n")
    result = project.suite(
        """
        import importlib, os, pathlib, pytest, shutil, subprocess, sys, tempfile

        @pytest.fixture(scope="session")
        def store():
            os.mkdir("/srv/store")
            pathlib.Path("/srv/store/data").write_text("0")
            yield pathlib.Path("/srv/store")
            shutil.rmtree("/srv/store")
        @pytest.fixture(scope="module", autouse=True)
        def other():
            pathlib.Path("/srv/other").write_text("0")
            yield
            os.remove("/srv/other")
        @pytest.fixture
        def mine():
            pathlib.Path("/srv/mine").write_text("0")
            yield
            os.remove("/srv/mine")

        def test_nothing(): pass
        def test_tmp_path(tmp_path, tmp_path_factory):
            (tmp_path / "a").write_text("a")
            (tmp_path_factory.mktemp("more") / "b").write_text("b")
        def test_tempfile():
            with tempfile.TemporaryDirectory() as name: open(name + "/a", "w").close()
            with tempfile.NamedTemporaryFile() as file: file.write(b"x")
        def test_bytecode():
            import helper
            subprocess.run([sys.executable, "-c", "import helper"], check=True)
        def test_puts_back():
            path = pathlib.Path("/etc/passwd")
            text, mode = path.read_text(), path.stat().st_mode
            path.write_text("other")
            path.chmod(0o600)
            path.write_text(text)
            path.chmod(mode)
        def test_moves_away_and_back():
            os.rename("/etc/issue", "/etc/away")
            os.rename("/etc/away", "/etc/issue")
        def test_opens_for_writing(): open("/etc/profile", "a").close()
        def test_times(): os.utime("/etc/profile")
        def test_child(): subprocess.run(["sh", "-c", "mkdir /opt/a && echo > /opt/a/b && rm -r /opt/a"], check=True)
        def test_fixture(mine): pass
        def test_in_the_store(store): (store / "more").write_text("1")
        def test_changes_the_store(store): (store / "data").write_text("1")
        def test_reads_the_store(store): assert (store / "data").read_text() == "1"
        """,
        OPTION,
    ).ok()
    assert section(result) == ["no test left anything on the file system"], result.text


def test_fixtures_are_named(project: Project) -> None:
    result = project.suite(
        """
        import pathlib, pytest
        pathlib.Path("/srv/import").write_text("0")
        @pytest.fixture(scope="session")
        def whole(): pathlib.Path("/srv/session").write_text("0")
        @pytest.fixture(scope="module")
        def part():
            yield
            pathlib.Path("/srv/after").write_text("0")
        class TestClass:
            @pytest.fixture(scope="class")
            def group(self): pathlib.Path("/srv/class").write_text("0")
            def test_b(self, group): pass
        def test_a(whole, part): pathlib.Path("/srv/test").write_text("0")
        """,
        OPTION,
    ).ok()
    assert sorted(section(result)[1:]) == [
        "class fixture group, set up for test_it.py::TestClass::test_b: created 1 (+ /srv/class)",
        "session fixture whole, set up for test_it.py::test_a: created 1 (+ /srv/session)",
        # Its teardown runs in that of the last test which it serves.
        "test_it.py::test_a: created 2 (+ /srv/after, + /srv/test)",
        "the start of the session: created 1 (+ /srv/import)",
    ]


def test_who_left_what_a_failing_test_met(project: Project) -> None:
    result = project.suite(
        """
        import os, pathlib, pytest, subprocess

        @pytest.fixture(scope="session")
        def shared():
            pathlib.Path("/srv/shared").write_text("1")
            yield
            os.remove("/srv/shared")

        def test_before(): assert open("/etc/issue").read() == "other"
        def test_polluter():
            pathlib.Path("/tmp/state.json").write_text("{}")
            os.remove("/etc/issue")
            os.mkdir("/opt/made")
            pathlib.Path("/srv/flag").write_text("")
            pathlib.Path("/srv/by-child").write_text("")
            for n in range(12): pathlib.Path(f"/var/{n:02}").write_text("")
        def test_many():
            for n in range(12): open(f"/var/{n:02}").close()
            assert False
        def test_opens(): assert pathlib.Path("/tmp/state.json").read_text() == "x"
        def test_deleted(): open("/etc/issue")
        def test_makes(): os.mkdir("/opt/made")
        def test_lists(): assert os.listdir("/opt") == []
        def test_looks(): assert not os.path.exists("/srv/flag")
        def test_child(): assert subprocess.run("cat /srv/by-* && false", shell=True).returncode == 0
        def test_innocent(): assert os.path.exists("/srv/fla")
        def test_passes(): open("/tmp/state.json").close()
        def test_uses_a_fixture(shared): assert open("/srv/shared").read() == "2"
        @pytest.fixture
        def reads(): assert open("/tmp/state.json").read() == "y"
        def test_setup(reads): pass
        """,
        OPTION,
    )
    assert result.line == "10 failed, 2 passed, 1 error", result.text
    polluter = "which test_it.py::test_polluter"
    told = {
        line.partition(" failed and ")[0].rpartition("::")[2]: line.partition(" failed and ")[2]
        for line in section(result)
        if " failed and " in line
    }
    assert told == {
        "test_opens": f"opened /tmp/state.json, {polluter} created",
        "test_deleted": f"tried to open /etc/issue, {polluter} deleted",
        "test_makes": f"tried to make /opt/made, {polluter} created",
        "test_lists": f"listed the folder of /opt/made, {polluter} created",
        "test_looks": f"its failure names /srv/flag, {polluter} created",
        "test_child": f"opened /srv/by-child, {polluter} created",
        "test_many": "met 2 more paths",
        "test_setup": f"opened /tmp/state.json, {polluter} created",
    }
    assert "---- envpar pollution ----" in result.out
    assert "\nand 2 more paths\n" in result.out
    assert f"\nthe test opened /tmp/state.json, {polluter} created\n" in result.out


def test_a_test_that_takes_its_worker_along(project: Project) -> None:
    """The next worker in the same container tells what it has left, and knows what others had."""
    result = project.suite(
        """
        import os, pathlib, subprocess
        def test_first():
            pathlib.Path("/srv/first").write_text("1")
            os.mkdir("/srv/folder")
            os.remove("/etc/issue.net")
        def test_clean(): pass
        def test_dies():
            pathlib.Path("/srv/dies").write_text("1")
            pathlib.Path("/srv/folder/dies").write_text("1")
            os.remove("/etc/issue")
            subprocess.run("echo >> /etc/profile", shell=True)
            os._exit(3)
        def test_last(): pathlib.Path("/srv/last").write_text("1")
        def test_fails(): assert open("/srv/first").read() == open("/srv/dies").read() == "2"
        """,
        OPTION,
        "-v",
    )
    assert result.line == "2 failed, 3 passed", result.text
    assert left(result) == {
        "test_first": ["- /etc/issue.net", "+ /srv/first", "+ /srv/folder"],
        "test_dies (its worker died)": [
            "- /etc/issue",
            "~ /etc/profile",
            "+ /srv/dies",
            "+ /srv/folder/dies",
        ],
        "test_last": ["+ /srv/last"],
    }, result.text
    assert "the test opened /srv/first, which test_it.py::test_first created" in result.out
    assert "the test opened /srv/dies, which test_it.py::test_dies (its worker died) created" in result.out


def test_in_a_container_of_its_own_nothing_is_left_by_others(project: Project) -> None:
    result = project.suite(
        """
        import pathlib
        pathlib.Path("/srv/import").write_text("0")
        def test_a(): pathlib.Path("/tmp/state").write_text("1")
        def test_b(): assert not pathlib.Path("/tmp/state").exists(); pathlib.Path("/tmp/state").write_text("2")
        def test_c(): open("/tmp/state")
        """,
        OPTION,
        "--env-fresh=test",
    )
    assert result.line == "1 failed, 2 passed", result.text
    assert sorted(section(result)[1:]) == [
        "test_it.py::test_a: created 1 (+ /tmp/state)",
        "test_it.py::test_b: created 1 (+ /tmp/state)",
        "the start of the session: created 1 (+ /srv/import)",
    ]


def test_a_root_that_is_read_only(project: Project) -> None:
    project.stage("read-only = true", 'tmpfs = ["/tmp"]', top='source = "mount"')
    result = project.suite(
        """
        import pytest
        def test_a(): open("/tmp/a", "w").close()
        def test_b():
            with pytest.raises(OSError): open("/etc/a", "w")
        """,
        OPTION,
    ).ok()
    assert section(result)[1:] == ["test_it.py::test_a: created 1 (+ /tmp/a)"]


def test_a_user_without_rights(project: Project) -> None:
    project.stage('user = "1000"', 'cap-drop = ["ALL"]', top='source = "mount"')
    result = project.suite('def test_a(): open("/tmp/a", "w").close()', OPTION).ok()
    assert section(result)[1:] == ["test_it.py::test_a: created 1 (+ /tmp/a)"]


@pytest.mark.slow
def test_more_than_the_kernel_remembers(project: Project) -> None:
    """The queue of events holds some ten thousand; what overflows is found by looking at everything."""
    result = project.suite(
        """
        import os, pathlib, subprocess, sys
        MANY = "import os\\nos.makedirs('/srv/many')\\nfor n in range(20000): open('/srv/many/%d' % n, 'w').close()\\n"
        MANY += "open('/etc/profile', 'a').write('#')"
        def test_many(): subprocess.run([sys.executable, "-c", MANY], check=True)
        def test_in_between(): pathlib.Path("/tmp/small").write_text("")
        FLOOD = "import os\\nfor n in range(9000): open('/tmp/%d' % n, 'w').close(); os.remove('/tmp/%d' % n)\\n"
        FLOOD += "open('/etc/shells', 'a').write('#'); os.remove('/etc/issue')"
        def test_flood(): subprocess.run([sys.executable, "-c", FLOOD], check=True)
        def test_one(): pathlib.Path("/srv/one").write_text("")
        """,
        OPTION,
    ).ok()
    lines = section(result)
    assert lines[0].endswith("20003 created, 2 changed, 1 deleted"), result.text
    assert lines[1].startswith(
        "test_it.py::test_many: created 20001, changed 1 (~ /etc/profile, + /srv/many, "
    )
    assert lines[2:] == [
        "test_it.py::test_in_between: created 1 (+ /tmp/small)",
        "test_it.py::test_flood: changed 1, deleted 1 (- /etc/issue, ~ /etc/shells)",
        "test_it.py::test_one: created 1 (+ /srv/one)",
    ]


@pytest.mark.slow
def test_a_hundred_thousand_files_in_bounded_memory(project: Project) -> None:
    project.stage('memory = "200m"')
    result = project.suite(
        """
        import os, resource
        def test_before():
            global BEFORE
            BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        def test_many():
            os.mkdir("/srv/many")
            for number in range(100_000):
                open("/srv/many/%d" % number, "w").close()
        def test_after():
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - BEFORE < 100_000
        """,
        OPTION,
    ).ok()
    assert "test_it.py::test_many: created 100001 (" in result.out


def test_without_the_option_there_is_nothing_of_it(project: Project) -> None:
    result = project.suite(
        """
        import sys
        def test_a():
            open("/tmp/a", "w").close()
            assert not any(name in sys.modules for name in ("_envpar_agent.pollution", "_envpar_agent.audit"))
        """
    ).ok()
    assert "pollution" not in result.out


def test_it_needs_a_stage(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass")
    project.run(OPTION, stage=None).refused("--env-pollution", "this run has none", "--env=STAGE")
    assert project.run(OPTION, "--help", stage=None).code == 0
