"""Where an image comes from."""

from __future__ import annotations

from typing import Any

from pytest_envpar.engine.parse.images import platforms
from pytest_envpar.engine.parse.shapes import image_id, rows, table
from pytest_envpar.engine.values.origins import HistoryEntry, RemoteImage


def image_history(answer: Any) -> tuple[HistoryEntry, ...]:
    """``GET /images/{name}/history``, which has the last step first."""
    return tuple(
        HistoryEntry(
            created_by=str(each.get("CreatedBy") or ""),
            size_bytes=int(each.get("Size") or 0),
            image_id="" if each.get("Id") in (None, "", "<missing>") else image_id(each.get("Id")),
            comment=str(each.get("Comment") or ""),
        )
        for each in map(table, reversed(rows(answer)))
    )


def remote_image(reference: str, answer: Any) -> RemoteImage:
    """``GET /distribution/NAME/json``."""
    data = table(answer)
    digest = str(
        table(data.get("Descriptor")).get("digest") or table(data.get("Descriptor")).get("Digest") or ""
    )
    return RemoteImage(reference, digest, platforms(rows(data.get("Platforms"))))
