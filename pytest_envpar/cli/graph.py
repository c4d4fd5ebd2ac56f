"""``envpar graph``: which images share which layers, and which instruction made each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar import userfiles
from pytest_envpar.cli import FINE
from pytest_envpar.cli.lock import project
from pytest_envpar.config import find_config, load_settings
from pytest_envpar.errors import ImageError, NoEngineError, UsageError
from pytest_envpar.images import graph, lineage, locking
from pytest_envpar.images.lockfile import Lock, read
from pytest_envpar.images.pinned import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.ledger import ImageRecord, Ledger

JSON_VERSION = 1
FORMATS = ("text", "svg", "html", "json")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{4,64}")


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is drawn.

    Args:
        engine: The engine that was asked, for one line; ``None`` if none answers.
        images: In the order in which they were asked for.
        missing: What was asked for and is nowhere, each with the reason.
    """

    engine: str | None
    images: tuple[graph.Pictured, ...]
    missing: tuple[tuple[str, str], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader has to know besides."""
        notes = [] if self.engine is not None else ["no engine answers: all of this is from the ledger"]
        notes += [
            f"{image.name}: no longer on the engine, drawn from the ledger"
            for image in self.images
            if image.source == "ledger" and self.engine is not None
        ]
        return (*notes, *(f"{name}: {why}" for name, why in self.missing))


def draw(form: str | None, names: Sequence[str], *, output: str | None, engine: str | None) -> int:
    """Draw the images of the project, or those that are named; returns the exit code.

    Args:
        form: One of :data:`FORMATS`; ``None`` goes by the suffix of ``output``, and is text without one.
        names: Stages and image references; all stages of the project without any.
        output: Where to write it (host); ``None`` is standard output.
        engine: The engine's URL if the command line named one.
    """
    form = form or _form_of(output)
    with userfiles.open_ledger() as ledger, _connected(engine) as connected:
        picture = _picture(connected, ledger, names)
        for problem in ledger.problems:
            sys.stderr.write(f"envpar: ledger: {problem}\n")
    _write(_rendered(form, picture, output), output)
    return FINE


def _form_of(output: str | None) -> str:
    suffix = Path(output).suffix.removeprefix(".").lower() if output else ""
    return {"htm": "html"}.get(suffix, suffix) if suffix in (*FORMATS, "htm") else "text"


def _rendered(form: str, picture: Picture, output: str | None) -> str:
    if form == "json":
        return json.dumps(_plain(picture), indent=2, sort_keys=True) + "\n"
    if form == "text":
        from pytest_envpar.cli import graph_text

        return graph_text.render(picture, width=graph_text.width(sys.stdout) if output is None else None)
    from pytest_envpar.cli import graph_svg

    return graph_svg.page(picture) if form == "html" else graph_svg.drawing(picture)


def _write(text: str, output: str | None) -> None:
    if output is None:
        from pytest_envpar.cli import graph_text

        sys.stdout.write(graph_text.encodable(text, sys.stdout.encoding))
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--output {output} cannot be written: {error.strerror}",
            hint="name a file in a folder that exists",
        ) from error


# --- what there is ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(url: str | None) -> Iterator[Engine | None]:
    """The engine, or None where none answers: then the ledger has to do."""
    from pytest_envpar.engine.select import select_engine

    file = find_config(Path.cwd())
    configured = load_settings(file).engines if file is not None else ("auto",)
    try:
        engine = select_engine((url,) if url else configured, os.environ)
    except NoEngineError:
        engine = None
    if engine is None:
        yield None
        return
    with contextlib.closing(engine):
        yield engine


def _picture(engine: Engine | None, ledger: Ledger, names: Sequence[str]) -> Picture:
    file = find_config(Path.cwd())
    settings = load_settings(file) if file is not None else None
    if settings is None and not names:
        settings = project()  # which says what to do
    held = (read(locking.lock_path(settings)) if settings is not None else None) or Lock()
    found: list[graph.Pictured] = []
    missing: list[tuple[str, str]] = []
    wanted = list(names) or sorted(settings.stages if settings is not None else ())
    for name in wanted:
        stage = settings.stages.get(name) if settings is not None else None
        if stage is None:
            _check(name)
        candidates = _references(settings, stage, held, ledger) if settings and stage else (name,)
        image = _look(engine, ledger, candidates)
        if image is None:
            missing.append((name, _why_missing(stage, engine)))
            continue
        record, source = image
        reference = (stage.image or "") if stage is not None else name
        stages = (name,) if stage is not None else ()
        shown = reference if reference and reference != record.id else next(iter(record.names), record.id)
        found.append(graph.Pictured(record, stages, (shown,), source, _made_from(ledger, record)))
    if settings is not None and not names:
        found += _checkpoints(engine, ledger, settings)
    if not found or (names and missing):
        raise ImageError(
            "; ".join(f"{name}: {why}" for name, why in missing) or "there are no stages",
            hint="run the stage once, pull the image, or name an image that `docker images` lists",
        )
    told = None if engine is None else f"{engine.info.kind} {engine.info.version} at {engine.info.url}"
    return Picture(told, graph.merged(found), tuple(missing))


def _checkpoints(engine: Engine | None, ledger: Ledger, settings: Settings) -> Iterator[graph.Pictured]:
    """Those of the project; one that is gone and was never drawn is nothing to draw."""
    for each in ledger.checkpoints.of_project(str(settings.root)):
        image = _look(engine, ledger, (each.image_id,))
        if image is not None:
            yield graph.Pictured(image[0], (), (f"checkpoint {each.name}",), image[1], each.parent_id)


def _made_from(ledger: Ledger, record: ImageRecord) -> str | None:
    lineage = ledger.checkpoints.lineage(record.id)
    return lineage[0].parent_id if lineage else None


def _check(name: str) -> None:
    """Refuse what is neither a reference nor the beginning of an id, before it becomes a part of a request."""
    if _ID.fullmatch(name):
        return
    try:
        parse_reference(name)
    except ValueError as error:
        raise ImageError(
            f"{name!r} is neither a stage nor an image: {error}",
            hint="name a stage of the configuration, or an image as NAME:TAG, NAME@sha256:DIGEST or by its id",
        ) from None


def _references(settings: Settings, stage: Stage, held: Lock, ledger: Ledger) -> tuple[str, ...]:
    """What a stage's image may be known by, the most exact first. Nothing is pulled or built to draw a picture."""
    entry = held.stages.get(stage.name)
    if entry is not None:
        return (entry.image_id,)
    last = ledger.runs.of_project(str(settings.root), stage=stage.name, limit=1)
    return tuple(each for each in (stage.image, *(run.image_id for run in last)) if each)


def _look(
    engine: Engine | None, ledger: Ledger, candidates: Sequence[str]
) -> tuple[ImageRecord, graph.Source] | None:
    for candidate in candidates:
        info = engine.inspect_image(candidate) if engine is not None else None
        if engine is not None and info is not None:
            return _described(engine, ledger, info, candidate), "engine"
    for candidate in candidates:
        known = ledger.images.find(candidate)
        if known is not None:
            return known, "ledger"
    return None


def _described(engine: Engine, ledger: Ledger, info: ImageInfo, name: str) -> ImageRecord:
    record = lineage.remember(ledger, engine, info, () if name == info.id else (name,))
    # The ledger also has the names of earlier days.
    return dataclasses.replace(record, names=info.tags, digests=info.digests)


def _why_missing(stage: Stage | None, engine: Engine | None) -> str:
    where = "neither on the engine nor in the ledger" if engine is not None else "not in the ledger"
    return f"{where}; it is known once the stage has run" if stage is not None else where


# --- JSON ------------------------------------------------------------------------------------------------------


def _plain(picture: Picture) -> dict[str, Any]:
    shared = graph.sharing(picture.images)
    owners: dict[str, list[str]] = {}
    layers = {}
    for image in picture.images:
        for layer in image.record.layers:
            layers[layer.diff_id] = layer
            ids = owners.setdefault(layer.diff_id, [])
            if image.record.id not in ids:
                ids.append(image.record.id)
    return {
        "version": JSON_VERSION,
        "engine": picture.engine,
        "images": [
            {
                "id": image.record.id,
                "stages": list(image.stages),
                "references": list(image.references),
                "names": list(image.record.names),
                "digests": list(image.record.digests),
                "platform": image.record.platform,
                "created": image.record.created,
                "size_bytes": image.record.size_bytes,
                "source": image.source,
                "checkpoint_of": image.made_from,
                "layers": [layer.diff_id for layer in image.record.layers],
            }
            for image in picture.images
        ],
        "layers": [
            {
                "diff_id": layer.diff_id,
                "size_bytes": layer.size_bytes,
                "instruction": layer.instruction,
                "images": owners[layer.diff_id],
            }
            for layer in layers.values()
        ],
        "sharing": {
            "total_bytes": shared.total_bytes,
            "distinct_bytes": shared.distinct_bytes,
            "shared_bytes": shared.shared_bytes,
            "layers_of_unknown_size": shared.unknown,
            "pairs": [
                {
                    "left": pair.left.record.id,
                    "right": pair.right.record.id,
                    "layers": pair.layers,
                    "size_bytes": pair.size_bytes,
                    "layers_of_unknown_size": pair.unknown,
                }
                for pair in shared.pairs
            ],
        },
        "missing": [{"name": name, "reason": why} for name, why in picture.missing],
    }
