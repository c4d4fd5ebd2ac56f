"""Which Dockerfile instruction made which layer of an image, and the record of it that the ledger keeps.

An engine tells the steps of an image and its layers apart from each other. A step that added bytes has a layer, one
that only sets something (``ENV``) has none, and one that added none (``RUN mkdir /x``, ``RUN true``, a ``WORKDIR`` that
was there already) may have one or not. Where that leaves a doubt, the images in between are asked, which an engine has
of what it built itself; where a doubt remains, it is told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_envpar.images.pinned import pin
from pytest_envpar.ledger import ImageRecord, LayerRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.engine.values.origins import HistoryEntry
    from pytest_envpar.ledger import Ledger

_SETTINGS = frozenset(
    (
        "ARG",
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
    )
)
"""Instructions that only set something."""
_SHELL = re.compile(r"(?:RUN )?(?:\|\d+ .*?)?/bin/sh -c (?P<nop>#\(nop\) )?(?P<rest>.*)", re.DOTALL)
_MAX_TEXT = 1_000
_MAX_DOUBT = 3


def instruction(entry: HistoryEntry) -> str:
    """A step as it stands in a Dockerfile, on one line. The values of build arguments are left out."""
    text = entry.created_by.removesuffix("# buildkit").strip()
    shell = _SHELL.fullmatch(text)
    if shell is not None:
        text = shell["rest"].strip() if shell["nop"] else f"RUN {shell['rest'].strip()}"
    text = " ".join(text.split()) or entry.comment.strip()
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def layers_by_step(
    layers: Sequence[str],
    history: Sequence[HistoryEntry],
    layers_of: Callable[[str], tuple[str, ...] | None] = lambda _: None,
) -> tuple[LayerRecord, ...]:
    """Each layer with the instruction that made it and its size, as far as that can be known.

    Args:
        layers: Diff IDs, the lowest first.
        history: The steps, the first one first.
        layers_of: The layers of an image of a step, the lowest first; ``None`` if there is no such image.
    """
    told = [instruction(entry) for entry in history]
    sure = [entry.size_bytes > 0 for entry in history]
    maybe = [
        not certain and text.partition(" ")[0].upper() not in _SETTINGS
        for certain, text in zip(sure, told, strict=True)
    ]
    if sum(sure) + sum(maybe) > len(layers) > sum(sure):
        for index in range(len(history)):
            made = _made_one(layers, history, index, layers_of) if maybe[index] else None
            if made is not None:
                sure[index], maybe[index] = made, False
    if sum(sure) == len(layers):
        maybe = [False] * len(history)
    elif sum(sure) + sum(maybe) == len(layers):
        sure = [a or b for a, b in zip(sure, maybe, strict=True)]
        maybe = [False] * len(history)
    places = _places(len(layers), sure, maybe)
    return tuple(
        _layer(diff_id, places.get(index, ()), history, told) for index, diff_id in enumerate(layers)
    )


def _made_one(
    layers: Sequence[str],
    history: Sequence[HistoryEntry],
    index: int,
    layers_of: Callable[[str], tuple[str, ...] | None],
) -> bool | None:
    """Whether a step added a layer, by the images before and after it; ``None`` if these are not to be had."""
    if index == 0:
        return None
    before, after = (layers_of(history[at].image_id) for at in (index - 1, index))
    for found in (before, after):
        if found is None or tuple(layers[: len(found)]) != found:
            return None
    assert before is not None
    assert after is not None
    return {0: False, 1: True}.get(len(after) - len(before))


def _places(count: int, sure: Sequence[bool], maybe: Sequence[bool]) -> dict[int, tuple[int, ...]]:
    """The steps that may have made each layer."""
    found: dict[int, tuple[int, ...]] = {}
    for step in range(len(sure)):
        if not sure[step] and not maybe[step]:
            continue
        lowest = max(sum(sure[:step]), count - 1 - sum(sure[step + 1 :]) - sum(maybe[step + 1 :]))
        highest = min(sum(sure[:step]) + sum(maybe[:step]), count - 1 - sum(sure[step + 1 :]))
        for index in range(max(lowest, 0), highest + 1):
            found[index] = (*found.get(index, ()), step)
    return found


def _layer(
    diff_id: str, steps: tuple[int, ...], history: Sequence[HistoryEntry], told: Sequence[str]
) -> LayerRecord:
    if len(steps) == 1:
        return LayerRecord(diff_id, history[steps[0]].size_bytes, told[steps[0]])
    if 1 < len(steps) <= _MAX_DOUBT:
        sizes = {history[step].size_bytes for step in steps}
        return LayerRecord(
            diff_id,
            sizes.pop() if len(sizes) == 1 else None,
            "one of: " + "; ".join(told[step] for step in steps),
        )
    return LayerRecord(diff_id)


def describe(engine: Engine, info: ImageInfo, names: Sequence[str] = ()) -> ImageRecord:
    """The record of an image that the engine has.

    Args:
        names: The references it was asked by, besides its tags.

    Raises:
        EngineError: The engine failed.
    """

    def layers_of(image: str) -> tuple[str, ...] | None:
        found = engine.inspect_image(image) if image else None
        return None if found is None else found.layers

    layers = layers_by_step(info.layers, engine.image_history(info.id), layers_of)
    return ImageRecord(
        id=info.id,
        layers=layers,
        platform=pin(info.id, info).platform,
        names=tuple(dict.fromkeys((*names, *info.tags))),
        digests=info.digests,
        config={
            "env": dict(info.env),
            "user": info.user,
            "workdir": info.workdir,
            "entrypoint": list(info.entrypoint),
            "cmd": list(info.cmd),
            "volumes": list(info.volumes),
            "labels": dict(info.labels),
        },
        created=info.created,
        size_bytes=info.size_bytes,
    )


def remember(ledger: Ledger, engine: Engine, info: ImageInfo, names: Sequence[str] = ()) -> ImageRecord:
    """The record of an image, kept in the ledger. The engine is asked for nothing that the ledger knows.

    Args:
        names: The references it was asked by, besides its tags.

    Raises:
        EngineError: The engine failed.
    """
    known = ledger.images.get(info.id)
    wanted = tuple(dict.fromkeys((*names, *info.tags)))
    if known is not None and set(wanted) <= set(known.names) and set(info.digests) <= set(known.digests):
        ledger.images.touch(info.id)
        return known
    made = describe(engine, info, names)
    ledger.images.record(made)
    return made
