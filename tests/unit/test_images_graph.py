"""Which images share which layers."""

from __future__ import annotations

from pytest_envpar.images.graph import Pictured, Segment, merged, segments, sharing
from pytest_envpar.ledger import ImageRecord, LayerRecord

SIZES: dict[str, int | None] = {"a": 100, "b": 20, "c": 3, "d": 4, "?": None}


def _image(name: str, layers: str, stage: str = "") -> Pictured:
    record = ImageRecord(f"sha256:{name}", tuple(LayerRecord(each, SIZES[each]) for each in layers))
    return Pictured(record, (stage,) if stage else (), (name,), "engine")


def _shape(found: tuple[Segment, ...]) -> list[object]:
    return [
        (
            "".join(layer.diff_id for layer in each.layers),
            [image.references[0] for image in each.images],
            _shape(each.above),
            each.shared_by,
        )
        for each in found
    ]


def test_what_is_shared_from_the_bottom_on_is_there_once() -> None:
    images = [
        _image("abc", "abc"),
        _image("ab", "ab"),
        _image("abd", "abd"),
        _image("d", "d"),
        _image("", ""),
    ]
    assert _shape(segments(images)) == [
        ("", [""], [], 1),
        ("ab", ["ab"], [("c", ["abc"], [], 1), ("d", ["abd"], [], 1)], 3),
        ("d", ["d"], [], 1),
    ]


def test_two_images_of_the_same_layers() -> None:
    assert _shape(segments([_image("x", "ab"), _image("y", "ab")])) == [("ab", ["x", "y"], [], 2)]
    assert segments([]) == ()


def test_an_image_under_several_names_is_one() -> None:
    found = merged([_image("x", "a", "dev"), _image("y", "b"), _image("x", "a", "qa")])
    assert [(image.name, image.references) for image in found] == [("dev, qa", ("x",)), ("y", ("y",))]


def test_how_much_is_shared() -> None:
    found = sharing([_image("x", "abc"), _image("y", "acc?"), _image("z", "d?")])
    told = [
        (pair.left.name, pair.right.name, pair.layers, pair.size_bytes, pair.unknown) for pair in found.pairs
    ]
    assert told == [("x", "y", 2, 103, 0), ("y", "z", 1, 0, 1), ("x", "z", 0, 0, 0)]
    assert (found.total_bytes, found.distinct_bytes, found.shared_bytes, found.unknown) == (230, 127, 103, 1)
