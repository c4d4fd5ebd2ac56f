from __future__ import annotations

import measures
import pytest
from recipes import Recipe, load


def pytest_report_header() -> str:
    return f"measures: {measures.__file__}"


@pytest.fixture
def pancakes() -> Recipe:
    return load(
        """
        Pancakes (4)
        flour: 1 1/2 cup
        milk: 300 ml
        butter: 2 tbsp
        sugar: 50 g
        """
    )
