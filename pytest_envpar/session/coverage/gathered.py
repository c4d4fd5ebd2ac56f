"""What the insides have measured, as one set of data of coverage.py with paths of the host.

Nothing that comes from inside is trusted: no file of coverage.py is opened that was made there, every row is looked at,
and a path counts only if it leads to a file of the project.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import coverage

    from pytest_envpar.worker.agent import wire

_MOST = 1 << 28
"""No line has a higher number: coverage.py itself keeps no more bits of one."""
_LONGEST = 4096
_SLOW = "PyTracer"

Row = tuple[str, str, str, list[int]]


class Sink(Protocol):
    """Takes what a worker has measured."""

    def take(self, stage: str, message: wire.Coverage, mapped: Callable[[str], str]) -> None:
        """Keep one message.

        Args:
            stage: Whose worker this is.
            mapped: A container path as it reads on the host.
        """
        ...


@dataclasses.dataclass
class Facts:
    """What is known of the measuring in one stage; it grows with each message.

    Args:
        python: ``sys.version_info`` of the inside.
        version: Of coverage.py inside.
        slow: coverage.py inside has no tracer but the one in Python.
        begun: How many workers have begun to measure.
        done: How many of them have told all of it.
    """

    python: tuple[int | str, ...] = ()
    version: str = ""
    slow: bool = False
    begun: int = 0
    done: int = 0

    def add(self, facts: dict[str, Any]) -> None:
        """Take the facts of a message, if they are such."""
        python = facts.get("python")
        if isinstance(python, list) and len(python) == 5 and all(isinstance(x, (int, str)) for x in python):
            self.python = tuple(python)
            self.begun += 1
        if isinstance(facts.get("version"), str):
            self.version = facts["version"][:40]
        self.slow = self.slow or facts.get("tracer") == _SLOW
        self.done += facts.get("done") is True


class Gathered:
    """Owns the data that is going to be reported.

    Args:
        open_data: Where it goes; asked when there is something.
        root: The project (host, absolute).
        here: What relative paths are relative to (host).
        alias: What ``[paths]`` of coverage.py's configuration makes of a path.
        branch: Branches are measured, not only lines.
    """

    def __init__(
        self,
        open_data: Callable[[], coverage.CoverageData],
        root: Path,
        here: Path,
        alias: Callable[[str], str],
        *,
        branch: bool,
    ) -> None:
        self.stages: dict[str, Facts] = {}
        self.outside: set[str] = set()
        """Files that were measured and are not of the project, as the inside names them."""
        self.missing: set[str] = set()
        """Files that were measured and that only the inside has, named as there: no report can be made of them."""
        self.error = ""
        """Why coverage.py did not take the data."""
        self._open = open_data
        self._root = Path(os.path.realpath(root))
        self._here = here
        self._alias = alias
        self._branch = branch

    def take(self, stage: str, message: wire.Coverage, mapped: Callable[[str], str]) -> None:
        """See :class:`Sink`."""
        self.stages.setdefault(stage, Facts()).add(message.facts)
        if not message.rows or self.error:
            return
        from coverage.exceptions import CoverageException

        try:
            self._add(message.rows, message.facts.get("tracers"), mapped)
        except CoverageException as error:  # data that does not go with what --cov-append found
            self.error = str(error)

    def _add(self, rows: Iterable[Any], tracers: Any, mapped: Callable[[str], str]) -> None:
        place = functools.cache(lambda name: self._place(name, mapped))
        by_context: dict[tuple[str, str], dict[str, list[Any]]] = {}
        touched: list[str] = []
        for row in rows:
            checked = _checked(row)
            if checked is None:
                continue
            context, name, kind, numbers = checked
            path = place(name)
            if path is None:
                continue
            if kind == "none":
                touched.append(path)
                continue
            found = by_context.setdefault((context, kind), {}).setdefault(path, [])
            found += numbers if kind == "lines" else list(zip(numbers[::2], numbers[1::2], strict=True))
        data = self._open()
        for (context, kind), files in by_context.items():
            data.set_context(context)
            if kind == "lines":
                data.add_lines(files)
            else:
                data.add_arcs(files)
        if touched:
            data.set_context("")
            # Where nothing ran, this says of which kind the data is.
            if self._branch:
                data.add_arcs({})
            else:
                data.add_lines({})
            data.touch_files(touched)
        if isinstance(tracers, dict):
            names = {place(name): tracer for name, tracer in tracers.items() if isinstance(name, str)}
            data.add_file_tracers(
                {
                    path: tracer
                    for path, tracer in names.items()
                    if path is not None and isinstance(tracer, str) and path in data.measured_files()
                }
            )

    def _place(self, name: str, mapped: Callable[[str], str]) -> str | None:
        """The path on the host; None for a file that is not of the project, or not here."""
        path = self._alias(mapped(name))
        real = os.path.realpath(self._here / path)
        if not Path(real).is_relative_to(self._root):
            self.outside.add(name)
            return None
        if not _is_here(Path(real)):
            self.missing.add(name)
            return None
        return real if Path(path).is_absolute() else path


def _is_here(path: Path) -> bool:
    """Whether there is such a file, or one that may hold it: coverage.py reads modules in archives, too."""
    try:
        return path.is_file() or any(folder.is_file() for folder in path.parents)
    except OSError:  # a name that is too long for a file
        return False


class Passed:
    """What a worker of pytest-xdist has measured, for its controller."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def take(self, stage: str, message: wire.Coverage, mapped: Callable[[str], str]) -> None:
        """See :class:`Sink`."""
        facts = message.facts
        tracers = facts.get("tracers")
        if isinstance(tracers, dict):
            facts = {**facts, "tracers": {mapped(str(name)): value for name, value in tracers.items()}}
        rows = [[row[0], mapped(row[1]), *row[2:]] for row in message.rows if _checked(row) is not None]
        text = json.dumps([stage, facts, rows])
        self._pieces.append(base64.b85encode(zlib.compress(text.encode("ascii"), 1)).decode("ascii"))

    @property
    def output(self) -> list[str]:
        """What fits into the output of a worker."""
        return self._pieces


def unpacked(pieces: Any) -> Iterable[tuple[str, wire.Coverage]]:
    """What a worker of pytest-xdist has passed on, by stage."""
    from pytest_envpar.worker.agent import wire

    for piece in pieces or ():
        stage, facts, rows = json.loads(zlib.decompress(base64.b85decode(piece)))
        yield stage, wire.Coverage(facts, rows)


def _checked(row: Any) -> Row | None:
    if not isinstance(row, list) or len(row) != 4:
        return None
    context, name, kind, numbers = row
    if not isinstance(context, str) or not isinstance(name, str) or not isinstance(numbers, list):
        return None
    if not name or len(name) > _LONGEST or "\0" in name or len(context) > _LONGEST:
        return None
    if kind not in ("lines", "arcs", "none") or (kind == "arcs" and len(numbers) % 2):
        return None
    if not all(type(number) is int and -_MOST < number < _MOST for number in numbers):
        return None
    return context, name, kind, numbers


def aliases(cov: coverage.Coverage) -> Callable[[str], str]:
    """What ``[paths]`` of the configuration makes of a path, as ``coverage combine`` has it."""
    from coverage.files import PathAliases

    made = PathAliases(relative=bool(cov.get_option("run:relative_files")))
    paths: Any = cov.get_option("paths") or {}
    for first, *others in paths.values():
        for pattern in others:
            made.add(pattern, first)
    if not any(len(entry) > 1 for entry in paths.values()):
        return lambda path: path

    def alias(path: str) -> str:
        return str(made.map(path))

    return alias
