"""coverage.py as the agent drives it: what it reads, what it sends, and what survives a death."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path, PurePosixPath

import coverage
import pytest

from pytest_envpar.worker import tracer, vendor
from pytest_envpar.worker.agent import tracing

SITE = Path(coverage.__file__).parent


def write(file: Path, *, branch: bool) -> coverage.CoverageData:
    """A data file with two contexts, a file that did not run, and one of a plugin."""
    data = coverage.CoverageData(str(file))
    for context, numbers in (("", [1, 2, 9]), ("a|run", [9, 64])):
        data.set_context(context)
        if branch:
            data.add_arcs({"/p/a.py": [(-1, numbers[0]), (numbers[0], numbers[1])]})
        else:
            data.add_lines({"/p/a.py": numbers, "/p/t.html": numbers})
    data.touch_file("/p/unused.py")
    if not branch:
        data.add_file_tracers({"/p/t.html": "a_plugin.Plugin"})
    data.write()
    data.close()
    return data


def test_lines_are_read(tmp_path: Path) -> None:
    write(tmp_path / "data", branch=False)
    rows, tracers = tracing.read(str(tmp_path / "data"))
    assert sorted(rows) == [
        ["", "/p/a.py", "lines", [1, 2, 9]],
        ["", "/p/t.html", "lines", [1, 2, 9]],
        ["", "/p/unused.py", "none", []],
        ["a|run", "/p/a.py", "lines", [9, 64]],
        ["a|run", "/p/t.html", "lines", [9, 64]],
    ]
    assert tracers == {"/p/t.html": "a_plugin.Plugin"}


def test_branches_are_read(tmp_path: Path) -> None:
    write(tmp_path / "data", branch=True)
    rows, _ = tracing.read(str(tmp_path / "data"))
    assert sorted(rows) == [
        ["", "/p/a.py", "arcs", [-1, 1, 1, 2]],
        ["", "/p/unused.py", "none", []],
        ["a|run", "/p/a.py", "arcs", [-1, 9, 9, 64]],
    ]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 200])
def test_what_is_no_data_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ValueError, match="no data file"):
        tracing.read(str(tmp_path / "data"))


def private(folder: Path) -> Path:
    """This machine's coverage.py below the private name."""
    sources = {
        PurePosixPath("coverage", path.relative_to(SITE).as_posix()): path.read_bytes()
        for path in SITE.rglob("*.py")
    }
    site = vendor.private_package(sources, "coverage", tracer.PRIVATE)
    for path, content in site.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        ast.parse(content)
    for compiled in SITE.glob("tracer.*.so"):
        (folder / tracer.PRIVATE / "coverage" / compiled.name).write_bytes(compiled.read_bytes())
    return folder


DRIVE = """
import json, os, sys
from pytest_envpar.worker.agent import tracing
from pytest_envpar.worker.agent.measure import Measure
home, folder, module, how = sys.argv[1:]
config = "[run]\\nsource = %s\\nbranch = true\\nparallel = true\\ndata_file = %s/data\\n" % (module, folder)
options = {"home": home, "config": config, "folder": folder, "contexts": False, "whole": True,
           "children": False, "hook": False, "first": True}
sent = open(folder + ".sent", "a")
def send(message):
    sent.write(json.dumps([message.facts, message.rows]) + "\\n")
    sent.flush()
measure = Measure(options, send, lambda: True)
measure.start()
measured = __import__(module)
measured.one()
measure._begun = -1e9  # long ago
measure.tell()
measured.two()
if how == "dies":
    os._exit(9)
measure.finish()
assert "coverage" not in sys.modules
"""


@pytest.mark.parametrize("how", ["ends", "dies"])
def test_what_was_told_is_enough(tmp_path: Path, how: str) -> None:
    """With what we bring: everything arrives, and after a death what had been told; no name of it is public."""
    home = private(tmp_path / "home")
    (tmp_path / "mod.py").write_text("def one():\n    return 1\n\n\ndef two():\n    return 2\n")
    folder = tmp_path / "scratch"
    command = [sys.executable, "-c", DRIVE, str(home), str(folder), "mod", how]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
    ended = subprocess.run(
        command, env={**environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == (9 if how == "dies" else 0), ended.stderr
    told = [json.loads(line) for line in Path(f"{folder}.sent").read_text().splitlines()]
    assert told[0][0]["version"] == coverage.__version__
    assert told[0][0]["tracer"] in ("CTracer", "SysMonitor")
    arcs = {
        (first, second)
        for _, rows in told
        for _, file, kind, numbers in rows
        if kind == "arcs" and file == str(tmp_path / "mod.py")
        for first, second in zip(numbers[::2], numbers[1::2], strict=True)
    }
    assert {second for _, second in arcs} >= {1, 2, 5}
    assert (6 in {second for _, second in arcs}) == (how == "ends")
    assert (told[-1][0] == {"done": True}) == (how == "ends")
    assert ended.stderr == "", "no warnings"


def test_a_folder_for_children_makes_way(tmp_path: Path) -> None:
    """The image's own sitecustomize is run as well, and nothing of ours stays on the path."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins\nbuiltins.own_ran = True\n")
    children = Path(tracing.__file__).parent / "children"
    code = """
        import sys
        assert own_ran
        assert not [entry for entry in sys.path if entry.endswith("children")]
        assert sys.modules["sitecustomize"].__file__.endswith("own/sitecustomize.py")
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(children), str(own)])}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environ, check=True)
