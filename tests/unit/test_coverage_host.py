"""What is asked of the inside, and what is made of its answers, on this side."""

from __future__ import annotations

import configparser
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import coverage
import pytest

from pytest_envpar.config.model import Settings
from pytest_envpar.errors import StageError, UsageError
from pytest_envpar.session.coverage import asked, by_coverage, gathered
from pytest_envpar.worker import dists, tracer
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.paths import PathMap

OWN = tracer.Tracer("7.0")
BROUGHT = tracer.Tracer("7.0", "volume")
SLOW = tracer.Tracer("7.0", "volume", compiled=False)


def told(
    text: str,
    tmp_path: Path,
    *,
    stage: str | None = None,
    found: tracer.Tracer = BROUGHT,
    python: tuple[int, int, int] = (3, 11, 2),
    inside: str = "/inside",
    **more: Any,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The options for a worker, and its configuration as coverage.py's own parser would read it."""
    (tmp_path / "settings.ini").write_text(text, encoding="utf-8")
    cov = coverage.Coverage(config_file=str(tmp_path / "settings.ini"))
    place: Any = SimpleNamespace(paths=PathMap(tmp_path, PurePosixPath(inside)))
    options = asked.Asked(cov, **more).options(place, stage, found, python)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(options["config"])
    return options, dict(parser["run"])


def test_the_configuration_goes_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    options, run = told(
        f"[run]\nbranch = true\nsource =\n    src\n    pkg\nomit = {tmp_path}/src/x/*\nconcurrency = thread\n"
        "context = a$$b\nrelative_files = true\nplugins = one.plugin\n[one.plugin]\nkey = value\n",
        tmp_path,
    )
    assert run["branch"] == run["relative_files"] == "true"
    assert run["source"].split() == ["/inside/src", "pkg"]
    assert run["omit"].split() == ["/inside/src/x/*", "/.envpar/*"]
    assert run["context"] == "a$$b"
    assert "[one.plugin]\nkey = value" in options["config"]
    assert (options["home"], options["hook"], options["first"]) == ("/.envpar/coverage", False, True)
    (tmp_path / "again.ini").write_text(options["config"])
    assert coverage.Coverage(config_file=str(tmp_path / "again.ini")).get_option("run:context") == "a$b"


def test_the_stage_is_a_context(tmp_path: Path) -> None:
    assert told("", tmp_path, stage="qa")[1]["context"] == "qa"
    assert told("[run]\ncontext = nightly\n", tmp_path, stage="qa")[1]["context"] == "nightly|qa"
    assert "context" not in told("", tmp_path)[1]


def test_children(tmp_path: Path) -> None:
    options, run = told("[run]\npatch = subprocess, _exit\n", tmp_path, children=True)
    assert options["hook"]
    assert options["children"]
    assert run["patch"].split() == ["_exit"]
    options, _ = told("[run]\nconcurrency = multiprocessing\n", tmp_path)
    assert options["hook"]
    assert not options["children"]
    assert not told("[run]\nconcurrency = multiprocessing\n", tmp_path, found=OWN)[0]["hook"]


@pytest.mark.parametrize(
    ("text", "python", "core"),
    [
        ("", (3, 11, 2), None),
        ("", (3, 12, 0), "sysmon"),
        ("[run]\nbranch = true\n", (3, 13, 0), None),
        ("[run]\nbranch = true\n", (3, 14, 0), "sysmon"),
        ("[run]\ndynamic_context = test_function\n", (3, 14, 0), None),
        ("[run]\ncore = pytrace\n", (3, 14, 0), "pytrace"),
    ],
)
def test_without_a_tracer_in_c(
    tmp_path: Path, text: str, python: tuple[int, int, int], core: str | None
) -> None:
    """Python 3.12 can measure lines by itself, 3.14 branches, too."""
    try:
        coverage.Coverage().get_option("run:core")
    except coverage.CoverageException:
        pytest.skip("older coverage.py")
    _, run = told(text, tmp_path, found=SLOW, python=python)
    assert run.get("core") == core
    assert "no-ctracer" in run["disable_warnings"]
    assert "core" not in told("", tmp_path, python=python)[1]


def settings(**more: Any) -> Settings:
    """A configuration without stages."""
    return Settings(Path("/p"), Path("/p/envpar.toml"), {}, **more)


def test_what_decides_whether_a_run_is_measured() -> None:
    plain, always = settings(), settings(coverage=True)
    without = SimpleNamespace()
    assert not asked.is_wanted(plain, without, ["--cov"])
    assert asked.is_wanted(always, without, [])
    with pytest.raises(UsageError, match="--cov=x: the configuration says coverage = true"):
        asked.is_wanted(always, without, ["-q", "--cov=x"])
    idle = SimpleNamespace(cov_source=[], no_cov=False)
    assert not asked.is_wanted(plain, idle, [])
    assert asked.is_wanted(always, idle, [])
    assert asked.is_wanted(plain, SimpleNamespace(cov_source=[True], no_cov=False), ["--cov"])
    off = SimpleNamespace(cov_source=["x"], no_cov=True)
    assert not asked.is_wanted(always, off, ["--cov=x", "--no-cov"])


class TestGathered:
    def made(self, tmp_path: Path) -> tuple[gathered.Gathered, coverage.CoverageData]:
        root = tmp_path / "project"
        root.mkdir(exist_ok=True)
        for name in ("a.py", "b.py"):
            (root / name).touch()
        data = coverage.CoverageData(str(tmp_path / "data"))
        return gathered.Gathered(lambda: data, root, root, lambda path: path, branch=False), data

    def take(self, into: gathered.Sink, rows: list[Any], inside: str = "/inside", **facts: Any) -> None:
        def mapped(path: str) -> str:
            return path.replace(inside, "")

        into.take("qa", wire.Coverage(facts, rows), mapped)

    def test_rows_become_data(self, tmp_path: Path) -> None:
        into, data = self.made(tmp_path)
        file = str(tmp_path / "project/a.py")
        self.take(into, [["", f"/inside{file}", "lines", [1, 2]], ["c", "a.py", "lines", [3]]])
        self.take(into, [["", file, "lines", [2, 3]], ["", "b.py", "none", []]])
        assert sorted(data.lines(file) or []) == [1, 2, 3]
        assert data.lines("a.py") == [3]
        assert data.measured_files() == {file, "a.py", "b.py"}
        assert data.measured_contexts() == {"", "c"}

    def test_files_of_which_nothing_ran_are_data_as_well(self, tmp_path: Path) -> None:
        into, data = self.made(tmp_path)
        self.take(into, [["", "b.py", "none", []]])
        assert into.error == ""
        assert data.measured_files() == {"b.py"}

    def test_facts(self, tmp_path: Path) -> None:
        into, _ = self.made(tmp_path)
        for _ in range(2):
            self.take(into, [], python=[3, 9, 2, "final", 0], tracer="PyTracer", version="7.1")
        self.take(into, [], done=True)
        facts = into.stages["qa"]
        assert (facts.slow, facts.begun, facts.done, facts.version) == (True, 2, 1, "7.1")

    @pytest.mark.parametrize(
        "row",
        [
            None, [], ["", "a.py", "lines"], [1, "a.py", "lines", [1]], ["", 1, "lines", [1]], ["", "", "lines", [1]],
            ["", "a\0.py", "lines", [1]], ["", "a.py", "other", [1]], ["", "a.py", "lines", ["1"]],
            ["", "a.py", "lines", [True]], ["", "a.py", "lines", [1 << 40]], ["", "a.py", "arcs", [1, 2, 3]],
            ["", "a.py", "lines", {}], ["", "x" * 5000, "lines", [1]],
        ],
    )  # fmt: skip
    def test_rows_that_make_no_sense_are_dropped(self, tmp_path: Path, row: Any) -> None:
        into, data = self.made(tmp_path)
        self.take(into, [row, ["", "a.py", "lines", [7]]])
        assert data.lines("a.py") == [7]
        assert data.measured_files() == {"a.py"}

    @pytest.mark.parametrize("path", ["/etc/passwd", "../secret.py", "link/passwd", "/project/../x.py"])
    def test_paths_that_lead_out_of_the_project_are_left_out(self, tmp_path: Path, path: str) -> None:
        into, data = self.made(tmp_path)
        (tmp_path / "project/link").symlink_to("/etc")
        self.take(into, [["", path, "lines", [1]]], tracers={path: "x"})
        assert not data.measured_files()
        assert into.outside == {path}

    @pytest.mark.parametrize("path", ["made.py", "pkg/\x1b[2Jmade.py", "x" * 300 + ".py", "pkg"])
    def test_files_that_only_the_inside_has_are_left_out(self, tmp_path: Path, path: str) -> None:
        into, data = self.made(tmp_path)
        (tmp_path / "project/pkg").mkdir()
        self.take(into, [["", path, "lines", [1]], ["", path, "none", []]], tracers={path: "x"})
        assert not data.measured_files()
        assert into.missing == {path}

    def test_modules_in_archives_are_taken(self, tmp_path: Path) -> None:
        into, data = self.made(tmp_path)
        (tmp_path / "project/lib.zip").touch()
        self.take(into, [["", "lib.zip/pkg/c.py", "lines", [1]]])
        assert data.measured_files() == {"lib.zip/pkg/c.py"}
        assert not into.missing

    def test_lines_and_branches_do_not_mix(self, tmp_path: Path) -> None:
        into, _ = self.made(tmp_path)
        self.take(into, [["", "a.py", "lines", [1]]])
        self.take(into, [["", "a.py", "arcs", [1, 2]]])
        assert "branch" in into.error

    def test_by_way_of_a_worker_of_xdist(self, tmp_path: Path) -> None:
        into, data = self.made(tmp_path)
        passed = gathered.Passed()
        self.take(passed, [["", "/inside/a.py", "arcs", [1, 2]], "rubbish"], inside="/inside/", done=True)
        for stage, message in gathered.unpacked(passed.output):
            into.take(stage, message, str)
        assert data.arcs("a.py") == [(1, 2)]
        assert into.stages["qa"].done == 1
        assert list(gathered.unpacked(None)) == []


def test_paths_are_combined_as_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").touch()
    (tmp_path / ".coveragerc").write_text("[paths]\nsource =\n    src\n    */site-packages/pkg\n")
    alias = gathered.aliases(coverage.Coverage())
    assert alias("/usr/lib/site-packages/pkg/a.py") == str(tmp_path / "src/a.py")
    assert alias("/usr/lib/site-packages/other/a.py") == "/usr/lib/site-packages/other/a.py"


class Shown:
    """What a summary writes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_sep(self, _sign: str, title: str) -> None:
        self.lines.append(title)

    def write_line(self, line: str, **_markup: bool) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("gone.py", None, "no report: No source for code: "),
        ("\x1b[2J\x07.py", None, "no report: No source for code: "),
        ("\x1b[2J\x07.py", "def\n", "no report: Couldn't parse "),
        ("\x1b[2J\x07.py", "a = 1\n", "[2J"),
    ],
)
def test_the_report_of_coverage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str | None, told: str
) -> None:
    """Without a report nobody knows whether the threshold was reached; and no name reaches the terminal as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".coveragerc").write_text("[report]\nfail_under = 50\n")
    if source is not None:
        (tmp_path / name).write_text(source)
    reporting = by_coverage.Reporting()
    reporting.data().add_lines({str(tmp_path / name): [1]})
    nothing: Any = None
    assert reporting.report(nothing, {}) is told.startswith("no report")
    shown = Shown()
    reporting.pytest_terminal_summary(shown)
    assert any(told in line for line in shown.lines), shown.lines
    assert all(line.isprintable() for line in shown.lines)


