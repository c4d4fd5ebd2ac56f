"""Recipes: a title, portions, and ingredients with their amounts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from measures import Amount, parse


@dataclass(frozen=True)
class Recipe:
    title: str
    portions: int
    ingredients: dict[str, Amount]

    def for_portions(self, portions: int) -> Recipe:
        """The same recipe for more or fewer people."""
        if portions < 1:
            raise ValueError("a recipe serves at least one")
        factor = Fraction(portions, self.portions)
        scaled = {name: amount * factor for name, amount in self.ingredients.items()}
        return Recipe(self.title, portions, scaled)


def load(text: str) -> Recipe:
    """Read a recipe: a title line ``Pancakes (4)`` and lines ``name: amount``."""
    head, *lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    title, _, portions = head.removesuffix(")").rpartition(" (")
    pairs = (line.split(":", 1) for line in lines)
    return Recipe(title, int(portions), {name.strip(): parse(amount) for name, amount in pairs})
