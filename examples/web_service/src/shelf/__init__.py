"""A reading list over HTTP."""

from shelf.app import Shelf
from shelf.server import running

__all__ = ["Shelf", "running"]
