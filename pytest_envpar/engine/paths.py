"""Where the name of an object becomes a part of a request's path, and the only place where it does."""

from __future__ import annotations

from typing import Literal

from pytest_envpar.errors import ImageError, UsageError

Kind = Literal["containers", "images", "distribution", "volumes", "networks", "exec"]

_CALLED = {
    "containers": "a container",
    "images": "an image",
    "distribution": "an image",
    "volumes": "a volume",
    "networks": "a network",
    "exec": "a command in a container",
}


def at(kind: Kind, name: str, *verb: str) -> str:
    """The path of an object, or of a verb of it.

    The client quotes what has a meaning in a URL. What is left is a name that would lead to another resource, which
    answers just as well: an empty one, ``.`` and ``..``, and a slash where names have none.

    Args:
        name: A name or id; a reference if it is an image's.

    Raises:
        ImageError: No image can have this name.
        UsageError: Nothing of this kind can.
    """
    images = kind in ("images", "distribution")
    parts = name.split("/") if images else [name]
    if any(part in ("", ".", "..") or "/" in part or not part.isprintable() for part in parts):
        raise (ImageError if images else UsageError)(
            f"{name!r} cannot be the name of {_CALLED[kind]}",
            hint="name an image as NAME:TAG, NAME@sha256:DIGEST or by its id"
            if images
            else "use its name or id as the engine lists it",
        )
    return "/".join(("", kind, name, *verb))
