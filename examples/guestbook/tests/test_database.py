"""What only a real database shows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import served
from guestbook import GuestBook, InRedis, Redis, RedisError

pytestmark = pytest.mark.env_only("integration")


def test_entries_outlive_the_application(redis: Redis) -> None:
    with served(GuestBook(InRedis(redis))) as call:
        call("POST", "/", {"name": "Ada", "text": "still here"})
    with served(GuestBook(InRedis(redis))) as call:
        assert call("GET", "/")[1]["newest"] == [{"name": "Ada", "text": "still here"}]


def test_no_entry_of_two_applications_gets_lost(redis: Redis) -> None:
    store = InRedis(redis)
    with served(GuestBook(store)) as one, served(GuestBook(store)) as other, ThreadPoolExecutor(4) as pool:
        calls = [call for _ in range(20) for call in (one, other)]
        answers = pool.map(lambda call: call("POST", "/", {"name": "guest", "text": "x"}), calls)
        numbers = [answer["number"] for _, answer in answers]
    assert sorted(numbers) == list(range(1, 41))
    assert store.count() == 40


def test_a_key_of_another_kind_is_an_error(redis: Redis) -> None:
    redis("SET", "guestbook", "not a list")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        InRedis(redis).add("entry")
