"""Plugins of others: each does its work once, on the side where it can."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import asyncio, os, time
    import pytest
    from hypothesis import given, strategies

    @pytest.mark.asyncio
    async def test_asyncio(): await asyncio.sleep(0)

    def test_mock(mocker):
        mocker.patch("os.getcwd", return_value="/mocked")
        assert os.getcwd() == "/mocked"

    @pytest.mark.timeout(0.5)
    def test_timeout(): time.sleep(60)

    tries = []
    @pytest.mark.flaky(reruns=3)
    def test_rerun():
        tries.append(1)
        assert len(tries) == 3

    def test_subtests(subtests):
        for number in range(3):
            with subtests.test(number=number):
                assert number != 1

    @given(strategies.integers())
    def test_hypothesis(number): assert number < 1000

    @pytest.mark.django_db
    def test_django(settings):
        from django.db import connection
        with connection.cursor() as cursor:
            cursor.execute("select 6 * 7")
            assert cursor.fetchone() == (42,)
        assert settings.USE_TZ
    """
NAMES = ("asyncio", "mock", "timeout", "rerun", "subtests", "hypothesis", "django")
"""In the order of the file."""


@pytest.fixture(scope="module")
def suite(project: Project) -> Project:
    """A suite that needs all of them. Its settings can be imported inside only."""
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = inside_settings\npythonpath = .\n")
    project.write(
        "inside_settings.py",
        """
        import os
        assert os.path.exists("/.envpar"), "imported on the host"
        SECRET_KEY = "x"
        USE_TZ = True
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        """,
    )
    project.write("test_all.py", SUITE)
    return project


def test_every_plugin_does_its_work_once_whichever_side_has_it(suite: Project) -> None:
    arguments = ("test_all.py", "-v", "--randomly-seed=5")
    reports = ("--html=out.html", "--self-contained-html", "--json-report", "--json-report-file=out.json")
    inside = suite.run(*arguments, on_host=False)
    both = suite.run(*arguments, *reports, on_host=True)
    for ran in (inside, both):
        assert ran.code == 1, ran.text
        assert "3 failed, 5 passed, 2 subtests passed, 2 rerun" in ran.text, ran.text
        assert "Failed: Timeout (>0.5s) from pytest-timeout." in ran.text
        assert ran.text.count("test_all.py::test_rerun RERUN") == 2
        assert ran.text.count("Using --randomly-seed=5\n") == 1
        assert "assert 1000 < 1000" in ran.text
        assert {name.removeprefix("test_") for name in ran.order} == set(NAMES)
    # Shuffled once: by the same seed in the same order, whoever else has the plugin.
    assert both.order == inside.order
    assert both.order != ["test_" + name for name in NAMES]
    # The reports are the host's, once, and of what was shown.
    assert both.text.count("Generated html report") == 1
    report = json.loads((suite.root / "out.json").read_text(encoding="utf-8"))
    assert report["summary"]["total"] == len(NAMES)
    assert [test["nodeid"].partition("::test_")[2] for test in report["tests"]] == [
        name.removeprefix("test_") for name in both.order
    ]
    page = (suite.root / "out.html").read_text(encoding="utf-8")
    assert "in a container" in page
    assert "&#34;stage&#34;: &#34;qa&#34;" in page


def test_a_report_where_only_the_host_has_the_plugin(project: Project) -> None:
    project.write("test_bare.py", "def test_a(): pass\ndef test_b(): assert 0\n")
    ran = project.run(
        "test_bare.py", "-c", "/dev/null", "--rootdir=.", "--html=bare.html", "--json-report",
        "--json-report-file=bare.json", stage="bare", on_host=True,
    )  # fmt: skip
    assert ran.code == 1, ran.text
    report = json.loads((project.root / "bare.json").read_text(encoding="utf-8"))
    assert report["summary"] == {"passed": 1, "failed": 1, "total": 2, "collected": 2}
    assert "test_bare.py::test_b" in (project.root / "bare.html").read_text(encoding="utf-8")
