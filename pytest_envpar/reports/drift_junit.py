"""A gate as a test case of a JUnit file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import drift_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.drift.findings import Drift, FailOn
    from pytest_envpar.errors import EnvparError

CLASS = "envpar.drift"


def case(drift: Drift, fail_on: FailOn) -> ET.Element:
    """``<testcase classname="envpar.drift" name="dev..qa">``, with a failure where the gate fails."""
    made = ET.Element("testcase", classname=CLASS, name=escaped(f"{drift.left}..{drift.right}"), time="0.000")
    text = drift_text.render(drift, limit=100, verbose=True)
    if drift.fails(fail_on):
        failure = ET.SubElement(made, "failure", message=text[0])
        failure.text = "\n".join(text)
    else:
        ET.SubElement(made, "system-out").text = "\n".join(text)
    return made


def broken(left: str, right: str, error: EnvparError) -> ET.Element:
    """A test case with an error: two environments that could not be compared, so that nobody takes them for alike."""
    made = ET.Element("testcase", classname=CLASS, name=escaped(f"{left}..{right}"), time="0.000")
    lines = [escaped(line) for line in error.lines()]
    ET.SubElement(made, "error", message=lines[0]).text = "\n".join(lines)
    return made


def add(path: Path, cases: Sequence[ET.Element]) -> None:
    """Add test cases to the first suite of the JUnit file that pytest has written (host).

    pytest has no public way to have more in it than its own tests, whose number these are not to change.

    Raises:
        OSError: The file cannot be read or written.
        SyntaxError: It is no XML.
    """
    tree = ET.parse(path)
    root = tree.getroot()
    suite = root if root.tag == "testsuite" else root.find("testsuite")
    if suite is None:
        return
    suite.extend(cases)
    failed, errors = (sum(each.find(name) is not None for each in cases) for name in ("failure", "error"))
    for name, count in (("tests", len(cases)), ("failures", failed), ("errors", errors)):
        suite.set(name, str(int(suite.get(name, "0")) + count))
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            tree.write(opened, encoding="utf-8", xml_declaration=True)
        Path(beside).chmod(path.stat().st_mode & 0o777)
        Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)
