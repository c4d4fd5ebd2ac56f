"""Listings of what an engine has."""

from __future__ import annotations

from typing import Any

from pytest_envpar.engine.parse.shapes import image_id, labels, table, texts
from pytest_envpar.engine.values.engine import Listed


def listed_container(item: Any) -> Listed:
    """One of ``GET /containers/json``."""
    data = table(item)
    names = texts(data.get("Names"))
    return Listed(
        id=str(data.get("Id") or ""),
        name=names[0].lstrip("/") if names else "",
        labels=labels(data.get("Labels")),
        status=str(data.get("State") or data.get("Status") or ""),
    )


def listed_image(item: Any) -> Listed:
    """One of ``GET /images/json``; the name is its first tag, or empty."""
    data = table(item)
    tags = [tag for tag in texts(data.get("RepoTags")) if tag != "<none>:<none>"]
    return Listed(
        id=image_id(data.get("Id")), name=tags[0] if tags else "", labels=labels(data.get("Labels"))
    )


def listed_named(item: Any) -> Listed:
    """A volume or a network; a volume has no id but its name."""
    data = table(item)
    name = str(data.get("Name") or "")
    return Listed(id=str(data.get("Id") or name), name=name, labels=labels(data.get("Labels")))
