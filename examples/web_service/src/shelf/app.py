"""The WSGI application and its store."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from typing import Any

_STATUS = {
    200: "200 OK",
    201: "201 Created",
    204: "204 No Content",
    400: "400 Bad Request",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
}


class Shelf:
    """Books in a SQLite file, served as JSON.

    GET /            the title and the number of books
    GET /books       all books, by title
    POST /books      add one: {"title": …, "author": …}
    GET, DELETE /books/ID
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._connect() as db:
            db.execute("CREATE TABLE IF NOT EXISTS book (id INTEGER PRIMARY KEY, title TEXT, author TEXT)")
        db.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path)
        db.row_factory = sqlite3.Row
        return db

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        db = self._connect()
        try:
            with db:
                status, answer = self._answer(db, environ)
        finally:
            db.close()
        body = b"" if answer is None else json.dumps(answer, ensure_ascii=False).encode()
        start_response(
            _STATUS[status],
            [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))],
        )
        return [body]

    def _answer(self, db: sqlite3.Connection, environ: dict[str, Any]) -> tuple[int, Any]:
        method = environ["REQUEST_METHOD"]
        parts = [part for part in environ["PATH_INFO"].split("/") if part]
        if not parts:
            (count,) = db.execute("SELECT count(*) FROM book").fetchone()
            return 200, {"title": os.environ.get("SHELF_TITLE", "shelf"), "books": count}
        if parts == ["books"]:
            if method == "GET":
                return 200, [dict(row) for row in db.execute("SELECT * FROM book ORDER BY title")]
            if method == "POST":
                return self._add(db, environ)
            return 405, {"error": f"{method} is not possible here"}
        if len(parts) == 2 and parts[0] == "books" and parts[1].isdigit():
            row = db.execute("SELECT * FROM book WHERE id = ?", (int(parts[1]),)).fetchone()
            if row is None:
                return 404, {"error": "no such book"}
            if method == "DELETE":
                db.execute("DELETE FROM book WHERE id = ?", (row["id"],))
                return 204, None
            return 200, dict(row)
        return 404, {"error": "no such page"}

    def _add(self, db: sqlite3.Connection, environ: dict[str, Any]) -> tuple[int, Any]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            book = json.loads(body)
            title, author = book["title"], book["author"]
        except (ValueError, KeyError, TypeError):
            return 400, {"error": "a book is a JSON object with title and author"}
        cursor = db.execute("INSERT INTO book (title, author) VALUES (?, ?)", (title, author))
        return 201, {"id": cursor.lastrowid, "title": title, "author": author}
