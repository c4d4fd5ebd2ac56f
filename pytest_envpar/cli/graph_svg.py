"""The picture of ``envpar graph`` as SVG, and as a page around it.

Both need nothing from anywhere: no script, no font, no network, which the page also forbids (Content-Security-Policy).
Names and instructions come from images, so that every text is escaped twice: what steers a terminal or is no valid XML
becomes visible, what is markup becomes text.
"""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING

from pytest_envpar.cli.graph_text import human, image_lines, short, sums, told
from pytest_envpar.drift.render import escaped
from pytest_envpar.images.graph import Segment, segments, sharing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_envpar.cli.graph import Picture
    from pytest_envpar.images.graph import Pictured
    from pytest_envpar.ledger import LayerRecord

_ROW = 20
_PAD = 10
_BOX = 400
_GAP_X = 56
_GAP_Y = 14
_MARGIN = 16
_SIZE_X = 74
_LETTERS = 39
_MAX_TEXT = 2_000
_MAX_PAIRS = 500

_LEGEND = (
    "A box of layers, the lowest first, stands once for all the images to its right: in blue where these are several. "
    "Images in green are on the engine, those in yellow are only remembered."
)
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --quiet: #59636e; --line: #8c959f;
  --layer: #f6f8fa; --shared: #ddf4ff; --image: #dafbe1; --gone: #fff8c5 }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #f0f6fc; --quiet: #9198a1; --line: #656c76;
  --layer: #151b23; --shared: #0c2d6b; --image: #033a16; --gone: #4b2900 } }
svg text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--ink) }
svg .quiet { fill: var(--quiet) }
svg .name { font-weight: 600 }
svg .line { fill: none; stroke: var(--line); stroke-width: 1.5 }
svg .box { stroke: var(--line) }
svg .layer { fill: var(--layer) } svg .shared { fill: var(--shared) }
svg .image { fill: var(--image) } svg .gone { fill: var(--gone) }
"""
_PAGE_STYLE = """
body { margin: 24px; font: 15px/1.5 system-ui, sans-serif; background: var(--page); color: var(--ink) }
h1 { font-size: 22px } h2 { font-size: 17px; margin-top: 32px }
.scroll { overflow-x: auto } p.quiet { color: var(--quiet) }
table { border-collapse: collapse } th, td { text-align: left; padding: 4px 16px 4px 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, var(--line) 40%, transparent) }
td.size { text-align: right; white-space: nowrap }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
"""


@dataclasses.dataclass(frozen=True)
class _Node:
    """A box with what is to the right of it."""

    content: Segment | Pictured
    right: tuple[_Node, ...]

    @property
    def rows(self) -> int:
        if isinstance(self.content, Segment):
            return max(len(self.content.layers), 1)
        return len(image_lines(self.content))

    @property
    def own_height(self) -> int:
        return self.rows * _ROW + 2 * _PAD

    @property
    def height(self) -> int:
        right = sum(node.height for node in self.right) + _GAP_Y * (len(self.right) - 1)
        return max(self.own_height, right)

    @property
    def depth(self) -> int:
        return 1 + max((node.depth for node in self.right), default=0)


def drawing(picture: Picture) -> str:
    """The picture as an SVG document."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(picture)}\n'


def page(picture: Picture) -> str:
    """The picture as an HTML page, with what the drawing has no room for in tables."""
    names = ", ".join(image.name for image in picture.images)
    notes = "".join(f'<p class="quiet">{_text(note)}</p>\n' for note in picture.notes)
    *pairs, in_all = sums(sharing(picture.images), len(picture.images), _MAX_PAIRS)
    listed = "".join(f"<li>{_text(line)}</li>\n" for line in pairs)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(names)}: layers</title>\n<style>{_STYLE}{_PAGE_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>Layers of {_text(names)}</h1>\n<p class="quiet">{_text(picture.engine or "no engine")}</p>\n{notes}'
        f'<div class="scroll">\n{_svg(picture, styled=False)}\n</div>\n'
        f'<p class="quiet">{_LEGEND}</p>\n<h2>Shared</h2>\n<p>{_text(in_all)}</p>\n'
        + (f"<ul>\n{listed}</ul>\n" if listed else "")
        + "".join(map(_table, picture.images))
        + "</body>\n</html>\n"
    )


