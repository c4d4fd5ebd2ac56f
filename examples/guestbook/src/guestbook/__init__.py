"""A guest book over HTTP."""

from guestbook.app import GuestBook
from guestbook.redis import Redis, RedisError
from guestbook.stores import InMemory, InRedis

__all__ = ["GuestBook", "InMemory", "InRedis", "Redis", "RedisError"]
