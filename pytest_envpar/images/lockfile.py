"""The lock file ``envpar.lock``: its format, and how it is read and written. What it decides is in
:mod:`~pytest_envpar.images.locking`.

TOML of one shape only: stages sorted, keys in one order, one layer a line, no clock and no path of this machine, so
that the same content is the same bytes and a changed digest a changed line. Keys that nobody knows are refused, since
they are either a mistake or a promise that this version would break.

History of ``version``: 1 is the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_envpar.errors import LockError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under its older name
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = 1
NAME = "envpar.lock"
"""The file's name in the project root, unless ``lockfile`` says otherwise."""

LOCAL = "local "
"""What stands before the id of an image that no registry gave."""

_HEADER = """\
# The exact images of the stages, written by pytest-envpar. Commit it, and do not edit it: `envpar lock` completes it,
# `envpar upgrade STAGE` moves a stage to what its tag or Dockerfile gives today.
"""
_SHA = re.compile(r"sha256:[0-9a-f]{64}\Z")
_STAGE = re.compile(r"[a-z][a-z0-9_]*\Z")
_SECTION = re.compile(r"\s*\[\s*stages\s*\.\s*(?:\"([^\"]+)\"|([\w-]+))")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})(\s|$)", re.MULTILINE)
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_WAIT_S = 30.0
_MAX_BYTES = 16 << 20


class BrokenLockError(LockError):
    """What the file holds is no lock of ours. ``envpar lock`` may replace it, unlike one that cannot be read at all or
    is of a newer version."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one stage is pinned to. Every hash and id is ``sha256:`` and 64 hexadecimal digits.

    Args:
        reference: The image as the stage names it; ``None`` for a build.
        build: The Dockerfile relative to the configuration file, with ``/``; ``None`` for an image.
        digest: The digest under which the registry serves ``reference``; ``None`` if no registry gave the image.
        image_id: The hash of the image's configuration.
        platform: ``os/arch`` or ``os/arch/variant``.
        inputs: The hash of a build's inputs.
        setup: The hash of the ``setup`` steps and their inputs; ``None`` without any.
        manifest: The fingerprint of the file system; ``None`` if it could not be had.
        packages: The fingerprint of the packages; likewise.
        layers: The diff IDs of the layers, bottom first.
        base: What a build, or the layer of ``setup`` steps, starts from: reference to digest, or to ``local`` and image
            id where no registry gave it.
        services: The images of the services, in the same form.
    """

    reference: str | None
    build: str | None
    digest: str | None
    image_id: str
    platform: str
    inputs: str | None = None
    setup: str | None = None
    manifest: str | None = None
    packages: str | None = None
    layers: tuple[str, ...] = ()
    base: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    services: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


@dataclasses.dataclass(frozen=True)
class Lock:
    """A whole lock file: entries by the name of their stage."""

    stages: Mapping[str, Entry] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


def render(lock: Lock) -> str:
    """The file's text. Equal locks give equal text."""
    lines = [_HEADER, f"version = {VERSION}\n"]
    for name in sorted(lock.stages):
        entry = lock.stages[name]
        lines.append(f"\n[stages.{name}]\n")
        for field in _TEXTS:
            value = getattr(entry, field)
            if value is not None:
                lines.append(f"{_key(field)} = {_string(value)}\n")
        if entry.layers:
            lines.append("layers = [\n")
            lines += [f"  {_string(layer)},\n" for layer in entry.layers]
            lines.append("]\n")
        for table, pins in (("base", entry.base), ("services", entry.services)):
            if pins:
                lines.append(f"\n[stages.{name}.{table}]\n")
                lines += [f"{_string(key)} = {_string(pins[key])}\n" for key in sorted(pins)]
    return "".join(lines)


_TEXTS = ("reference", "build", "digest", "image_id", "platform", "inputs", "setup", "manifest", "packages")
_PINNED = {"base": "base", "services": "service image"}
_HASHES = ("digest", "image_id", "inputs", "setup", "manifest", "packages")


def _key(field: str) -> str:
    return field.replace("_", "-")


