from __future__ import annotations

from fractions import Fraction
from importlib.metadata import version

import pytest
from measures import Amount, UnitError
from recipes import Recipe


def test_the_installed_measures_are_used() -> None:
    assert version("measures").startswith("2.")


def test_a_recipe_is_read(pancakes: Recipe) -> None:
    assert pancakes.title == "Pancakes"
    assert pancakes.ingredients["flour"] == Amount(Fraction(3, 2), "cup")


@pytest.mark.parametrize(("portions", "milk"), [(2, 150), (4, 300), (6, 450)])
def test_amounts_grow_with_the_portions(pancakes: Recipe, portions: int, milk: int) -> None:
    assert pancakes.for_portions(portions).ingredients["milk"] == Amount(Fraction(milk), "ml")


def test_amounts_convert_within_a_kind(pancakes: Recipe) -> None:
    assert pancakes.ingredients["flour"].to("ml") == Amount(Fraction(360), "ml")


def test_volume_is_not_mass(pancakes: Recipe) -> None:
    with pytest.raises(UnitError, match="cup to g"):
        pancakes.ingredients["flour"].to("g")


def test_nobody_is_not_served(pancakes: Recipe) -> None:
    with pytest.raises(ValueError, match="at least one"):
        pancakes.for_portions(0)
