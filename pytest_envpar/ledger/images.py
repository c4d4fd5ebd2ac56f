"""Images that were seen, their layers, and which layers they share."""

from __future__ import annotations

import dataclasses
import json
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_envpar.ledger.text import storable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from pytest_envpar.ledger.database import Database

_COLUMNS = "id, platform, names, digests, config, created, size, seen"


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """One layer.

    Args:
        diff_id: ``sha256:…`` of the uncompressed layer.
        size_bytes: Its content, in bytes; ``None`` if nobody said.
        instruction: The Dockerfile instruction that made it, as the image's history has it; empty if that is not known.
    """

    diff_id: str
    size_bytes: int | None = None
    instruction: str = ""


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image, also when no engine has it any more.

    Args:
        id: ``sha256:…`` of its configuration.
        layers: The lowest first.
        platform: ``os/arch[/variant]``.
        names: The references that it was seen under, those of earlier recordings included.
        digests: ``name@sha256:…``, likewise.
        config: What its configuration says, as JSON values.
        created: When it was built, as the engine tells it; empty if it does not.
        size_bytes: All of it, in bytes; ``None`` if nobody said.
        seen: When it was recorded last, in seconds since the epoch; set by the ledger.
    """

    id: str
    layers: tuple[LayerRecord, ...] = ()
    platform: str = ""
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    created: str = ""
    size_bytes: int | None = None
    seen: float = 0.0


class Images:
    """The images that the ledger knows.

    Args:
        database: The ledger's file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, image: ImageRecord) -> bool:
        """Remember an image that was seen; False if that is not possible.

        What is known already and is not said this time stays: names, digests, sizes and instructions.
        """

        def write(connection: sqlite3.Connection) -> bool:
            before = _image(connection, image.id)
            names, digests = image.names, image.digests
            if before is not None:
                names = tuple(dict.fromkeys((*names, *before.names)))
                digests = tuple(dict.fromkeys((*digests, *before.digests)))
            connection.execute(
                f"INSERT INTO image ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " platform = excluded.platform, names = excluded.names, digests = excluded.digests,"
                " config = excluded.config, created = coalesce(nullif(excluded.created, ''), created),"
                " size = coalesce(excluded.size, size), seen = excluded.seen",
                (
                    storable(image.id),
                    storable(image.platform),
                    json.dumps(names),
                    json.dumps(digests),
                    json.dumps(dict(image.config), sort_keys=True),
                    storable(image.created),
                    image.size_bytes,
                    time.time(),
                ),
            )
            connection.executemany(
                "INSERT INTO layer VALUES (?, ?, ?) ON CONFLICT (diff_id) DO UPDATE SET"
                " size = coalesce(excluded.size, size), instruction = coalesce(nullif(excluded.instruction, ''),"
                " instruction)",
                [
                    (storable(each.diff_id), each.size_bytes, storable(each.instruction))
                    for each in image.layers
                ],
            )
            # An id stands for its content: the layers of an image never change.
            connection.executemany(
                "INSERT OR IGNORE INTO image_layer VALUES (?, ?, ?)",
                [
                    (storable(image.id), index, storable(each.diff_id))
                    for index, each in enumerate(image.layers)
                ],
            )
            return True

        return self._database.write(write, False)

    def touch(self, id: str) -> None:  # noqa: A002 - what it is called everywhere
        """Note that an image was seen again."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE image SET seen = ? WHERE id = ?", (time.time(), storable(id)))

        self._database.write(write, None)

    def get(self, id: str) -> ImageRecord | None:  # noqa: A002 - as above
        """The image with this id; ``None`` if it was never seen."""
        return self._database.read(lambda connection: _image(connection, id), None)

    def find(self, text: str) -> ImageRecord | None:
        """The image that was seen last under this name, digest, id, or beginning of an id (12 digits or more)."""

        def read(connection: sqlite3.Connection) -> ImageRecord | None:
            found = _image(connection, text)
            if found is not None:
                return found
            digits = text.removeprefix("sha256:")
            if len(digits) >= 12 and all(sign in "0123456789abcdef" for sign in digits):
                row = connection.execute(
                    "SELECT id FROM image WHERE id GLOB ? ORDER BY seen DESC LIMIT 1", (f"sha256:{digits}*",)
                ).fetchone()
                return None if row is None else _image(connection, row[0])
            for number, names, digests in connection.execute(
                "SELECT id, names, digests FROM image ORDER BY seen DESC"
            ):
                if text in json.loads(names) or text in json.loads(digests):
                    return _image(connection, number)
            return None

        return self._database.read(read, None)

    def seen(self, limit: int = 100) -> tuple[ImageRecord, ...]:
        """The images that were seen last, the latest first."""

        def read(connection: sqlite3.Connection) -> tuple[ImageRecord, ...]:
            rows = connection.execute(
                "SELECT id FROM image ORDER BY seen DESC, id LIMIT ?", (limit,)
            ).fetchall()
            return tuple(found for row in rows if (found := _image(connection, row[0])) is not None)

        return self._database.read(read, ())

    def layers(self, diff_ids: Iterable[str]) -> dict[str, LayerRecord]:
        """Those layers that the ledger knows, by diff ID."""
        wanted = list(dict.fromkeys(diff_ids))

        def read(connection: sqlite3.Connection) -> dict[str, LayerRecord]:
            found = {}
            for diff_id in wanted:
                row = connection.execute(
                    "SELECT size, instruction FROM layer WHERE diff_id = ?", (storable(diff_id),)
                ).fetchone()
                if row is not None:
                    found[diff_id] = LayerRecord(diff_id, row[0], row[1])
            return found

        return self._database.read(read, {})


def _image(connection: sqlite3.Connection, id: str) -> ImageRecord | None:  # noqa: A002 - as above
    row = connection.execute(f"SELECT {_COLUMNS} FROM image WHERE id = ?", (storable(id),)).fetchone()
    if row is None:
        return None
    layers = connection.execute(
        "SELECT diff_id, size, instruction FROM image_layer JOIN layer ON diff_id = layer WHERE image = ?"
        " ORDER BY position",
        (row[0],),
    )
    return ImageRecord(
        id=row[0],
        layers=tuple(LayerRecord(*each) for each in layers),
        platform=row[1],
        names=tuple(json.loads(row[2])),
        digests=tuple(json.loads(row[3])),
        config=json.loads(row[4]),
        created=row[5],
        size_bytes=row[6],
        seen=row[7],
    )
