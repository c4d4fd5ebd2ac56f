"""What a stage run says after pytest's own summary: plugins inside, drift, shadowed code, tests that nobody saw."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import userfiles
from pytest_envpar.containers import artifacts
from pytest_envpar.drift import changes, render
from pytest_envpar.errors import EnvparError
from pytest_envpar.session.crash import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_envpar.config.model import Settings
    from pytest_envpar.drift.produce import Store
    from pytest_envpar.worker.start import Site


class Summary:
    """Collects lines during a run and writes them once.

    Args:
        stage: The stage's name.
        alone: Whether it is the only one of the run.
    """

    def __init__(self, stage: str, *, alone: bool = True) -> None:
        self._inside: list[list[str | None]] = [[]]
        self.notes: list[str] = []
        self.kept: list[str] = []
        """How to enter and remove the containers that stay."""
        self.unseen = 0
        self._prefix = "envpar: " if alone else f"envpar: {stage}: "
        self._folder = None if alone else f"envpar-artifacts/{stage}"
        self._changes: list[changes.Changes] = []
        self._looked = False
        self._artifacts: dict[Path, None] = {}
        self._owed = False

    @property
    def inside(self) -> list[str | None]:
        """Texts of plugins in the current container; None is where the line has to end if one has begun."""
        return self._inside[-1]

    def next_container(self) -> None:
        """What is heard from now on is from another container."""
        self._inside.append([])

    def look(self, site: Site, settings: Settings) -> None:
        """Ask a container, before it goes, what the suite left in it, and bring the artifacts."""
        self._looked = True
        left = site.left_behind(_known_images)
        if left is not None:
            self._changes.append(left)
        if settings.artifacts:
            try:
                brought = artifacts.collect(
                    site.ground.engine,
                    site.container.id,
                    site.paths.container,
                    settings.artifacts,
                    self._target(settings.root),
                )
                self._artifacts |= dict.fromkeys(brought)
            except EnvparError as error:
                self.notes.append(f"artifacts could not be brought back: {error.message}")

    def shadowed(self, found: Iterable[Sequence[str]]) -> None:
        """Note modules of the project that the tests had from somewhere else: name, place and source of each."""
        for name, where, source in found:
            self.notes.append(
                f"the tests imported {name} from {where}, which is installed in the image, "
                f"not from the project ({source})"
            )

    @property
    def changes(self) -> changes.Changes:
        """What the suite left in its containers, as far as that could be looked at."""
        return changes.united(self._changes)

    def _target(self, root: Path) -> Path:
        """Where artifacts go (host). Several stages write the same names, so each has a folder of its own then."""
        if self._folder is None:
            return root
        folder = root / self._folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_inside(self, reporter: Any) -> None:
        """Write the sections of plugins inside, where a local run has those of plugins."""
        for number, texts in enumerate(self._inside):
            if texts in self._inside[:number]:
                continue  # what every container says is said once
            for text in texts:
                if text is None:
                    reporter.ensure_newline()
                else:
                    reporter.write(text)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Come last."""
        self.write(terminalreporter)

    def pytest_sessionfinish(self) -> None:
        """From now on there is something to say."""
        self._owed = True

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Say what nobody may miss where pytest writes no summary: after internal errors, ``pytest.exit("", 9)``."""
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        if self._owed and reporter is not None:
            self._write(reporter, [*self._told(), *map(escaped, self.kept)])

    def write(self, reporter: Any) -> None:
        """Write what we have to say to pytest's terminal reporter."""
        verbosity = reporter.config.get_verbosity() if hasattr(reporter.config, "get_verbosity") else 0
        self._write(reporter, self.lines(verbosity))

    def _write(self, reporter: Any, lines: Iterable[str]) -> None:
        self._owed = False
        for line in lines:
            reporter.write_line(f"{self._prefix}{line}" if not line.startswith(" ") else line)

    def lines(self, verbosity: int) -> list[str]:
        """What we have to say, without our name.

        Args:
            verbosity: As pytest counts ``-v`` and ``-q``.
        """
        lines = self._told()
        if self._artifacts and verbosity >= 0:
            lines.append(f"{len(self._artifacts)} artifacts brought back")
        if self._looked and verbosity >= 0:
            if not self._changes:
                lines.append("drift: not compared, the container is gone")
            else:
                found = changes.united(self._changes)
                lines.append(render.summary_line(found))
                if verbosity > 0:
                    lines += render.detail_lines(found)
        return [*lines, *map(escaped, self.kept)]

    def _told(self) -> list[str]:
        lines = [escaped(note) for note in self.notes]
        if self.unseen:
            what = "test ran inside and is" if self.unseen == 1 else "tests ran inside and are"
            lines.append(f"{self.unseen} {what} not shown, because the run was stopped")
        return lines


@contextlib.contextmanager
def _known_images() -> Iterator[Store]:
    with userfiles.open_ledger() as ledger:
        yield ledger.manifests
