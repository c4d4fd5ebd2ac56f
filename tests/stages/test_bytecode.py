"""The bytecode cache of test modules: used again, never stale, writable for any user, none for copies."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours, sweep

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import pathlib, sys
    def test_place():
        import _pytest.assertion.rewrite as rewrite
        folder = rewrite.get_cache_dir(pathlib.Path(__file__))
        print("FOLDER", folder, "FILES", sum(1 for _ in folder.glob("test_it*.pyc")) if folder.exists() else 0)
        assert sys.pycache_prefix is None
        assert VALUE == 1
"""


def test_kept_between_runs_and_never_stale(project: Project) -> None:
    project.stage()
    project.write("test_it.py", SUITE.replace("VALUE", "1"))
    assert "FOLDER /.envpar/bytecode/" in project.run("-rP").ok().out
    assert project.run().ok().line == "1 passed"
    project.write("test_it.py", SUITE.replace("VALUE", "22"))
    assert "assert 22 == 1" in project.run().out


def test_it_goes_when_its_project_is_gone(project: Project, engine: Engine) -> None:
    def caches() -> list[str]:
        return [
            each.name
            for each in list_ours(engine)
            if each.project == str(project.root) and each.type == "volume"
        ]

    project.write("test_it.py", "def test_a(): pass\n")
    project.run().ok()
    sweep(engine, everything_dead=False)
    assert len(caches()) == 1
    shutil.rmtree(project.root)
    sweep(engine, everything_dead=False)
    assert caches() == []


def test_other_users_than_root_may_write(project: Project) -> None:
    project.stage('user = "1234:1234"', top='source = "mount"')
    project.root.parent.chmod(0o755)
    project.root.chmod(0o755)
    project.write("test_it.py", SUITE.replace("VALUE", "1")).chmod(0o644)
    project.run("-rP").ok()
    assert " FILES 1" in project.run("-rP").ok().out


def test_a_copy_has_none(project: Project) -> None:
    project.stage(top='source = "copy"')
    project.write("test_it.py", SUITE.replace("VALUE", "1"))
    assert "/.envpar/bytecode" not in project.run("-rP").ok().out
