"""The three databases in which RPM has kept its headers.

- SQLite (``rpmdb.sqlite``, RPM 4.16 and newer): a table ``Packages`` with one blob each.
- ndb (``Packages.db``, SUSE): RPM's own; pages of slots that point to blobs (rpm's ``lib/backend/ndb/rpmpkg.c``).
- Berkeley DB (``Packages``, RHEL 8 and older): a hash database whose long values lie in chains of overflow pages
  (Berkeley DB's ``dbinc/db_page.h``).
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.drift.packages.base import MAX_DATABASE, MAX_PACKAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.drift.packages.base import Reader

FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
_SQLITE, _NDB, _BDB = "rpmdb.sqlite", "Packages.db", "Packages"
_PARTS = (
    *(_SQLITE, f"{_SQLITE}-wal", f"{_SQLITE}-shm", _NDB, "Index.db", _BDB, ".rpm.lock", ".dbenv.lock"),
    *(
        "Basenames",
        "Conflictname",
        "Dirnames",
        "Enhancename",
        "Filetriggername",
        "Group",
        "Installtid",
        "Name",
    ),
    *("Obsoletename", "Providename", "Recommendname", "Requirename", "Sha1header", "Sigmd5", "Suggestname"),
    *("Supplementname", "Transfiletriggername", "Triggername", "__db.001", "__db.002", "__db.003"),
)
_MAX_BLOB = 64 << 20
_MAX_STEPS = 200_000_000
"""Virtual machine instructions of SQLite: a table may be a view that never ends."""


def is_part(path: str) -> bool:
    """Whether ``path`` is a file, or the folder, of a database."""
    folder, _, name = path.rpartition("/")
    return path in FOLDERS or (folder in FOLDERS and name in _PARTS)


def headers(tree: Reader) -> Iterator[tuple[str, bytes]]:
    """Every header of a side, with the file it comes from. The first database that has any counts."""
    for folder in FOLDERS:
        for name, read in ((_SQLITE, _sqlite), (_NDB, _ndb), (_BDB, _bdb)):
            path = f"{folder}/{name}"
            data = tree.read(path, MAX_DATABASE)
            if not data:
                continue
            log = tree.read(f"{path}-wal", MAX_DATABASE) if name == _SQLITE else None
            any_found = False
            for count, blob in enumerate(read(data, log)):
                if count >= MAX_PACKAGES:
                    break
                any_found = True
                yield path, blob
            if any_found:
                return


def _sqlite(data: bytes, log: bytes | None) -> Iterator[bytes]:
    # SQLite reads files only, before Python 3.11 in any case.
    with tempfile.TemporaryDirectory(prefix="envpar-rpm-") as folder:
        file = Path(folder) / "db"
        file.write_bytes(data)
        if log:
            file.with_name("db-wal").write_bytes(log)
        try:
            with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as base:
                steps = iter(range(_MAX_STEPS // 10_000))
                base.set_progress_handler(lambda: next(steps, None) is None, 10_000)
                base.execute("PRAGMA trusted_schema = OFF")
                for (blob,) in base.execute(
                    "SELECT blob FROM Packages WHERE typeof(blob) = 'blob' AND length(blob) < ?", (_MAX_BLOB,)
                ):
                    yield bytes(blob)
        except (sqlite3.Error, ValueError, OverflowError, MemoryError):
            return


def _ndb(data: bytes, _: bytes | None) -> Iterator[bytes]:
    if len(data) < 32 or data[:4] != b"RpmP":
        return
    pages = int.from_bytes(data[12:16], "little")
    for at in range(32, min(pages * 4096, len(data) - 15), 16):
        magic, index, block, _count = struct.unpack_from("<4sIII", data, at)
        start = block * 16
        if magic != b"Slot" or not index or start + 16 > len(data):
            continue
        blob_magic, blob_index, _generation, size = struct.unpack_from("<4sIII", data, start)
        if blob_magic == b"BlbS" and blob_index == index and size <= min(_MAX_BLOB, len(data) - start - 16):
            yield data[start + 16 : start + 16 + size]


def _bdb(data: bytes, _: bytes | None) -> Iterator[bytes]:
    if len(data) < 512:
        return
    order = next((order for order in "<>" if struct.unpack_from(f"{order}I", data, 12)[0] == 0x061561), "")
    if not order:
        return
    size = struct.unpack_from(f"{order}I", data, 20)[0]
    if not 512 <= size <= 65_536 or size & (size - 1):
        return
    budget = len(data)  # overflow pages may be chained to loops
    for page in range(size, len(data) - size + 1, size):
        if data[page + 25] not in (2, 13):  # hash pages, unsorted and sorted
            continue
        (entries,) = struct.unpack_from(f"{order}H", data, page + 20)
        for slot in range(1, min(entries, (size - 26) // 2), 2):
            (offset,) = struct.unpack_from(f"{order}H", data, page + 26 + 2 * slot)
            if not 26 <= offset <= size - 12 or data[page + offset] != 3:  # a value in overflow pages
                continue
            first, length = struct.unpack_from(f"{order}II", data, page + offset + 4)
            if length > min(_MAX_BLOB, budget):
                continue
            budget -= length
            yield _chain(data, size, order, first, length)


def _chain(data: bytes, size: int, order: str, page: int, length: int) -> bytes:
    parts: list[bytes] = []
    while page and length > 0 and (page + 1) * size <= len(data):
        at = page * size
        (following,) = struct.unpack_from(f"{order}I", data, at + 16)
        (held,) = struct.unpack_from(f"{order}H", data, at + 22)
        held = min(held, size - 26, length)
        if data[at + 25] != 7 or not held:
            break
        parts.append(data[at + 26 : at + 26 + held])
        length -= held
        page = following
    return b"".join(parts)
