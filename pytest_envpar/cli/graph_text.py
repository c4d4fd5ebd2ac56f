"""The picture of ``envpar graph`` as a tree of text. Names and instructions come from images: all of it is escaped."""

from __future__ import annotations

import shutil
from typing import IO, TYPE_CHECKING

from pytest_envpar.drift.render import escaped
from pytest_envpar.images.graph import Pictured, segments, sharing

if TYPE_CHECKING:
    from pytest_envpar.cli.graph import Picture
    from pytest_envpar.images.graph import Pair, Segment, Sharing
    from pytest_envpar.ledger import LayerRecord

_WIDE = 160
_NARROW = 40
_MAX_PAIRS = 20
_ASCII = str.maketrans({"├": "+", "└": "`", "│": "|", "─": "-", "●": "*", "…": "~"})


def render(picture: Picture, *, width: int | None = None) -> str:
    """The picture as text with a final newline.

    Args:
        width: Columns of a line; ``None`` for more than any terminal has.
    """
    lines = [picture.engine or "no engine", ""]
    for segment in segments(picture.images):
        lines += _tree(segment, "", "", width or _WIDE)
        lines.append("")
    lines += sums(sharing(picture.images), len(picture.images))
    lines += [escaped(note, _WIDE * 2) for note in picture.notes]
    return "\n".join(lines) + "\n"


def _tree(segment: Segment, first: str, rest: str, width: int) -> list[str]:
    """The lines of one segment and what is above it.

    Args:
        first: What its first line begins with.
        rest: What all other lines begin with.
    """
    lines = [
        cut((rest if index else first) + layer_line(layer), width)
        for index, layer in enumerate(segment.layers)
    ]
    if not segment.layers:
        lines.append(f"{first}no layers")
    branches: list[Pictured | Segment] = [*segment.images, *segment.above]
    for index, branch in enumerate(branches):
        last = index == len(branches) - 1
        begin, go_on = rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        if isinstance(branch, Pictured):
            lines += [
                cut(begin + line if number == 0 else go_on + line, width)
                for number, line in enumerate(image_lines(branch))
            ]
        else:
            lines += _tree(branch, begin, go_on, width)
    return lines


def layer_line(layer: LayerRecord) -> str:
    """Size, the beginning of the diff ID, the instruction."""
    return f"{human(layer.size_bytes):>8}  {short(layer.diff_id)}  {told(layer)}"


def told(layer: LayerRecord) -> str:
    """The instruction, escaped; what is said where it is not known."""
    return escaped(layer.instruction, 2 * _WIDE) or "(unknown instruction)"


def image_lines(image: Pictured) -> list[str]:
    """What is said of an image: its name, and its facts."""
    stages = f"{', '.join(image.stages)}: " if image.stages else ""
    record = image.record
    count = len(record.layers)
    facts = [
        short(record.id),
        escaped(record.platform),
        human(record.size_bytes),
        f"{count} layer{'' if count == 1 else 's'}",
        "from the ledger" if image.source == "ledger" else "",
        f"checkpoint of {short(image.made_from)}" if image.made_from else "",
    ]
    return [
        f"● {escaped(stages + ', '.join(image.references))}",
        "  " + ", ".join(fact for fact in facts if fact),
    ]


def sums(shared: Sharing, count: int, limit: int = _MAX_PAIRS) -> list[str]:
    """How much is shared, as lines: the pairs that share most, and last what it is in all.

    Args:
        count: How many images there are.
        limit: How many pairs have a line of their own.
    """
    sharing_pairs = [pair for pair in shared.pairs if pair.layers]
    lines = [pair_line(pair) for pair in sharing_pairs[:limit]]
    if len(sharing_pairs) > limit:
        lines.append(f"… and {len(sharing_pairs) - limit} more pairs: --format json has all of them")
    apart = len(shared.pairs) - len(sharing_pairs)
    if apart:
        lines.append(f"{apart} pair{' shares' if apart == 1 else 's share'} no layer")
    unknown = ""
    if shared.unknown:
        noun = "layer of unknown size is" if shared.unknown == 1 else "layers of unknown size are"
        unknown = f"; {shared.unknown} {noun} not counted"
    lines.append(
        f"in all: {count} image{'' if count == 1 else 's'}, {human(shared.total_bytes)}, "
        f"of which {human(shared.shared_bytes)} are shared: {human(shared.distinct_bytes)} to store{unknown}"
    )
    return lines


def pair_line(pair: Pair) -> str:
    """``dev and qa share 3 layers, 216.7 MB``."""
    names = f"{escaped(pair.left.name)} and {escaped(pair.right.name)}"
    unknown = f", {pair.unknown} of unknown size" if pair.unknown else ""
    return f"{names} share {pair.layers} layer{'' if pair.layers == 1 else 's'}, {human(pair.size_bytes)}{unknown}"


def human(size_bytes: int | None) -> str:
    """``216.7 MB``, as engines write sizes; ``?`` if it is not known."""
    if size_bytes is None:
        return "?"
    size, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.95 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def short(identity: str) -> str:
    """Twelve digits of an id or a diff ID, escaped."""
    return escaped(identity.removeprefix("sha256:")[:12], 12)


def cut(line: str, width: int) -> str:
    """A line that fits, with a sign where something was cut off."""
    return line if len(line) <= width else line[: width - 1] + "…"


def width(stream: IO[str]) -> int | None:
    """The columns of a terminal; ``None`` if the stream is none."""
    return max(shutil.get_terminal_size().columns, _NARROW) if stream.isatty() else None


def encodable(text: str, encoding: str | None) -> str:
    """``text`` as a stream can write it: the lines of the tree as ASCII where it has nothing better."""
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text
