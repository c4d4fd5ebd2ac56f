"""Calls from inside a stage that carry files into a container and out of it."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from pytest_envpar.containers.handle_paths import absolute
from pytest_envpar.images import tarstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_envpar.containers.handle import Container
    from pytest_envpar.session.desk_fields import Fields

MOST_HELD = 64 << 20
"""What one call may bring inside of a file or a command's output: the host holds it in memory."""

Answer = tuple[dict[str, Any], "Iterable[bytes]"]
"""The fields of an answer and its data, in pieces."""


def _read(container: Container, given: Fields, data: IO[bytes]) -> Answer:
    del data
    return {}, (container.read_bytes(given.text("path")),)


def _write(container: Container, given: Fields, data: IO[bytes]) -> Answer:
    container.write(given.text("path"), data.read(), mode=int(given.number("mode")) & 0o7777)
    return {}, ()


def _copy_in(container: Container, given: Fields, data: IO[bytes]) -> Answer:
    container.unpack(given.text("place"), PurePosixPath(given.text("name")).name, data)
    return {}, ()


def _copy_out(container: Container, given: Fields, data: IO[bytes]) -> Answer:
    """By way of a folder of the host: what leaves here has names that were looked at."""
    del data
    from pytest_envpar.containers import handle_archive

    source = absolute(given.text("source"))
    folder = tempfile.TemporaryDirectory(prefix="envpar-copy-")
    try:
        copy = container.copy_out(source, Path(folder.name) / "copy")
        pieces = tarstream.tar(handle_archive.entries_of(copy, "copy"))
    except BaseException:
        folder.cleanup()
        raise

    def sent() -> Iterator[bytes]:
        with folder:
            yield from pieces

    return {"name": source.name}, sent()


FILES: Mapping[str, Callable[[Any, Fields, IO[bytes]], Answer]] = {
    "read": _read,
    "write": _write,
    "copy_in": _copy_in,
    "copy_out": _copy_out,
}
