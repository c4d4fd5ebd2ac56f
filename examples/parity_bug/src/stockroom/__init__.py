"""Stock levels and reservations of a small warehouse."""

from stockroom.store import OutOfStock, Stockroom

__all__ = ["OutOfStock", "Stockroom"]
