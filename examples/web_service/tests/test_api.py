from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.api

EMMA = {"title": "Emma", "author": "Jane Austen"}
FAUST = {"title": "Faust", "author": "Johann Wolfgang von Goethe"}


def test_a_new_shelf_is_empty(call: Any) -> None:
    status, answer = call("GET", "/")
    assert (status, answer["books"]) == (200, 0)


def test_a_book_can_be_added_and_read(call: Any) -> None:
    status, added = call("POST", "/books", EMMA)
    assert status == 201
    assert call("GET", f"/books/{added['id']}") == (200, {"id": added["id"], **EMMA})


def test_books_are_listed_by_title(call: Any) -> None:
    call("POST", "/books", FAUST)
    call("POST", "/books", EMMA)
    status, books = call("GET", "/books")
    assert status == 200
    assert [book["title"] for book in books] == ["Emma", "Faust"]


def test_a_book_can_be_removed(call: Any) -> None:
    _, added = call("POST", "/books", EMMA)
    assert call("DELETE", f"/books/{added['id']}") == (204, None)
    assert call("GET", f"/books/{added['id']}")[0] == 404


@pytest.mark.parametrize("body", [{}, {"title": "Emma"}, ["Emma"], "Emma"])
def test_half_a_book_is_refused(call: Any, body: Any) -> None:
    status, answer = call("POST", "/books", body)
    assert status == 400
    assert "title and author" in answer["error"]


@pytest.mark.parametrize("path", ["/nothing", "/books/7", "/books/x"])
def test_unknown_pages_are_not_found(call: Any, path: str) -> None:
    assert call("GET", path)[0] == 404


def test_titles_keep_their_letters(call: Any) -> None:
    book = {"title": "Der Prozeß – 審判", "author": "Franz Kafka"}
    _, added = call("POST", "/books", book)
    assert added["title"] == book["title"]
