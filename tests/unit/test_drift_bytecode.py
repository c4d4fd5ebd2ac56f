"""Compiled modules past the name of the file that they were compiled from: alike, or anything else at all."""

from __future__ import annotations

import marshal
import py_compile
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_envpar.drift.bytecode import HEADER, alike_but_for_filename
from pytest_envpar.drift.content import alike_but_for_noise

DATA = Path(__file__).parent / "data" / "pyc"
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
KNOWN = pytest.mark.skipif(
    f"{sys.version_info[0]}.{sys.version_info[1]}" not in VERSIONS, reason="a Python that is not known"
)


def compiled(folder: Path, source: str, name: str) -> bytes:
    file = folder / "source.py"
    file.write_text(source)
    target = folder / "target.pyc"
    py_compile.compile(str(file), cfile=str(target), dfile=name, doraise=True)
    return target.read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_modules_of_each_python(version: str) -> None:
    one, other = ((DATA / f"{version}-{name}.bin").read_bytes() for name in ("one", "other"))
    assert one != other
    assert len(one) != len(other)
    assert alike_but_for_filename(one, other)
    assert alike_but_for_noise("/x.pyc", one, other)
    assert alike_but_for_filename(one, one[:8] + b"othertim" + one[HEADER:])
    # Every other byte counts: none can be another one.
    start = one.index(b"Something of everything")
    for at in (HEADER, start, len(one) - 1):
        broken = one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :]
        assert not alike_but_for_filename(broken, other)
    assert not alike_but_for_filename(one, other[:-1])
    assert not alike_but_for_filename(one, other + b"N")
    assert not alike_but_for_filename(one, b"\x00" + other[1:])


@KNOWN
@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [
        ("def f():\n    return 1\n", "def f():\n    return 1\n", True),
        ("def f():\n    return 1\n", "def f():\n    return 2\n", False),
        ("def f():\n    return 1\n", "\ndef f():\n    return 1\n", False),
        ("x = 'a'\n", "x = 'ab'\n", False),
        # Its own name as a value is no name of a file.
        ("x = '/a.py'\n", "x = '/b/c.py'\n", False),
    ],
)
def test_code_that_differs(tmp_path: Path, before: str, after: str, alike: bool) -> None:
    one = compiled(tmp_path, before, "/a.py")
    other = compiled(tmp_path, after, "/b/c.py")
    assert alike_but_for_filename(one, other) is alike


def test_a_name_of_a_file_that_is_also_a_value() -> None:
    # A code object of Python 3.11 whose second constant refers to its file's name.
    def module(name: bytes) -> bytes:
        text = b"\xda" + bytes([len(name)]) + name
        inner = b"\x63" + bytes(20) + b"s\0\0\0\0" + b")\0" * 3 + b"s\0\0\0\0" + text + b"z\1f" * 2 + bytes(4)
        inner += b"s\0\0\0\0" * 2
        return b"\xa7\r\r\n" + bytes(12) + b")\2" + inner + b"r\0\0\0\0"

    assert alike_but_for_filename(module(b"/a"), module(b"/a"))
    assert not alike_but_for_filename(module(b"/a"), module(b"/b"))


def test_pythons_that_are_not_known_are_told_to_differ() -> None:
    one, other = ((DATA / f"3.13-{name}.bin").read_bytes() for name in ("one", "other"))
    later = b"\xff\xff\r\n"
    assert not alike_but_for_filename(later + one[4:], later + other[4:])
    assert alike_but_for_filename(later + one[4:], later + bytes(12) + one[HEADER:])


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(VERSIONS))
def test_any_bytes(before: bytes, after: bytes, version: str) -> None:
    header = (DATA / f"{version}-one.bin").read_bytes()[:HEADER]
    found = alike_but_for_filename(header + before, header + after)
    assert found is False or before == after or b"c" in before or b"\xe3" in before


@given(st.data())
def test_modules_with_bytes_changed(data: st.DataObject) -> None:
    one, other = ((DATA / f"3.11-{name}.bin").read_bytes() for name in ("one", "other"))
    changed = bytearray(other)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(HEADER, len(other) - 1))] = data.draw(st.integers(0, 255))
    if alike_but_for_filename(one, bytes(changed)):
        # Only the name of the file can have been changed.
        name = b"/tmp/a-longer-name/module.py"
        start, end = other.index(name), other.index(name) + len(name)
        assert bytes(changed[:start] + changed[end:]) == other[:start] + other[end:]


@KNOWN
def test_a_deep_structure_ends() -> None:
    nested: tuple[Any, ...] = ()
    for _ in range(1000):
        nested = (nested,)
    header = MAGIC_NUMBER + bytes(12)
    deep = header + marshal.dumps(nested)
    assert not alike_but_for_filename(deep + b"N", deep + b"T")
