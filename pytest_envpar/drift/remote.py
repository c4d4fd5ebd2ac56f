"""The scanner inside a container, spoken to over the engine: also where the engine is on another machine."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from pytest_envpar.drift import inside
from pytest_envpar.drift.inside import digests, files, program, scan
from pytest_envpar.drift.manifest import MAX_ENTRIES, MAX_LINKS, too_many
from pytest_envpar.drift.model import NotCompared
from pytest_envpar.errors import ConnectionLostError, EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_envpar.engine.api import Stream

PYTHONS = (
    "python3",
    "/usr/bin/python3",
    "/usr/local/bin/python3",
    "/opt/venv/bin/python",
    "/opt/conda/bin/python",
)
"""Where a Python is looked for."""

OTHER = "/proc/1"
"""The first process of a container whose process namespace the scanner's own has joined."""
MOUNTED = "/.envpar/image"
"""Where a container has another image mounted."""

ROW = 9
"""Fields of a row."""
_DETAIL = 4
_MAX_FRAME = 1 << 26
_MAX_FIELDS = 2 * MAX_LINKS
"""In one frame: those of rows end long before, and all notes are in one."""
_MAX_TOLD = 1 << 30
"""Bytes of everything but rows."""
_IDLE_S = 300.0
"""The longest silence: a large file is read without a word."""
_START_S = 60.0
_SLACK_S = 0.1
"""The kernel stamps files by a clock that is behind the engine's by up to a tick, which is 10 ms at the most."""
_LETTERS = frozenset((b"H", b"M", b"R", b"L", b"N", b"P", b"E", b"X"))

# Modules of ours that it needs, in the order in which they need each other, as modules of the same names there.
_LOADER = """\
import sys
package = sys.modules[{package!r}] = type(sys)({package!r})
for name, text in {parts!r}:
    module = sys.modules[package.__name__ + "." + name] = type(sys)(name)
    setattr(package, name, module)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
module.main()
"""

Row = tuple[str, str, str, str, str, str, str, str, str]
"""A record and the ``inode:ctime`` of its file, with a mark if that is the container's own; of a folder only if single
folders were asked for."""
Frame = tuple[bytes, bytes]
"""Rows as they were sent: the letter that says whether files with several names are among them, and the fields."""


class Detail(NamedTuple):
    """What is only told of single paths. ``xattrs`` are as in a record."""

    digest: str
    xattrs: str


class Listing(Protocol):
    """A file system that can be listed without being read, and then looked at where that is needed."""

    @property
    def notes(self) -> Sequence[NotCompared]:
        """What was not read; known when everything else is."""
        ...

    @property
    def most_moved(self) -> int | None:
        """How many files may be other inodes than on the other side before it is of no use; ``None`` for any number."""
        ...

    def frames(self, skip: Sequence[str]) -> Iterator[Frame]:
        """Ask for all of it, and give the answer as it comes. Errors as :meth:`Scanner.rows`."""
        ...

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        """Look at paths that are no folders; one that is gone is missing. Errors as :meth:`Scanner.rows`."""
        ...


class NoScannerError(EnvparError):
    """The scanner cannot run in this container; another route has to be taken."""

    code = "no-scanner"