def _string(text: str) -> str:
    # A JSON string is a TOML one but for what JSON leaves alone: DEL, and surrogates, which no TOML may have.
    clean = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse(data: bytes, path: Path) -> Lock:
    """Read the file's content.

    Args:
        data: What the file holds.
        path: Where it was read (host), for messages.

    Raises:
        LockError: It is no lock file of this version: a newer one, conflict markers, or a hand edit. The message has
            the line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(path, line, f"byte 0x{data[error.start]:02x} is not UTF-8") from None
    reader = _Reader(path, text)
    raw = reader.toml()
    version = raw.pop("version", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise reader.error("version", f"expected 'version = {VERSION}', found {_shown(version)}")
    if version > VERSION:
        raise LockError(
            f"{path}: written by a newer pytest-envpar (lock version {version}, this one reads {VERSION})",
            hint="upgrade pytest-envpar; nothing was changed",
        )
    stages = raw.pop("stages", {})
    for unknown in raw:
        raise reader.error(unknown, f"unknown key {_shown(unknown)}")
    if not isinstance(stages, dict):
        raise reader.error("stages", f"'stages' is {_shown(stages)}, expected a table")
    return Lock(MappingProxyType({name: reader.entry(name, table) for name, table in stages.items()}))


class _Reader:
    """Turns the tables of one file into entries; knows where they stand."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def toml(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            conflict = _CONFLICT.search(self._text)
            if conflict is not None:
                line = self._text.count("\n", 0, conflict.start()) + 1
                raise BrokenLockError(
                    f"{self._path}:{line}: unresolved merge conflict ({conflict[1]})",
                    hint="take one side (git checkout --theirs envpar.lock, or --ours) and run: envpar lock",
                ) from None
            found = _AT_LINE.search(str(error))
            line = int(found[1]) if found else self._text.count("\n") + 1
            reason = _AT_LINE.sub("", str(error)).strip()
            raise _error(self._path, line, f"not TOML: {reason}") from None
        except RecursionError:
            raise _error(self._path, 1, "not TOML: nested too deeply") from None

    def entry(self, name: str, table: Any) -> Entry:
        if not _STAGE.match(name):
            raise self.error(name, f"{_shown(name)} is no name of a stage", name)
        if not isinstance(table, dict):
            raise self.error(name, f"stage {name!r} is {_shown(table)}, expected a table", name)
        values: dict[str, Any] = {}
        for field in _TEXTS:
            value = table.pop(_key(field), None)
            if value is not None:
                values[field] = self._text_of(name, field, value)
        for required in ("image_id", "platform"):
            if required not in values:
                raise self.error("", f"stage {name!r} has no {_key(required)!r}", name)
        if ("reference" in values) == ("build" in values):
            raise self.error("", f"stage {name!r} needs exactly one of 'reference' and 'build'", name)
        values["layers"] = self._layers(name, table.pop("layers", []))
        for pins in ("base", "services"):
            values[pins] = self._pins(name, pins, table.pop(pins, {}))
        for unknown in table:
            raise self.error(unknown, f"stage {name!r}: unknown key {_shown(unknown)}", name)
        return Entry(**{"reference": None, "build": None, "digest": None, **values})

    def _text_of(self, stage: str, field: str, value: Any) -> str:
        key = _key(field)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"stage {stage!r}: {key} is {_shown(value)}, expected text", stage)
        if field in _HASHES and not _SHA.match(value):
            what = "expected 'sha256:' and 64 lower-case hexadecimal digits"
            raise self.error(key, f"stage {stage!r}: {key} is {_shown(value)}, {what}", stage)
        return value

    def _layers(self, stage: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.error(
                "layers", f"stage {stage!r}: layers is {_shown(value)}, expected an array", stage
            )
        for layer in value:
            if not isinstance(layer, str) or not _SHA.match(layer):
                raise self.error(
                    str(layer), f"stage {stage!r}: the layer {_shown(layer)} is no diff ID", stage
                )
        return tuple(value)

    def _pins(self, stage: str, name: str, value: Any) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise self.error(name, f"stage {stage!r}: {name} is {_shown(value)}, expected a table", stage)
        for key, pinned in value.items():
            if not isinstance(pinned, str) or not _SHA.match(pinned.removeprefix(LOCAL)):
                raise self.error(
                    key,
                    f"stage {stage!r}: the {_PINNED[name]} {_shown(key)} is {_shown(pinned)}, which is no digest",
                    stage,
                )
        return MappingProxyType(dict(value))

    def error(self, sign: str, message: str, stage: str | None = None) -> LockError:
        return _error(self._path, self._line(sign, stage), message)

    def _line(self, sign: str, stage: str | None) -> int:
        """The line with ``sign`` in the part of ``stage``; that part's first line, or any with it, or the first."""
        here: str | None = None
        first = anywhere = 0
        for number, line in enumerate(self._text.splitlines(), 1):
            section = _SECTION.match(line)
            if section is not None:
                here = section[1] or section[2]
            hit = bool(sign) and sign in line and not line.lstrip().startswith(("#", "[stages."))
            if here == stage:
                first = first or number
                if hit:
                    return number
            if hit:
                anywhere = anywhere or number
        return first or anywhere or 1


def _error(path: Path, line: int, message: str) -> LockError:
    return BrokenLockError(
        f"{path}:{line}: {message}",
        hint="the file is written by pytest-envpar: take back the edit, or write it anew with: envpar lock",
    )


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


def read(path: Path) -> Lock | None:
    """The lock file at ``path`` (host); ``None`` if there is none.

    Raises:
        LockError: It cannot be read, or is no lock file of this version.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LockError(
            f"{path}: cannot be read: {error.strerror}", hint="'lockfile' in the configuration names it"
        ) from error
    if len(data) > _MAX_BYTES:
        raise _error(path, 1, "too large for a lock file")
    return parse(data, path)


def write(path: Path, lock: Lock) -> bool:
    """Make the file hold ``lock``; whether that changed anything. Hold :func:`exclusive` if others may write.

    The text is written beside and renamed, so that the old file stays whole until the new one is.

    Raises:
        LockError: It cannot be written; the old file is as it was.
    """
    data = render(lock).encode("utf-8")
    beside = None
    try:
        target = path.resolve()  # a link stays a link
        mode = None
        with contextlib.suppress(FileNotFoundError):
            if target.read_bytes() == data:
                return False
            mode = target.stat().st_mode & 0o7777
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=beside_prefix(target), dir=target.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~_umask() if mode is None else mode)
            # A file system may notice only now that it is full.
            os.fsync(stream.fileno())
        os.replace(beside, target)  # noqa: PTH105
        beside = None
    except OSError as error:
        raise LockError(
            f"{path}: cannot be written: {error.strerror}",
            hint="nothing was changed; make room or correct the rights, then run: envpar lock",
        ) from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)  # noqa: PTH108
    return True


def beside_prefix(path: Path) -> str:
    """How the name of a half-written file beside the lock file ``path`` begins."""
    return f".{path.name}."


def _umask() -> int:
    # There is no way to read it but to set it, which other threads would feel; Linux tells it.
    try:
        status = Path("/proc/self/status").read_bytes()
        return int(re.findall(rb"^Umask:\s*([0-7]+)", status, re.MULTILINE)[0], 8)
    except (OSError, IndexError):
        return 0o022


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the right to change the lock file ``path`` among all processes on this machine.

    The folder itself is locked (``flock``): the file is replaced on every write, so a lock on it would be one on a
    file that is gone, and a lock file beside it would be one more thing in the user's tree.

    Raises:
        LockError: The folder cannot be opened, or another process holds it for longer than half a minute.
    """
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LockError(
            f"{path}: its folder cannot be used: {error.strerror}",
            hint="'lockfile' in the configuration names it",
        ) from error
    try:
        _acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def _acquire(descriptor: int, path: Path) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                if time.monotonic() < until:
                    # Writers hold it for milliseconds, and flock has no time limit of its own.
                    time.sleep(0.01)
                    continue
                raise LockError(
                    f"{path}: another process has held its folder for {_WAIT_S:g} s", hint="end that process"
                ) from error
            # Some network file systems lock no folders: renaming still keeps the file whole, and of two runs at the
            # same moment one may have to lock its stage again.
        return
