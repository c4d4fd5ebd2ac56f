"""What is to be measured: the host reads coverage.py's configuration, as in a local run, and the inside is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import UsageError
from pytest_envpar.worker import tracer
from pytest_envpar.worker.start import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import coverage

    from pytest_envpar.config.model import Settings
    from pytest_envpar.session.link import Place

FOLDER = f"{SCRATCH}/coverage"
"""Ours inside, for coverage.py's files."""

OURS = "/.envpar/*"
"""What is never measured."""

_TEXTS = ("context", "core", "dynamic_context", "debug_file")
_FLAGS = ("branch", "cover_pylib", "relative_files", "sigterm", "timid")
_LISTS = ("concurrency", "debug", "disable_warnings", "include", "patch", "plugins", "source_pkgs")
_PATHS = ("include", "source_dirs", "debug_file")


def is_wanted(settings: Settings, known: Any, args: Sequence[str]) -> bool:
    """Whether this run is measured.

    Args:
        known: pytest's namespace with all that the host knows of the command line.
        args: The command line as the user gave it.

    Raises:
        UsageError: Two things that measure were asked for.
    """
    if getattr(known, "no_cov", False):
        return False
    if hasattr(known, "cov_source"):
        return bool(known.cov_source) or settings.coverage
    given = next((arg for arg in args if arg.startswith("--cov")), None)
    if settings.coverage and given is not None:
        raise UsageError(
            f"{given}: the configuration says coverage = true, and pytest-cov is not on this side",
            hint="install pytest-cov beside pytest-envpar, or leave the option out",
        )
    return settings.coverage


def by_pytest_cov(known: Any) -> bool:
    """Whether pytest-cov was asked to measure, and is here."""
    return bool(getattr(known, "cov_source", None))


def patches_children(cov: coverage.Coverage) -> bool:
    """Whether the configuration has coverage.py measure the processes that tests start."""
    from coverage.exceptions import CoverageException

    try:
        patches: Any = cov.get_option("run:patch")
    except CoverageException:
        return False
    return "subprocess" in (patches or ())


@dataclasses.dataclass(frozen=True)
class Asked:
    """What every worker of the run is told.

    Args:
        cov: coverage.py on this side, with the configuration of a local run. It never measures.
        contexts: Each test and phase has a context of its own.
        whole: Measure as ``coverage run -m pytest`` does, not as pytest-cov does.
        children: Processes that tests start are measured, too.
        crew: This process is one of several that run the tests of a stage.
    """

    cov: coverage.Coverage
    contexts: bool = False
    whole: bool = False
    children: bool = False
    crew: bool = False

    def options(
        self, place: Place, stage: str | None, found: tracer.Tracer, python: tuple[int, int, int]
    ) -> dict[str, Any]:
        """What the worker's :mod:`measure` is told.

        Args:
            place: The worker's container.
            stage: The stage's name where there are several, which becomes a context.
            found: The coverage.py inside.
            python: The Python inside.
        """
        own = found.volume is None
        settings = dict(self._settings(place.paths.argument, stage))
        if not found.compiled:
            settings["disable_warnings"] = [*settings.get("disable_warnings", ()), "no-ctracer"]
            if self._serves_sysmon(python):
                settings["core"] = "sysmon"
        concurrency = settings.get("concurrency", ())
        return {
            "home": "" if own else str(tracer.ROOT),
            "config": _written({"run": settings, **self._plugin_options()}),
            "folder": FOLDER,
            "contexts": self.contexts,
            "whole": self.whole,
            "children": self.children,
            # Children of multiprocessing that are spawned have to find it, too.
            "hook": self.children or (not own and "multiprocessing" in concurrency),
            "first": not self.crew,
        }

    def _serves_sysmon(self, python: tuple[int, int, int]) -> bool:
        """Whether the interpreter can measure by itself what is asked for, where the tracer in C is missing."""
        known = self._get("core", unknown="unknown")
        newest = python >= (3, 14) or (python >= (3, 12) and not self._get("branch"))
        others = self.contexts or self._get("dynamic_context") or self._get("plugins") or self._get("timid")
        return newest and known is None and not others

    def _settings(self, mapped: Callable[[str], str], stage: str | None) -> Iterator[tuple[str, Any]]:
        for name in _FLAGS:
            if self._get(name):
                yield name, "true"
        for name in _TEXTS:
            value = self._get(name)
            if name == "context" and stage is not None:
                value = f"{value}|{stage}" if value else stage
            if value:
                yield name, mapped(str(value)) if name in _PATHS else str(value)
        for name in (*_LISTS, "source_dirs"):
            values = [str(value) for value in self._get(name) or ()]
            if name == "patch":  # what it does to processes is done in our own way, for any version inside
                values = [value for value in values if value != "subprocess"]
            if values:
                yield name, [mapped(value) for value in values] if name in _PATHS else values
        source = self._get("source")
        if source is not None:
            yield "source", [mapped(_absolute(str(each))) for each in source] or None
        yield "omit", [*(mapped(str(each)) for each in self._get("omit") or ()), OURS]
        yield "parallel", "true"
        yield "data_file", f"{FOLDER}/data"

    def _plugin_options(self) -> dict[str, dict[str, Any]]:
        """The tables of coverage.py's plugins."""
        found = {}
        for plugin in self._get("plugins") or ():
            options = self.cov.config.get_plugin_options(plugin)
            if options:
                found[str(plugin)] = dict(options)
        return found

    def _get(self, name: str, unknown: Any = None) -> Any:
        from coverage.exceptions import CoverageException

        try:
            return self.cov.get_option(f"run:{name}")
        except CoverageException:
            return unknown  # newer than this coverage.py


def _absolute(source: str) -> str:
    """Where a source is a folder, processes with another working directory have to find it as well."""
    path = Path(source)
    return str(path.absolute()) if path.is_dir() else source


def _written(tables: dict[str, dict[str, Any]]) -> str:
    """A configuration file of coverage.py, in the form that all its versions read without help."""
    lines: list[str] = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        for name, value in values.items():
            if value is None:
                continue
            several = ["", *map(str, value)] if isinstance(value, (list, tuple)) else str(value).splitlines()
            # A dollar would begin the name of a variable.
            text = "\n    ".join(each.replace("$", "$$") for each in several)
            lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
