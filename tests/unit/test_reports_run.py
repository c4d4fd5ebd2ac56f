"""Reports of a run: what they say, and that nothing of a test or an image gets through unescaped."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.drift.findings import Drift, FileFinding, PackageFinding
from pytest_envpar.drift.model import Change, NotCompared, PackageChange
from pytest_envpar.drift.pollution import Left, Pollution, Touched
from pytest_envpar.errors import UsageError
from pytest_envpar.reports import drift_sarif, files, run_html
from pytest_envpar.reports.run import EndOfTest, Leftovers, RunReport, StageFacts, headline

if TYPE_CHECKING:
    from typing import Any

EVIL = "\x1b[31m<script>alert(1)</script>|`@x\n\udcff"
DRIFT = Drift(
    "dev",
    "qa",
    "layers",
    packages=(PackageFinding(PackageChange("dpkg", "libc6", "2.36", "2.37", 2), "runtime"),),
    not_compared=(NotCompared("/tmp", "tmpfs"),),
)
REPORT = RunReport(
    "shop",
    "2026-01-02T03:04:05+00:00",
    1.5,
    1,
    stages=(
        StageFacts("dev", "python:3.12", "sha256:aa", "docker 20.10", "3.12.1", "overlay"),
        StageFacts("qa", lost="stage qa could not be started: no such image"),
    ),
    tests=(
        EndOfTest("test_a.py::test_ok", "dev", "passed", 0.25),
        EndOfTest("test_a.py::test_ok", "qa", "not run", 0.0, "no container"),
        EndOfTest("test_a.py::test_bad", "dev", "failed", 0.01, "E   assert 1 == 2"),
    ),
    drifts=(DRIFT,),
    fail_on="package",
    errors=("dev..old: there is no image",),
    differing=("test_a.py::test_ok",),
    pollution=Leftovers(
        (
            Pollution(
                "t/test_a.py::test_ok@dev",
                counts=(2, 0, 0),
                paths=(Left(PurePosixPath("/tmp/flag"), "created"),),
                stage="dev",
            ),
            Pollution(
                "test_a.py::test_bad@dev",
                touched=(
                    Touched("opened", Left(PurePosixPath("/tmp/flag"), "created"), "t/test_a.py::test_ok"),
                ),
                untold=7,
                stage="dev",
            ),
            Pollution(
                "", "session fixture db", (0, 1, 0), (Left(PurePosixPath("/etc/x"), "changed", ("mode",)),)
            ),
        ),
        ("/var/odd",),
        ("too many folders",),
    ),
)
HOSTILE = RunReport(
    EVIL,
    EVIL,
    1.0,
    1,
    stages=(StageFacts(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL), StageFacts("x", lost=EVIL)),
    tests=(EndOfTest(EVIL, EVIL, "failed", 0.1, EVIL), EndOfTest(EVIL, "x", EVIL, 0.1, EVIL)),
    drifts=(Drift(EVIL, EVIL, EVIL, not_compared=(NotCompared(EVIL, EVIL),)),),
    fail_on="any",
    errors=(EVIL,),
    differing=(EVIL,),
    pollution=Leftovers(
        (
            Pollution(
                EVIL,
                EVIL,
                (1, 0, 0),
                (Left(PurePosixPath(EVIL), "created", (EVIL,)),),
                (Touched(EVIL, Left(PurePosixPath(EVIL), "created"), EVIL),),
            ),
        ),
        (EVIL,),
        (EVIL,),
    ),
)


class Page(HTMLParser):
    """The tags of a page, and its text; every tag that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.said: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_data() -> None:
    data = json.loads(files.rendered(REPORT, "json"))
    assert data["version"] == 1
    assert data["exit_status"] == 1
    assert data["counts"] == {"dev": {"passed": 1, "failed": 1}, "qa": {"not run": 1}}
    assert data["stages"][0]["digest"] == "sha256:aa"
    assert data["tests"][2] == {
        "nodeid": "test_a.py::test_bad",
        "stage": "dev",
        "outcome": "failed",
        "duration": 0.01,
        "text": "E   assert 1 == 2",
    }
    assert data["gate"] == {
        "fail_on": "package",
        "failed": [["dev", "qa"]],
        "errors": ["dev..old: there is no image"],
    }
    assert data["drift"][0]["packages"][0]["name"] == "libc6"
    assert data["differing"] == ["test_a.py::test_ok"]
    pollution = data["pollution"]
    assert pollution["left"] == [
        {
            "nodeid": "t/test_a.py::test_ok",
            "owner": None,
            "stage": "dev",
            "counts": {"created": 2, "changed": 0, "deleted": 0},
            "paths": [{"path": "/tmp/flag", "kind": "created", "attributes": []}],
        },
        {
            "nodeid": None,
            "owner": "session fixture db",
            "stage": None,
            "counts": {"created": 0, "changed": 1, "deleted": 0},
            "paths": [{"path": "/etc/x", "kind": "changed", "attributes": ["mode"]}],
        },
    ]
    assert pollution["met"] == [
        {
            "nodeid": "test_a.py::test_bad",
            "owner": None,
            "stage": "dev",
            "did": "opened",
            "path": "/tmp/flag",
            "kind": "created",
            "by": "t/test_a.py::test_ok",
        }
    ]
    assert pollution["untold"] == [
        {"nodeid": "test_a.py::test_bad", "owner": None, "stage": "dev", "count": 7}
    ]
    assert pollution["unattributed"] == ["/var/odd"]
    assert pollution["problems"] == ["too many folders"]


