"""What pytest tells of a suite without a debugger: the same lines as locally."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .projects import same

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import pytest
    @pytest.fixture(scope="module")
    def shelf(): yield 1
    @pytest.fixture
    def book(shelf): return shelf
    def test_a(book): print("it ran")
    @pytest.mark.parametrize("number", [1, 2])
    def test_b(number): pass
    """


@pytest.mark.parametrize(
    "options",
    [
        ("--setup-show", "-s"),
        pytest.param(("--setup-plan",), marks=pytest.mark.slow),
        pytest.param(("--setup-only",), marks=pytest.mark.slow),
        pytest.param(("--collect-only",), marks=pytest.mark.slow),
        pytest.param(("--version",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_as_locally(project: Project, options: tuple[str, ...]) -> None:
    project.write("test_it.py", SUITE)
    local = project.with_input(None, *options, stage=None)
    inside = project.with_input(None, *options)
    assert (inside[0], same(inside[1])) == (local[0], same(local[1])), "\n".join((inside[1], local[1]))


def test_markers_are_those_of_the_inside(project: Project) -> None:
    """The host imports no conftest, which here can be imported inside alone."""
    project.write(
        "conftest.py",
        """
        import os
        assert os.path.isdir("/.envpar"), "not inside"
        def pytest_configure(config):
            config.addinivalue_line("markers", "mine(x): a marker of the project")
        """,
    )
    project.write("test_it.py", SUITE)
    for more in ((), ("-n2",)):
        status, output = project.with_input(None, "--markers", *more)
        assert status == 0, output
        assert "@pytest.mark.mine(x): a marker of the project" in output