class Scanner:
    """A scanner that runs. Answers one request after the other.

    Args:
        stream: Its standard input and output.
        what: The container, for errors.
        born_s: When the container was made (seconds since 1970), if it is one that others than we have something done
            in; what changed since is never the same file as another container's.
        timeout_s: Seconds for all of it.
    """

    most_moved: int | None = None
    """See :class:`Listing`: what it says is true at this moment."""

    def __init__(
        self, stream: Stream, what: str, *, born_s: float | None = None, timeout_s: float = 3600.0
    ) -> None:
        self._stream = stream
        self._what = what
        self._born = "" if born_s is None else str(int((born_s - _SLACK_S) * 1e9))
        self._deadline = time.monotonic() + timeout_s
        self._data = bytearray()
        self._errors = bytearray()
        self._greeted = False
        self._told_bytes = 0
        self.mounts: dict[str, str] = {}
        """Where something is mounted, and its file system: known once the first row has come."""
        self.notes: list[NotCompared] = []
        """Known after the last row."""

    def ready(self) -> None:
        """Wait until it runs. NoScannerError if it cannot, or may not read everything."""
        if self._greeted:
            return
        letter, data = self._frame()
        if letter != b"H":
            raise self._broken()
        self._greeted = True
        closed = " ".join(_fields(data, self._what))
        if closed:
            raise NoScannerError(f"{self._what}: {closed[:300]}")

    def rows(self, *, skip: Sequence[str] = (), limit: int = MAX_ENTRIES) -> Iterator[Row]:
        """The rows of the whole file system, every file read, in tree order.

        Args:
            skip: Paths that are left out with everything below them.
            limit: How many entries are too many.

        Raises:
            NoScannerError: It did not start.
            EngineError: It failed later on.
        """
        self._ask(b"S", ["1", str(limit), self._born, *skip])
        return (row for frame in self._listed() for row in self.parsed(frame))

    def frames(self, skip: Sequence[str]) -> Iterator[Frame]:
        """See :class:`Listing`. It is asked at once, and works before the first frame is taken."""
        self._ask(b"S", ["", str(MAX_ENTRIES), self._born, *skip])
        return self._listed()

    def folders(self, paths: Sequence[str], skip: Sequence[str]) -> Iterator[Frame]:
        """Ask what is in some folders, and not below them; of the root itself, too. Otherwise as :meth:`frames`.

        Folders have an ``inode:ctime`` where equal ones have the same below them. Files with several names have
        ``inode:ctime:names``, how many names there are anywhere in their layer.
        """
        self._ask(b"F", [str(MAX_ENTRIES), str(len(skip)), *skip, *paths])
        return self._listed()

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        """See :class:`Listing`."""
        found: dict[str, Detail] = {}
        open_paths = set(paths)
        self._ask(b"D", paths)
        for letter, data in self._answer():
            fields = self._checked(letter, data, b"P", _DETAIL)
            for path, digest, xattrs, reason in zip(
                *(fields[at::_DETAIL] for at in range(_DETAIL)), strict=True
            ):
                if path not in open_paths:
                    raise self._broken()
                open_paths.remove(path)
                if reason:
                    self.notes.append(NotCompared(path, reason[:200]))
                else:
                    found[path] = Detail(digest, xattrs)
            self._bound()
        return found

    def parsed(self, frame: Frame) -> Iterator[Row]:
        """The rows in a frame."""
        return parsed(frame, self._what)

    def _listed(self) -> Iterator[Frame]:
        for letter, data in self._answer():
            if letter in (b"R", b"L"):
                yield letter, data
            elif letter == b"M":
                fields = self._checked(letter, data, b"M", 2)
                self.mounts |= dict(zip(fields[::2], fields[1::2], strict=True))
            else:
                fields = self._checked(letter, data, b"N", 2)
                self.notes += [
                    NotCompared(path, reason[:200])
                    for path, reason in zip(fields[::2], fields[1::2], strict=True)
                ]
            self._bound()

    def _bound(self) -> None:
        """EngineError if there is more of what is held here than there can be."""
        if len(self.notes) > MAX_LINKS or len(self.mounts) > MAX_LINKS:
            raise EngineError(f"{self._what}: more than {MAX_LINKS} paths are mounted or cannot be read")

    def _ask(self, letter: bytes, fields: Sequence[str]) -> None:
        """Send a request; the answer has to be read before the next one."""
        data = "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")
        try:
            self._stream.write(letter + struct.pack(">I", len(data)) + data)
        except ConnectionLostError:
            pass  # what it has said until then tells why

    def _answer(self) -> Iterator[Frame]:
        self.ready()
        while True:
            letter, data = self._frame()
            if letter == b"E":
                return
            if letter == b"X":
                told = _fields(data, self._what)
                if told[:1] == ["LimitError"]:
                    raise too_many(MAX_ENTRIES)
                raise EngineError(f"{self._what}: scanning failed: {' '.join(told)[:300]}")
            yield letter, data

    def _frame(self) -> Frame:
        header = self._take(5)
        (size,) = struct.unpack(">I", header[1:])
        if size > _MAX_FRAME or header[:1] not in _LETTERS:
            raise self._broken()
        return header[:1], self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            wait = min(_IDLE_S if self._greeted else _START_S, self._deadline - time.monotonic())
            piece = self._stream.read(max(0.0, wait))
            if piece is None:
                raise EngineError(f"{self._what}: scanning it took too long")
            kind, data = piece
            if kind == 0:
                said = bytes(self._errors + self._data).decode("utf-8", "replace").strip().splitlines()
                if not self._greeted:
                    raise NoScannerError(
                        f"{self._what}: no Python runs there" + (f" ({said[-1][:200]})" if said else "")
                    )
                raise EngineError(f"{self._what}: the scanner ended early", detail=tuple(said[-5:]))
            if kind == 1:
                self._data += data
            elif len(self._errors) < 1 << 16:
                self._errors += data
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _checked(self, letter: bytes, data: bytes, wanted: bytes, width: int) -> list[str]:
        self._told_bytes += len(data)
        if self._told_bytes > _MAX_TOLD:
            raise EngineError(f"{self._what}: the scanner says too much")
        fields = _fields(data, self._what)
        if letter != wanted or len(fields) % width:
            raise self._broken()
        return fields

    def _broken(self) -> EnvparError:
        if not self._greeted:
            said = bytes(self._data[:300]).decode("utf-8", "replace")
            return NoScannerError(f"{self._what}: no Python runs there ({said.strip()[:200]!r})")
        return EngineError(f"{self._what}: the scanner's answer is broken")


def parsed(frame: Frame, what: str) -> Iterator[Row]:
    """The rows in a frame. EngineError, which names ``what`` it is from, if there are none."""
    fields = _fields(frame[1], what)
    if len(fields) % ROW or frame[0] not in (b"R", b"L"):
        raise EngineError(f"{what}: the scanner's answer is broken")
    return cast("Iterator[Row]", zip(*(fields[at::ROW] for at in range(ROW)), strict=True))


def _fields(data: bytes, what: str) -> list[str]:
    if data.count(b"\0") > _MAX_FIELDS:
        raise EngineError(f"{what}: the scanner says too much at once")
    fields = data.decode("utf-8", "surrogateescape").split("\0")
    if fields.pop():
        raise EngineError(f"{what}: the scanner's answer is cut off")
    return fields


def arguments(process: str = "", folder: str = "") -> tuple[str, ...]:
    """The scanner as arguments of a Python: isolated, without the image's own site packages, names as UTF-8.

    Args:
        process: The process that sees the files (a folder of ``/proc``), if that is another container's.
        folder: Where the files are, if that is not the root.
    """
    parts = [
        (module.__name__.rpartition(".")[2], Path(str(module.__file__)).read_text(encoding="utf-8"))
        for module in (files, digests, scan, program)
    ]
    text = _LOADER.format(package=inside.__name__, parts=parts)
    return ("-I", "-S", "-B", "-X", "utf8", "-c", text, process, folder)