def _table(image: Pictured) -> str:
    name, facts = image_lines(image)
    rows = "".join(
        f'<tr><td class="size">{human(layer.size_bytes)}</td><td><code>{_text(short(layer.diff_id))}</code></td>'
        f"<td><code>{_text(layer.instruction) or 'unknown'}</code></td></tr>\n"
        for layer in image.record.layers
    )
    return (
        f'<h2>{_text(name.removeprefix("● "))}</h2>\n<p class="quiet">{_text(facts.strip())}</p>\n<table>\n'
        f"<tr><th>Size</th><th>Layer</th><th>Instruction, the lowest layer first</th></tr>\n{rows}</table>\n"
    )


def _svg(picture: Picture, *, styled: bool = True) -> str:
    nodes = [_node(segment) for segment in segments(picture.images)]
    depth = max((node.depth for node in nodes), default=1)
    width = 2 * _MARGIN + depth * _BOX + (depth - 1) * _GAP_X
    height = 2 * _MARGIN + sum(node.height for node in nodes) + _GAP_Y * max(len(nodes) - 1, 0)
    parts: list[str] = []
    top = _MARGIN
    for node in nodes:
        parts += _boxes(node, _MARGIN, top)
        top += node.height + _GAP_Y
    names = _text(", ".join(image.name for image in picture.images))
    style = f"<style>{_STYLE}svg {{ background: var(--page) }}</style>\n" if styled else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="Layers of {names}">\n<title>Layers of {names}</title>\n{style}'
        + "\n".join(parts)
        + "\n</svg>"
    )


def _node(segment: Segment) -> _Node:
    ends = (_Node(image, ()) for image in segment.images)
    return _Node(segment, (*ends, *(_node(above) for above in segment.above)))


def _boxes(node: _Node, left: int, top: int) -> list[str]:
    """A box, the lines to the boxes on its right, and these."""
    parts: list[str] = []
    y = top
    for right in node.right:
        middle = left + _BOX + _GAP_X // 2
        begin, end = top + _PAD + _ROW // 2, y + _PAD + _ROW // 2
        parts.append(f'<path class="line" d="M{left + _BOX} {begin}H{middle}V{end}H{left + _BOX + _GAP_X}"/>')
        parts += _boxes(right, left + _BOX + _GAP_X, y)
        y += right.height + _GAP_Y
    if isinstance(node.content, Segment):
        shared = node.content.shared_by > 1
        rows = [_layer_row(layer, index, node.content) for index, layer in enumerate(node.content.layers)]
        rows = rows or [_row("no layers", 0, "quiet")]
        return [*parts, _box(rows, left, top, node.own_height, "shared" if shared else "layer", 3)]
    name, *facts = image_lines(node.content)
    rows = [
        _row(name.removeprefix("● "), 0, "name"),
        *(_row(fact.strip(), 1 + index, "quiet") for index, fact in enumerate(facts)),
    ]
    kind = "image" if node.content.source == "engine" else "gone"
    return [*parts, _box(rows, left, top, node.own_height, kind, 14)]


def _box(rows: Iterable[str], left: int, top: int, height: int, kind: str, corner: int) -> str:
    # An SVG within cuts off what is too wide, whatever font there is.
    return (
        f'<svg x="{left}" y="{top}" width="{_BOX}" height="{height}">'
        f'<rect class="box {kind}" x="0.5" y="0.5" width="{_BOX - 1}" height="{height - 1}" rx="{corner}"/>'
        + "".join(rows)
        + "</svg>"
    )


def _row(text: str, index: int, kind: str) -> str:
    return f'<text class="{kind}" x="{_PAD}" y="{_baseline(index)}">{_text(text)}<title>{_text(text)}</title></text>'


def _layer_row(layer: LayerRecord, index: int, segment: Segment) -> str:
    y = _baseline(index)
    shown = told(layer)
    shown = shown if len(shown) <= _LETTERS else shown[: _LETTERS - 1] + "…"
    by = f", in {segment.shared_by} of these images" if segment.shared_by > 1 else ""
    hint = f"{human(layer.size_bytes)}{by}\n{layer.diff_id}\n{layer.instruction or 'unknown instruction'}"
    return (
        f"<g><title>{'&#10;'.join(_text(line) for line in hint.splitlines())}</title>"
        f'<text class="quiet" text-anchor="end" x="{_SIZE_X}" y="{y}">{human(layer.size_bytes)}</text>'
        f'<text x="{_SIZE_X + 10}" y="{y}">{_text(shown)}</text></g>'
    )


def _baseline(index: int) -> int:
    return _PAD + index * _ROW + 14


def _text(text: str) -> str:
    return html.escape(escaped(text, _MAX_TEXT))
