"""Kitchen measures: amounts with a unit, exact, and convertible within a kind."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

_UNITS = {
    "ml": ("volume", Fraction(1)),
    "tsp": ("volume", Fraction(5)),
    "tbsp": ("volume", Fraction(15)),
    "cup": ("volume", Fraction(240)),
    "g": ("mass", Fraction(1)),
    "kg": ("mass", Fraction(1000)),
    "oz": ("mass", Fraction("28.349523125")),
}


class UnitError(ValueError):
    """An unknown unit, or a conversion between kinds."""


@dataclass(frozen=True)
class Amount:
    value: Fraction
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise UnitError(f"unknown unit {self.unit!r}")

    def to(self, unit: str) -> Amount:
        kind, factor = _UNITS[self.unit]
        other_kind, other_factor = _UNITS.get(unit, ("?", Fraction(1)))
        if kind != other_kind:
            raise UnitError(f"cannot convert {self.unit} to {unit}")
        return Amount(self.value * factor / other_factor, unit)

    def __mul__(self, factor: int | Fraction) -> Amount:
        return Amount(self.value * factor, self.unit)


def parse(text: str) -> Amount:
    """``"2 1/2 cup"`` as an amount."""
    *numbers, unit = text.split()
    if not numbers:
        raise UnitError(f"no number in {text!r}")
    return Amount(sum((Fraction(number) for number in numbers), Fraction(0)), unit)
