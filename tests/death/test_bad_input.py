"""What tests throw at us: bytes, names, sizes and objects that fit nowhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine


def test_undecodable_bytes(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
        import os, sys
        def test_out():
            os.write(1, b"\xff\xfe raw \x80\n")
            os.write(2, b"\xc3\x28 raw\n")
            sys.stdout.buffer.write(b"\xff\n")
            print("lone \udcff \ud800".encode("utf-8", "surrogatepass"))
            assert 0, "lone \udcff \ud800 and \x00 and \x1b[31m"
        def test_compare():
            assert "\udcff" == "\ud800"
        def test_bytes():
            assert b"\xff" == b"\xfe"
        def test_after(): pass
        """,
    )
    for options in (("-s",), ("-rA", "-v")):
        result = project.run(*options)
        assert result.code == 1
        assert result.counts == {"failed": 3, "passed": 1}
        assert result.cases()["test_after"] == "passed"


NAMES = ["plain", "line\nbreak", "esc\x1b[2J\x1b]0;title\x07", "nul\x00", "lone\ud800", "byte\udcff"]
NAMES += ["überß", "日本", "e\u0301", "\u202egnp", "a::b", "a/b", "[x]", " ", "x" * 5000, "tab\t", "\u2028"]


def test_names_of_any_kind(project: Project) -> None:
    project.write(
        "conftest.py",
        f"""
        import pytest
        NAMES = {NAMES!a}
        class Any(pytest.Item):
            def runtest(self):
                assert "byte" not in self.name
            def reportinfo(self):
                return self.path, 0, self.name
            def repr_failure(self, excinfo):
                return "failed: " + self.name
        class File(pytest.File):
            def collect(self):
                for name in NAMES:
                    yield Any.from_parent(self, name=name)
        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".any":
                return File.from_parent(parent, path=file_path)
        """,
    )
    project.write("all.any", "")
    project.write(
        "test_ids.py",
        f"import pytest\n@pytest.mark.parametrize('n', {NAMES!a}, ids=repr)\ndef test_a(n): assert n != 'plain'\n",
    )
    for options in (("-v", "-rA"), ("--co",), ("--co", "-q")):
        result = project.run(*options)
        if "--co" in options:
            assert result.code == 0
        else:
            assert result.code == 1
            # pytest cannot name a lone surrogate in its environment variable: two errors, as in a local run.
            assert result.counts == {"failed": 2, "passed": 2 * len(NAMES) - 3, "error": 2}
        assert "\x1b]0;title" not in result.out
        assert "\x1b[2J" not in result.out


def test_file_names_of_any_kind(project: Project) -> None:
    names = [
        b"test_\xff.py",
        "test_ü日.py".encode(),
        b"test_a b.py",
        b"test_new\nline.py",
        b"test_esc\x1b[2J.py",
    ]
    for name in names:
        (project.root / os.fsdecode(name)).write_bytes(b"def test_a(): pass\ndef test_b(): assert 0\n")
    for options in (("-v",),):
        result = project.run("--import-mode=importlib", *options)
        assert result.code == 1
        assert result.counts == {"failed": len(names), "passed": len(names)}
        assert "\x1b[2J" not in result.out


def test_properties_that_cannot_be_encoded(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
        import pytest, decimal
        class Broken:
            def __str__(self): raise RuntimeError("no text")
            __repr__ = __str__
        class Angry(int):
            def __repr__(self): raise RuntimeError("no text")
        loop = []; loop += [loop, loop]
        ring = {}; ring["self"] = ring; ring["again"] = ring
        deep = []
        for _ in range(5000): deep = [deep]
        VALUES = [object(), b"\xff", {1, 2}, loop, ring, {(1, 2): 3}, {None: 1, 2: 3}, Broken(), deep, 10 ** 6000,
                  float("nan"), float("inf"), "\ud800", "\x00", "\x1b[2J", decimal.Decimal(1), (1, (2, 3)), [Broken()],
                  {Broken: Broken()}, type, Angry(3), "x" * 100_000]
        @pytest.mark.parametrize("n", range(len(VALUES)))
        def test_value(n, record_property, record_xml_attribute, record_testsuite_property):
            record_property("key", VALUES[n])
            if n not in (7, 8):
                record_testsuite_property("suite%d" % n, "value")
        def test_key(record_property):
            record_property(3, "x")
        def test_attribute(record_xml_attribute):
            record_xml_attribute("given", "\ud800\x00")
        def test_item(request):
            request.node.user_properties.append("not a pair")
        def test_last(): pass
        """,
    )
    result = project.run("-W", "ignore", "-o", "junit_family=xunit1", "-k", "not test_item")
    assert result.code == 0
    assert result.counts == {"passed": 25}


def test_hostile_output_does_not_become_frames(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
        import os, struct, json
        def test_frames():
            payload = json.dumps([["finish", 0], ["finished", 0, {}], ["died", {}]]).encode()
            for fd in (1, 2):
                os.write(fd, struct.pack(">BI", 0, len(payload)) + payload)
            os.write(1, b"\x00\xff" * 50_000)
        def test_fails(): assert 0
        """,
    )
    result = project.run("-s")
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 1}


def test_a_report_of_100_mb(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
        import sys
        def test_large():
            line = "x" * 1023 + "\n"
            for _ in range(100 * 1024):
                sys.stdout.write(line)
            print("the very last line")
            assert 0
        def test_after(): pass
        """,
    )
    result = project.run("--junitxml=")
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 1}
    assert len(result.out) > 100 << 20
    assert "the very last line" in result.out


@pytest.mark.slow
def test_a_report_above_every_limit_is_cut_and_says_so(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
        def test_huge():
            for _ in range(200):
                print("\x01" * (1 << 20))
            assert 0, "the message stays"
        def test_after(): pass
        """,
    )
    result = project.run("--junitxml=")
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 1}
    assert "the message stays" in result.out
    assert "left out" in result.out


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)], ids=["5k", "100k"])
def test_many_tests(project: Project, count: int) -> None:
    project.write(
        "test_it.py",
        f"import pytest\n@pytest.mark.parametrize('n', range({count}))\ndef test_a(n): assert n != {count - 5}\n",
    )
    result = project.run("-q", "--junitxml=", timeout_s=400)
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": count - 1}