def test_a_run_without_stage_and_gate() -> None:
    report = RunReport("shop", "now", 0.1, 0, tests=(EndOfTest("test_a", None, "passed", 0.1),))
    assert headline(report) == "1 passed"
    data = json.loads(files.rendered(report, "json"))
    assert (data["gate"], data["pollution"]) == (None, None)
    assert "ollution" not in files.rendered(report, "html") + files.rendered(report, "markdown")
    assert "@" not in "".join(Page(run_html.page(report)).said).partition("All tests")[2]


def test_the_page() -> None:
    page = Page(files.rendered(REPORT, "html"))
    text = " ".join("".join(page.said).split())
    for part in (
        "shop did not pass",
        "1 failed, 1 not run, 1 passed in dev, qa",
        "The drift gate failed (fail-on package): dev → qa",
        "Not compared: dev..old: there is no image",
        "stage qa could not be started",
        "1 of 2 tests end differently",
        "FAILED test_a.py::test_bad@dev",
        "E assert 1 == 2",
        "libc6 2.36 -> 2.37 (dpkg, 2 files)",
        "1 path not compared",
        "1 test left something on the file system; paths in all: 2 created, 1 changed",
        "t/test_a.py::test_ok@devcreated 2+ /tmp/flag … 1 more",
        "test_a.py::test_bad@dev failed and opened /tmp/flag, which t/test_a.py::test_ok created",
        "test_a.py::test_bad@dev failed and met 7 more paths",
        "session fixture dbchanged 1~ /etc/x (mode)",
        "1 not attributed to any test/var/odd",
        "Not all of it is known: too many folders",
        "0.25 stest_a.py::test_ok@dev",
    ):
        assert part in text, text


def test_the_page_of_a_large_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of it ends without a word; not even that of the tests that left something, behind one that did not."""
    monkeypatch.setattr(run_html, "_MAX_ROWS", 2)
    assert REPORT.pollution is not None
    third = EndOfTest("test_b.py::test_c", "dev", "failed", 0.0)
    report = dataclasses.replace(
        REPORT,
        tests=(*REPORT.tests, third, dataclasses.replace(third, outcome="error")),
        differing=REPORT.differing * 3,
        pollution=Leftovers(REPORT.pollution.told * 2),
    )
    sections = re.findall('<section id="(.*?)">(.*?)</section>', run_html.page(report), re.DOTALL)
    ends = {name: re.findall(r"… and (\d+) more; the JSON report has all", text) for name, text in sections}
    assert ends == {
        "stages": [],
        "parity": ["1"],
        "failures": ["1"],
        "drift": [],
        "pollution": ["2", "2"],
        "slowest": [],
        "tests": ["3"],
    }


def test_markdown() -> None:
    text = files.rendered(REPORT, "markdown")
    for part in (
        "## shop: 1 failed, 1 not run, 1 passed in dev, qa",
        "| stage | passed | not run | failed | environment |",
        "### 1 of 2 tests end differently",
        "| passed | not run | test\\_a.py\\:\\:test\\_ok |",
        "<summary>FAILED test_a.py::test_bad in dev</summary>",
        "**Not compared**: dev..old\\: there is no image",
        "### Drift: dev → qa",
        "**The gate failed** (fail-on package).",
        "### Pollution",
        "- test\\_a.py\\:\\:test\\_bad\\@dev failed and met 7 more paths",
        "- test\\_a.py\\:\\:test\\_bad\\@dev failed and opened /tmp/flag, which t/test\\_a.py\\:\\:test\\_ok created",
        "<summary>t/test_a.py::test_ok&#64;dev: created 2</summary>\n\n````\n+ /tmp/flag\n… 1 more\n````",
        "<summary>1 not attributed to any test</summary>",
        "Not all of it is known: too many folders",
    ):
        assert part in text, text


def test_sarif_has_the_drift_and_the_pollution() -> None:
    run = json.loads(files.rendered(REPORT, "sarif", "pyproject.toml"))["runs"][0]
    found: list[dict[str, Any]] = run["results"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [rules[each["ruleIndex"]] for each in found] == [each["ruleId"] for each in found]
    assert [
        (each["ruleId"], each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        for each in found
    ] == [
        ("drift/package", "pyproject.toml"),
        ("pollution/met", "test_a.py"),
        ("pollution/met", "test_a.py"),
        ("pollution/left", "t/test_a.py"),
        ("pollution/left", "pyproject.toml"),
    ]
    assert found[1]["message"]["text"].endswith("opened /tmp/flag, which t/test_a.py::test_ok created")
    assert [each.get("properties", {}).get("stage") for each in found] == [None, "dev", "dev", "dev", None]
    assert [len(each["locations"][0].get("logicalLocations", ())) for each in found] == [0, 1, 0, 1, 1]
    assert "invocations" not in run


@pytest.mark.parametrize(
    ("rootdir", "file"),
    [(".", "t/test_a.py"), ("sub/b c", "sub/b%20c/t/test_a.py"), ("..", "../t/test_a.py")],
)
def test_sarif_names_files_from_the_repository_on(rootdir: str, file: str) -> None:
    """Node ids are relative to pytest's root, and the configuration is not."""
    run = json.loads(files.rendered(REPORT, "sarif", "pyproject.toml", rootdir=rootdir))["runs"][0]
    places = [each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in run["results"]]
    assert places[3:] == [file, "pyproject.toml"]