class TestTracer:
    def probe(self, **more: Any) -> Any:
        facts = {"version": (3, 9, 2), "coverage_version": None, "soabi": "cpython-39-x86_64-linux-gnu"}
        return SimpleNamespace(**{**facts, "implementation": "cpython", **more})

    def ensure(self, tmp_path: Path, **more: Any) -> tracer.Tracer:
        nothing: Any = None
        stage: Any = SimpleNamespace(name="qa")
        return tracer.ensure(nothing, nothing, self.probe(**more), stage, nothing, tmp_path)

    def test_the_images_own(self, tmp_path: Path) -> None:
        made = self.ensure(tmp_path, coverage_version="6.5.0")
        assert made == tracer.Tracer("6.5.0")
        assert made.mount is None

    def test_an_old_python_and_no_index(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked_for: list[Any] = []

        def download(requirements: list[str], *args: Any) -> None:
            asked_for.append((requirements, args[2]))
            raise dists.FetchError("no index")

        monkeypatch.setattr(dists, "download", download)
        with pytest.raises(
            StageError, match=r"coverage 7\.10\.7 for Python 3\.9\.2 of the image could not be"
        ):
            self.ensure(tmp_path, coverage_version="5.1")
        ((requirements, tags),) = asked_for
        assert requirements == ["coverage==7.10.7"]
        assert {"cp39", "manylinux2014_x86_64"} < set(tags)
        asked_for.clear()
        soabi = "cpython-38t-aarch64-linux-musl"
        with pytest.raises(StageError, match=r"coverage 7\.6\.1"):
            self.ensure(tmp_path, version=(3, 8, 1), soabi=soabi)
        assert {"cp38t", "musllinux_1_2_aarch64"} < set(asked_for[0][1])
        with pytest.raises(StageError, match="does not support Python"):
            self.ensure(tmp_path, version=(3, 7, 1))
