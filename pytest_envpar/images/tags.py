"""Names and label keys of the objects that we leave on an engine."""

from __future__ import annotations

import re

LABEL_PREFIX = "pytest-envpar."
KIND = LABEL_PREFIX + "kind"
PROJECT = LABEL_PREFIX + "project"
STAGE = LABEL_PREFIX + "stage"
USER = LABEL_PREFIX + "user"
INPUT = LABEL_PREFIX + "input"
SETUP = LABEL_PREFIX + "setup"
PARENT = LABEL_PREFIX + "parent"
SERVICE = LABEL_PREFIX + "service"

CACHE = "cache"
"""The kind of objects that outlive their run on purpose and are removed by ``envpar prune --cache`` only."""

COPIES = "pytest-envpar/copy"
"""The repository of images that came from another engine of a pool. An image cannot be labelled afterwards, so this
tag is what makes it a cache."""


def slug(text: str, *, fallback: str = "project", limit: int = 40) -> str:
    """``text`` as a part of an image or container name: lower-case letters, digits and single dashes."""
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-")
    return made or fallback


def label_text(text: str) -> str:
    """``text`` as a label's value: a file name that is no UTF-8 would not survive the engine's JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def build_repository(project_name: str, stage: str) -> str:
    """The repository of a stage's built images; the tag is the hash of their inputs."""
    return f"pytest-envpar/{slug(project_name)}-{slug(stage, fallback='stage')}"
