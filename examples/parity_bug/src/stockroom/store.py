"""The store: one SQLite database, every change in a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
    sku      TEXT PRIMARY KEY,
    quantity INTEGER NOT NULL CHECK (quantity >= 0)
);
CREATE TABLE IF NOT EXISTS reservation (
    id       INTEGER PRIMARY KEY,
    sku      TEXT NOT NULL REFERENCES stock (sku),
    quantity INTEGER NOT NULL,
    customer TEXT NOT NULL
);
"""


class OutOfStock(Exception):
    """There is not enough of an article."""

    def __init__(self, sku: str, wanted: int) -> None:
        super().__init__(f"fewer than {wanted} of {sku} in stock")
        self.sku = sku
        self.wanted = wanted


class Stockroom:
    """Stock levels by article number (SKU)."""

    def __init__(self, path: str = ":memory:") -> None:
        self._db = sqlite3.connect(path)
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def receive(self, sku: str, quantity: int) -> None:
        """A delivery arrived."""
        if quantity <= 0:
            raise ValueError("a delivery has at least one piece")
        with self._db:
            self._db.execute(
                "INSERT INTO stock (sku, quantity) VALUES (?, ?)"
                " ON CONFLICT (sku) DO UPDATE SET quantity = quantity + excluded.quantity",
                (sku, quantity),
            )

    def level(self, sku: str) -> int:
        """How many pieces are in stock."""
        row = self._db.execute("SELECT quantity FROM stock WHERE sku = ?", (sku,)).fetchone()
        return row[0] if row else 0

    def reserve(self, sku: str, quantity: int, customer: str) -> int:
        """Take pieces out of the stock for a customer; returns how many are left."""
        if self.level(sku) < quantity:
            raise OutOfStock(sku, quantity)
        with self._db:
            # One statement, so that nobody can take the same pieces between a read and a write.
            with closing(
                self._db.execute(
                    "UPDATE stock SET quantity = quantity - ? WHERE sku = ? RETURNING quantity",
                    (quantity, sku),
                )
            ) as cursor:
                (left,) = cursor.fetchone()
            self._db.execute(
                "INSERT INTO reservation (sku, quantity, customer) VALUES (?, ?, ?)",
                (sku, quantity, customer),
            )
        return left

    def reservations(self, customer: str) -> Iterator[tuple[str, int]]:
        """What a customer has reserved, in order."""
        yield from self._db.execute(
            "SELECT sku, quantity FROM reservation WHERE customer = ? ORDER BY id", (customer,)
        )

    def low(self, threshold: int) -> list[str]:
        """Articles with fewer pieces than ``threshold``, scarcest first."""
        rows = self._db.execute(
            "SELECT sku FROM stock WHERE quantity < ? ORDER BY quantity, sku", (threshold,)
        )
        return [sku for (sku,) in rows]
