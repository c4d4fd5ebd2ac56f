"""Stages that are built."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rig.runs import Ran

    from .projects import Project

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


@pytest.mark.slow
def test_one_of_two_runs_builds(project: Project, built: list[str]) -> None:
    project.write("docker/Dockerfile", f"FROM {project.image}\nRUN sleep 2\n")
    project.stage('build = { context = "docker" }')
    project.write("test_it.py", "def test_a(): pass\n")
    results: list[Ran] = []
    threads = [threading.Thread(target=lambda: results.append(project.run(alone=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built += {tag for result in results for tag in _tags(result.err)}
    assert [result.ok().code for result in results] == [0, 0]
    assert sum("envpar: building pytest-envpar/" in result.err for result in results) == 1


def test_what_needs_a_session_is_refused_before_the_build(project: Project) -> None:
    project.write(
        "docker/Dockerfile",
        f"""\
        FROM {project.image}
        RUN --mount=type=secret,id=token true
        RUN --mount=type=ssh \\
            true
        """,
    )
    project.stage('build = { context = "docker" }')
    refused = project.suite("def test_a(): pass").refused(
        "docker/Dockerfile mounts secrets or ssh keys, which is not supported (line 2: type=secret, line 3: type=ssh)",
        "hint: fetch what needs a secret outside of the build",
        "[image]",
    )
    assert "building" not in refused.err


def test_buildkit_builds_where_the_engine_has_it(project: Project, built: list[str]) -> None:
    """A mount of a cache is known to BuildKit alone, and it does not build what the target does not need."""
    project.write("docker/named.dockerignore", "left\n")
    project.write("docker/left", "x")
    project.write("docker/kept", "x")
    project.write(
        "docker/named",
        f"""\
        FROM {project.image} AS unused
        RUN false
        FROM {project.image}
        RUN --mount=type=cache,target=/cache touch /cache/x
        COPY . /built
        """,
    )
    project.stage('build = { context = "docker", dockerfile = "docker/named" }')
    told = project.suite(
        """
        import os
        def test_a():
            assert sorted(os.listdir("/built")) == ["kept", "named", "named.dockerignore"]
            assert not os.path.exists("/cache/x")
        """
    )
    built += _tags(told.err)
    told.ok()
