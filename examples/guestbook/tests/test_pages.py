from __future__ import annotations

from typing import Any

import pytest


def test_a_new_book_is_empty(call: Any) -> None:
    assert call("GET", "/") == (200, {"entries": 0, "newest": []})


def test_the_newest_entry_comes_first(call: Any) -> None:
    assert call("POST", "/", {"name": "Ada", "text": "first"}) == (201, {"number": 1})
    assert call("POST", "/", {"name": "Zuse", "text": "grüße, 世界"}) == (201, {"number": 2})
    status, page = call("GET", "/")
    assert (status, page["entries"]) == (200, 2)
    assert page["newest"] == [{"name": "Zuse", "text": "grüße, 世界"}, {"name": "Ada", "text": "first"}]


def test_a_page_has_ten_entries(call: Any) -> None:
    for number in range(12):
        call("POST", "/", {"name": "guest", "text": str(number)})
    _, page = call("GET", "/")
    assert page["entries"] == 12
    assert [entry["text"] for entry in page["newest"]] == [str(number) for number in range(11, 1, -1)]


@pytest.mark.parametrize("body", [{}, {"name": "Ada"}, ["Ada"], "Ada"])
def test_half_an_entry_is_refused(call: Any, body: Any) -> None:
    status, answer = call("POST", "/", body)
    assert status == 400
    assert "name and text" in answer["error"]


def test_other_pages_are_not_found(call: Any) -> None:
    assert call("GET", "/nothing")[0] == 404
