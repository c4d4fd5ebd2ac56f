"""Every report of a drift: what it says, its bounds, and that nothing of a container gets through unescaped."""

from __future__ import annotations

import json
import os
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_envpar.drift.findings import (
    AllowanceFinding,
    ConfigFinding,
    Drift,
    FileFinding,
    Hidden,
    PackageFinding,
)
from pytest_envpar.drift.model import Change, ConfigChange, Entry, NotCompared, PackageChange
from pytest_envpar.reports import drift_json, drift_junit, drift_markdown, drift_sarif, drift_text, words

EVIL = "/opt/\x1b[31m<b>|`@x\n\udcff"


def entry(path: str, kind: Any = "file") -> Entry:
    return Entry(path, kind, 0o4755, 1, 2, 3, "a" * 64 if kind == "file" else "", xattrs=(("user.x", b"\1"),))


def file(path: str, **more: Any) -> FileFinding:
    change = Change(path, "modified", ("content", "mode"), entry(path), entry(path))
    return FileFinding(change, **{"level": "file", **more})


def added(path: str, kind: Any = "file", **more: Any) -> FileFinding:
    return FileFinding(Change(path, "added", after=entry(path, kind)), **{"level": "file", **more})


RICH = Drift(
    "dev",
    "qa",
    "layers",
    packages=(
        PackageFinding(PackageChange("dpkg", "libc6", "2.36", "2.37", 2), "runtime"),
        PackageFinding(PackageChange("dpkg", "tool", "1", "1", 1, ("/usr/bin/tool",)), "package"),
        PackageFinding(PackageChange("pip", "six", None, "1.16"), "package"),
    ),
    files=(
        file("/etc/app.conf", level="config"),
        file("/lib/libc.so.6", level="runtime", owner="dpkg:libc6", reported=False),
        added("/opt/app", "directory"),
        added("/opt/app/x"),
        added("/opt/app/y"),
        file("/usr/bin/tool", level="package", owner="dpkg:tool", reported=False, tampered=True),
    ),
    config=(ConfigFinding(ConfigChange("env.APP_ENV", "dev", None), "config"),),
    allowances=(AllowanceFinding("tzdata", "rolling", "2026-01-31", "expired"),),
    hidden=(Hidden("logs", ("/var/log/a", "/var/log/b")),),
    not_compared=(NotCompared("/tmp", "tmpfs"),),
    why=("the images share 2 of 3 layers",),
)
HOSTILE = Drift(
    EVIL,
    "qa",
    EVIL,
    packages=(PackageFinding(PackageChange("npm", EVIL, EVIL, None, 1, (EVIL,)), "package"),),
    files=(file(EVIL), added("/x", instruction=EVIL), file(EVIL + "2", owner=f"npm:{EVIL}", reported=False)),
    config=(ConfigFinding(ConfigChange(EVIL, EVIL, EVIL), "config"),),
    hidden=(Hidden(EVIL, (EVIL,)),),
    not_compared=(NotCompared(EVIL, EVIL),),
    why=(EVIL,),
)
DIFFS = {"/etc/app.conf": ["@@ -1 +1 @@", "-a", "+b"], EVIL: ["+\x1b[0m</details>````"]}


def test_the_terminal() -> None:
    assert drift_text.render(RICH, diffs=DIFFS) == [
        "dev -> qa: 9 findings: 1 runtime, 2 package, 3 config, 3 file; 2 hidden; 1 path not compared",
        "  runtime  libc6 2.36 -> 2.37 (dpkg, 2 files)",
        "  package  tool 1 (dpkg, 1 file), not as the package shipped it: /usr/bin/tool",
        "  package  six 1.16 added (pip)",
        '  config   env.APP_ENV: "dev" -> (not set)',
        "  config   the allowance for tzdata (rolling) ended on 2026-01-31: renew or remove it",
        "  config   ~ /etc/app.conf (content, mode)",
        "           @@ -1 +1 @@",
        "           -a",
        "           +b",
        "  file     + /opt/app/ (2 entries)",
        "  not compared: /tmp (tmpfs)",
        "  hidden: 2, logs",
    ]


def test_details_hidden_names_and_the_route_on_demand() -> None:
    lines = drift_text.render(RICH, verbose=True, show_hidden=True, explain=True)
    assert "           ~ /lib/libc.so.6 (content, mode)" in lines
    assert "           ~ /usr/bin/tool (content, mode), tampered" in lines
    assert "           + /opt/app/x" in lines
    assert "           /var/log/b" in lines
    assert lines[1:3] == ["  route: layers", "    the images share 2 of 3 layers"]


def test_a_limit_tells_what_is_beyond_it() -> None:
    lines = drift_text.render(RICH, limit=2)
    assert (
        len([line for line in lines if line.startswith(("  runtime", "  package", "  config", "  file"))])
        == 2
    )
    assert "  … and 5 more; --limit shows them" in lines


def test_colours_are_asked_for() -> None:
    assert "\x1b" not in "".join(drift_text.render(RICH))
    assert "\x1b[1;31mruntime\x1b[0m" in "".join(drift_text.render(RICH, colour=True))


def test_no_differences() -> None:
    drift = Drift("dev", "qa", "same-image")
    assert drift_text.render(drift) == ["dev -> qa: no differences"]
    assert drift.equal