@pytest.mark.parametrize(
    ("errors", "room", "kept", "left_out"),
    [
        (1, 4, 1, ["pollution: 1 more results"]),
        (9, 8, 4, ["dev -> qa: 6 more results"]),
        (9, 4, 2, ["dev -> qa: 8 more results", "pollution: 2 more results"]),
    ],
)
def test_sarif_leaves_out_what_matters_least_of_each_kind(
    errors: int, room: int, kept: int, left_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of errors of one comparison leave room for the warnings of what tests met."""
    monkeypatch.setattr(drift_sarif, "_MAX_RESULTS", room)
    packages = tuple(
        PackageFinding(PackageChange("dpkg", f"p{n}", "1", "2"), "package") for n in range(errors)
    )
    logs = FileFinding(Change("/var/log/x", "modified", ("content",)), "file")
    drift = dataclasses.replace(DRIFT, packages=packages, files=(logs,) if errors > 1 else ())
    run = json.loads(files.rendered(dataclasses.replace(REPORT, drifts=(drift,)), "sarif"))["runs"][0]
    rules = ["pollution/met", "pollution/met", "pollution/left", "pollution/left"][: room - kept]
    told = run["invocations"][0]["toolExecutionNotifications"]
    assert [each["ruleId"] for each in run["results"]] == ["drift/package"] * kept + rules
    assert [each["message"]["text"].partition(",")[0] for each in told] == left_out


def test_paths_that_are_not_named_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test left 5,000 paths, of which the inside names 500."""
    paths = tuple(Left(PurePosixPath(f"/tmp/{n:03}"), "created") for n in range(500))
    left = Leftovers((Pollution("test_a.py::test_b", counts=(5_000, 0, 0), paths=paths),))
    report = RunReport("shop", "now", 0.1, 0, pollution=left)

    def shown(text: str) -> tuple[int, list[str]]:
        return text.count("+ /tmp/"), re.findall("….*?more", text)

    assert shown(files.rendered(report, "markdown")) == (50, ["… 4950 more"])
    assert shown(files.rendered(report, "html")) == (500, ["… 4500 more"])
    monkeypatch.setattr(run_html, "_MAX_LINES", 100)
    assert shown(files.rendered(report, "html")) == (99, ["… 4901 more"])


def test_a_node_id_that_ends_like_a_stage_stays_as_it_is() -> None:
    """In a run over one stage nothing is a suffix; over several, the last one is."""
    for stages, told in ((("dev",), "spec.yaml::mail@dev"), (("dev", "qa"), "spec.yaml::mail@dev@dev")):
        left = Pollution(told, counts=(1, 0, 0), paths=(Left(PurePosixPath("/a"), "created"),), stage="dev")
        report = RunReport(
            "shop", "now", 0.1, 0, tuple(map(StageFacts, stages)), pollution=Leftovers((left,))
        )
        data = json.loads(files.rendered(report, "json"))
        assert data["pollution"]["left"][0]["nodeid"] == "spec.yaml::mail@dev"


@pytest.mark.parametrize("form", ["html", "markdown", "json", "sarif"])
def test_nothing_from_inside_is_markup(form: str) -> None:
    text = files.rendered(HOSTILE, form)
    assert "\x1b" not in text
    text.encode("utf-8")
    if form == "html":
        assert "script" not in Page(text).tags
        assert "default-src 'none'" in text
    if form == "markdown":
        assert not re.search(r"(?<!\\)<script", re.sub("````.*?````", "", text, flags=re.DOTALL))


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "r.md"
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        files.write(path, "x")
    files.write(path, "x", parents=True)
    assert path.read_text(encoding="utf-8") == "x"
    assert [each.name for each in path.parent.iterdir()] == ["r.md"]
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        files.write(tmp_path / "folder.md", "x")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
