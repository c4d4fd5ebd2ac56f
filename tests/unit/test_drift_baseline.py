"""Inventories that outlive their image."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_envpar.drift.baseline import decode, encode, fingerprint
from pytest_envpar.drift.model import Package

ONE = Package("pip", "six", "1.16", "/usr/lib/x")
TWO = Package("dpkg", "naïve\udcff", "1", "")


def test_an_inventory_comes_back() -> None:
    assert decode(encode([ONE, TWO])) == (ONE, TWO)
    assert decode(b"") == ()


def test_the_fingerprint_is_of_what_is_installed_not_of_where() -> None:
    moved = Package("pip", "six", "1.16", "/elsewhere")
    assert fingerprint([ONE, TWO]) == fingerprint([TWO, moved])
    assert fingerprint([ONE]) != fingerprint([TWO])
    assert fingerprint([ONE]) != fingerprint([Package("pip", "six", "1.17")])


def test_the_fingerprint_does_not_change_from_version_to_version() -> None:
    assert fingerprint([ONE]) == "sha256:af926afc21fb7f0b2371bbc41cea906079429cdcb8387c1e747b31619cfd9ccb"


@given(st.binary(max_size=200))
def test_garbage_is_no_inventory(data: bytes) -> None:
    decode(data)


def test_other_json_is_no_inventory() -> None:
    for data in (b"{}\n", b"[1,2,3,4]\n", b'["a"]\n', b"nonsense\n", b"[" * 100_000):
        assert decode(data) is None