def test_what_one_instruction_brought_is_one_line() -> None:
    files = tuple(file(f"/srv/{number}", instruction="COPY srv /srv") for number in range(5))
    (line,) = words.lines(Drift("a", "b", "layers", files=files))
    assert line.text.startswith("5 paths from COPY srv /srv: ~ /srv/0 (content, mode), ")
    assert len(line.more) == 5


def test_many_siblings_are_one_line() -> None:
    files = tuple(file(f"/etc/ssl/certs/{number:02}.pem", level="config") for number in range(12))
    (line,) = words.lines(Drift("a", "b", "layers", files=files))
    assert line.text.startswith("12 paths in /etc/ssl/certs: ~ /etc/ssl/certs/00.pem (content, mode), ")
    assert len(line.more) == 12


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_hostile_names_are_harmless_lines(form: str) -> None:
    if form == "text":
        text = "\n".join(
            drift_text.render(HOSTILE, verbose=True, show_hidden=True, explain=True, diffs=DIFFS)
        )
    else:
        text = "\n".join(drift_markdown.render(HOSTILE, diffs=DIFFS))
    assert "\x1b" not in text
    assert "\udcff" not in text
    assert "\n\\udcff" not in text
    assert "\\x1b[31m" in text.replace("\\\\", "\\").replace("\\[", "[")
    text.encode("utf-8")


def test_markdown() -> None:
    lines = drift_markdown.render(RICH, diffs=DIFFS)
    assert lines[0] == "### Drift: dev → qa"
    assert "| runtime | libc6 2.36 \\-\\> 2.37 \\(dpkg, 2 files\\) |" in lines
    at = lines.index("<summary>diff of /etc/app.conf</summary>")
    assert lines[at + 2 : at + 6] == ["````diff", "@@ -1 +1 @@", "-a", "+b"]
    assert "<summary>2 hidden: logs</summary>" in lines


def test_nothing_in_markdown_is_markup() -> None:
    text = "\n".join(drift_markdown.render(HOSTILE, diffs=DIFFS))
    outside = re.sub(r"````.*?````", "", text, flags=re.DOTALL)
    assert "<b>" not in outside.replace("\\<b\\>", "")
    assert "@x" not in outside.replace("\\@x", "").replace("&#64;x", "")
    assert text.count("````") % 2 == 0
    # The hostile diff cannot close its fence.
    assert "+\\x1b[0m</details>` ` ` `" in text


def validated(drift: Drift) -> dict[str, Any]:
    """The JSON of a drift, after the published schema has judged it."""
    told: dict[str, Any] = json.loads(drift_json.render([drift]))
    try:
        import jsonschema
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("jsonschema is not installed (a failure because CI is set)")
        pytest.skip("jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(drift_json.schema())
    jsonschema.validate(told, drift_json.schema())
    return told


def test_json_is_as_its_schema_says() -> None:
    told = validated(RICH)
    assert told["version"] == drift_json.VERSION == drift_json.schema()["properties"]["version"]["const"]
    assert told["equal"] is False
    assert told["summary"] == {
        "findings": 9,
        "runtime": 1,
        "package": 2,
        "config": 3,
        "file": 3,
        "noise": 0,
        "hidden": 2,
        "not_compared": 1,
    }
    assert told["packages"][0] == {
        "ecosystem": "dpkg",
        "name": "libc6",
        "before": "2.36",
        "after": "2.37",
        "files": 2,
        "level": "runtime",
        "tampered": [],
    }
    change = told["changes"][0]
    assert (change["path"], change["kind"], change["package"]) == ("/etc/app.conf", "modified", None)
    assert change["after"]["mode"] == "4755"
    assert change["after"]["xattrs"] == {"user.x": "01"}
    assert told["hidden"] == [{"reason": "logs", "count": 2, "names": ["/var/log/a", "/var/log/b"]}]


def test_json_of_hostile_names_is_plain_text() -> None:
    text = drift_json.render([HOSTILE])
    assert text.isascii()
    assert "\\udcff" in text
    assert "\x1b" not in text
    validated(HOSTILE)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    told = {**drift_json.as_dict(RICH), "more": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, drift_json.schema())


def test_several_comparisons_are_an_array() -> None:
    assert [each["left"] for each in json.loads(drift_json.render([RICH, RICH]))] == ["dev", "dev"]


def test_sarif() -> None:
    told = json.loads(drift_sarif.render([RICH, HOSTILE], "pyproject.toml"))
    assert told["version"] == "2.1.0"
    (run,) = told["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    first = run["results"][0]
    assert first["ruleId"] == rules[first["ruleIndex"]] == "drift/package"
    assert first["level"] == "error"
    assert first["message"]["text"] == "dev -> qa: libc6 2.36 -> 2.37 (dpkg, 2 files)"
    place = first["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "pyproject.toml"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "/lib/libc.so.6"
    assert {each["ruleId"] for each in run["results"]} <= set(rules)
    assert "\x1b" not in json.dumps(told)


def test_a_gate_as_a_junit_case() -> None:
    case = drift_junit.case(RICH, "package")
    failure = case.find("failure")
    assert failure is not None
    assert case.get("name") == "dev..qa"
    assert (failure.text or "").startswith("dev -> qa: 9 findings")
    assert drift_junit.case(RICH, "none").find("failure") is None
    ET.fromstring(ET.tostring(drift_junit.case(HOSTILE, "any")))
