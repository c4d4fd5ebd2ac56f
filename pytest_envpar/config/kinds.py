"""What a kind of value is, and kinds made of other kinds.

A :class:`Kind` turns one TOML value into ours or raises :class:`BadValue`. Kinds know nothing of keys, tables
or files; the caller adds the place and the example.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.config.suggest import did_you_mean, found, key_text, quoted

if TYPE_CHECKING:
    from collections.abc import Callable


class BadValue(Exception):  # noqa: N818 - never leaves the package; the error the user sees is a ConfigError
    """A value that a kind refuses.

    Args:
        message: What is wrong with the value.
        fix: What to write instead; ``None`` lets the caller show the key's example.
        at: Where in the value, appended to the key: ``[2]`` or ``.NAME``.
    """

    def __init__(self, message: str, *, fix: str | None = None, at: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.at = at


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Kind:
    """One kind of value.

    Args:
        name: What the reference calls it, in the singular without an article.
        parse: Turns a TOML value into ours; raises BadValue.
        example: A right value as TOML.
        doc: What the reference says about the kind, one sentence; empty if the name says it all.
    """

    name: str
    parse: Callable[[object], object]
    example: str
    doc: str = ""


def wrong(expected: str, value: object, fix: str | None = None) -> BadValue:
    """The error for a value of another type or form than expected."""
    return BadValue(f"expected {expected}, found {found(value)}", fix=fix)


def text_of(value: object, expected: str) -> str:
    """The value, if it is a string without NUL characters."""
    if not isinstance(value, str):
        raise wrong(expected, value)
    if "\0" in value:
        raise BadValue("contains a NUL character", fix="remove it")
    return value


def word_of(value: object, expected: str) -> str:
    """The value, if it is a string of printable characters without spaces, and not empty."""
    text = text_of(value, expected)
    if not text or not text.isprintable() or " " in text:
        raise wrong(expected if not isinstance(value, str) else f"{expected}, without spaces", value)
    return text


def choice(*names: str, example: str | None = None) -> Kind:
    """One of these strings; the example is the first unless another is given."""
    expected = "one of " + ", ".join(quoted(name) for name in names)

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise wrong(expected, value)
        if value not in names:
            raise wrong(expected, value, fix=did_you_mean(value, names, what="choices"))
        return value

    return Kind(" \\| ".join(f'`"{name}"`' for name in names), parse, quoted(example or names[0]))


def list_of(
    item: Kind,
    plural: str,
    *,
    example: str | None = None,
    unique_by: Callable[[object], object] | None = None,
) -> Kind:
    """An array of ``item``, as a tuple.

    Args:
        item: The kind of each entry.
        plural: What the entries are called.
        example: A right value as TOML; by default an array of the item's example.
        unique_by: What of two entries must differ; ``None`` allows repetitions.
    """

    def parse(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise wrong(f"an array of {plural}", value)
        parsed: list[object] = []
        seen: dict[object, int] = {}
        for index, entry in enumerate(value):
            try:
                parsed.append(item.parse(entry))
            except BadValue as bad:
                raise BadValue(bad.message, fix=bad.fix, at=f"[{index}]{bad.at}") from None
            if unique_by is not None:
                first = seen.setdefault(unique_by(parsed[-1]), index)
                if first != index:
                    raise BadValue(f"repeats entry [{first}]", fix="remove one of the two", at=f"[{index}]")
        return tuple(parsed)

    return Kind(f"array of {plural}", parse, example or f"[{item.example}]")


def one_or_more(item: Kind, plural: str) -> Kind:
    """One ``item`` or a non-empty array of different ones, always as a tuple."""
    several = list_of(item, plural, unique_by=lambda entry: entry)

    def parse(value: object) -> object:
        if value == []:
            raise wrong(f"{item.name}, or an array with at least one", value)
        return several.parse(value) if isinstance(value, list) else (item.parse(value),)

    return Kind(f"{item.name}, or array of {plural}", parse, item.example)


def map_of(key: Kind, item: Kind, name: str, example: str) -> Kind:
    """A table with free names, as a read-only mapping in the order of the file."""

    def parse(value: object) -> MappingProxyType[str, object]:
        if not isinstance(value, dict):
            raise wrong("a table", value)
        parsed: dict[str, object] = {}
        for label, entry in value.items():
            key.parse(label)
            try:
                parsed[label] = item.parse(entry)
            except BadValue as bad:
                fix = bad.fix
                if fix is not None and fix.startswith("quote it: "):
                    fix = f"quote it: {key_text(label)} = {fix.removeprefix('quote it: ')}"
                raise BadValue(bad.message, fix=fix, at=f".{key_text(label)}{bad.at}") from None
        return MappingProxyType(parsed)

    return Kind(name, parse, example)
