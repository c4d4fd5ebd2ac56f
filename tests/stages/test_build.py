"""Stages that are built."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.engine

SUITE = """
    import os
    def test_files():
        assert sorted(os.listdir("/built")) == os.environ["EXPECTED"].split()
        assert os.environ.get("FROM_ARG") == "V1"
"""


def _tags(text: str) -> list[str]:
    return re.findall(r"pytest-envpar/[\w./-]+:\w+", text)


def test_build(project: Project, built: list[str]) -> None:
    """Context, Dockerfile, target, arguments and ``.dockerignore``; the same inputs are built once."""
    project.write("image/in/kept.txt", "x")
    project.write("image/in/left.txt", "x")
    project.write("image/.dockerignore", "in/left.txt\n")
    dockerfile = project.write(
        "docker/qa.Dockerfile",
        f"""\
        FROM {project.image} AS first
        ARG V=none
        ENV FROM_ARG=$V
        COPY in /built
        FROM first AS qa
        RUN touch /built/of-qa
        FROM qa AS never
        RUN false
        """,
    )
    project.stage(
        'build = { context = "image", dockerfile = "docker/qa.Dockerfile", target = "qa", args = { V = "V1" } }',
        'env = { EXPECTED = "kept.txt of-qa" }',
    )
    first = project.suite(SUITE)
    built += _tags(first.err)
    first.ok()
    assert "envpar: building " in first.err
    again = project.run().ok()
    assert again.err == ""
    # What is ignored, and when a file was written, are no inputs.
    project.write("image/in/left.txt", "changed")
    project.write("image/in/kept.txt", "x")
    assert "building" not in project.run().ok().err

    project.write("image/in/new.txt", "x")
    changed = project.run()
    built += _tags(changed.err)
    assert "envpar: building " in changed.err
    assert changed.code == 1  # the new file is there

    dockerfile.write_text(
        dockerfile.read_text().replace("touch /built/of-qa", "echo told-by-the-step; exit 7")
    )
    failed = project.run().refused(
        "stage 'qa': building", "qa.Dockerfile failed", "told-by-the-step", "exit 7", "[image]"
    )
    assert "test session starts" not in failed.out


@pytest.mark.parametrize(
    ("build", "shown"),
    [
        ('{ dockerfile = "no/Dockerfile" }', ("the Dockerfile", "no/Dockerfile does not exist")),
        ('{ context = "nowhere" }', ("the context", "nowhere does not exist")),
        ('{ dockerfile = "docker/x", target = "tt" }', ("docker/x", "tt")),
        ('{ dockerfile = "docker/syntax" }', ("docker/syntax", "FORM")),
        ('{ dockerfile = "docker/copy" }', ("docker/copy", "absent.txt")),
        ('{ dockerfile = "docker/from" }', ("docker/from", "localhost:1/absent")),
    ],
)
def test_builds_that_cannot_be(build: str, shown: tuple[str, ...], project: Project) -> None:
    project.write("docker/x", f"FROM {project.image}\n")
    project.write("docker/syntax", "FORM scratch\n")
    project.write("docker/copy", f"FROM {project.image}\nCOPY absent.txt /\n")
    project.write("docker/from", "FROM localhost:1/absent:1\n")
    project.stage(f"build = {build}")
    project.suite("def test_a(): pass").refused("qa", *shown, "hint: " if "no" in build else "[image]")


def test_image_that_is_nowhere(project: Project) -> None:
    project.stage('image = "envpar-bsae:py3.11"')
    project.suite("def test_a(): pass").refused("envpar-bsae:py3.11", "images on this engine: ", "[image]")
