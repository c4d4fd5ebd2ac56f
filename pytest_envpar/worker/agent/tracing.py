"""coverage.py inside: where it is found, and what is read from the files it writes.

The image's own is imported by its name. One that we bring lies outside of every path of the image, under a name that
only we know, so that ``import coverage`` in a test does what it does in the image. This file is also run alone, in
child processes: standard library only, and nothing relative.
"""

import importlib
import os
import sqlite3
import sys
import types
from typing import Any, Dict, Iterator, List, Tuple

PRIVATE = "_envpar_measure"
"""The package that holds the coverage.py we bring."""

SCHEMA = 7
"""Of the data file; the same since coverage.py 5.0."""

HOME = "ENVPAR_COVERAGE_HOME"
"""Tells children where the coverage.py is that we bring."""


def load(home: str) -> Any:
    """The module ``coverage``.

    Args:
        home: The folder of the one that we bring (a container path); empty for the image's own.

    Raises:
        ImportError: It is not there, or broken.
    """
    if not home:
        return importlib.import_module("coverage")
    if PRIVATE not in sys.modules:
        package = types.ModuleType(PRIVATE)
        package.__path__ = [os.path.join(home, PRIVATE)]
        sys.modules[PRIVATE] = package
    return importlib.import_module(PRIVATE + ".coverage")


def read(file: str) -> Tuple[List[List[Any]], Dict[str, str]]:
    """What is in a data file: rows as :class:`wire.Coverage` has them, and the coverage plugin by measured file.

    Raises:
        ValueError: It is no data file of a known form.
    """
    try:
        connection = sqlite3.connect(file)
        try:
            return _read(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ValueError("%s is no data file of coverage.py: %s" % (file, error)) from None


def _read(connection: Any) -> Tuple[List[List[Any]], Dict[str, str]]:
    (version,) = connection.execute("select version from coverage_schema").fetchone()
    if version != SCHEMA:
        raise ValueError("the data of coverage.py has the form %s instead of %d" % (version, SCHEMA))
    files = dict(connection.execute("select id, path from file"))
    contexts = dict(connection.execute("select id, context from context"))
    rows: List[List[Any]] = []
    seen = set()
    for file_id, context_id, bits in connection.execute("select file_id, context_id, numbits from line_bits"):
        seen.add(file_id)
        rows.append([contexts.get(context_id, ""), files[file_id], "lines", list(_numbers(bits))])
    last = None
    jumps: List[int] = []
    for file_id, context_id, before, after in connection.execute(
        "select file_id, context_id, fromno, tono from arc order by file_id, context_id"
    ):
        if (file_id, context_id) != last:
            last = (file_id, context_id)
            seen.add(file_id)
            jumps = []
            rows.append([contexts.get(context_id, ""), files[file_id], "arcs", jumps])
        jumps += (before, after)
    rows += [["", path, "none", []] for file_id, path in files.items() if file_id not in seen]
    tracers = connection.execute("select file_id, tracer from tracer")
    return rows, {files[file_id]: name for file_id, name in tracers if file_id in files}


def _numbers(bits: bytes) -> Iterator[int]:
    """The numbers of a set that is written as bits, the lowest first."""
    for place, byte in enumerate(bits):
        for bit in range(8):
            if byte & (1 << bit):
                yield place * 8 + bit
