"""Without capture, what a test prints appears line by line while it runs, where it would locally."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("options", [("-s",), ("--capture=tee-sys", "-v")], ids=["s", "tee-sys"])
def test_output_appears_while_the_test_still_runs(project: Project, options: tuple[str, ...]) -> None:
    project.stage(top='source = "mount-rw"')
    project.write(
        "test_it.py",
        """
        import pathlib, sys, time
        def until(name):
            deadline = time.monotonic() + 60
            while not pathlib.Path(name).exists():
                assert time.monotonic() < deadline, "nobody has seen what was printed"
                time.sleep(0.01)
        def test_before(): pass
        def test_talks():
            print("first line")
            until("seen-first")
            print("second line", file=sys.stderr)
            until("seen-second")
        """,
    )
    run = project.start(*options)  # with an unbuffered Python, which prints as on a terminal
    for line in ("first", "second"):
        run.wait_for(f"{line} line")
        project.write(f"seen-{line}", "")
    result = run.end().clean()
    assert result.code == 0
    assert result.counts == {"passed": 2}
    assert project.left() == []
