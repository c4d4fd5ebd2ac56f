"""A gate as a test case of a JUnit file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import drift_text

if TYPE_CHECKING:
    from pytest_envpar.drift.findings import Drift, FailOn

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
