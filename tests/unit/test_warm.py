"""Warm containers: what their names say, and what is noticed inside."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.containers import warm
from pytest_envpar.containers.labels import Owner
from pytest_envpar.worker.agent import watch

if TYPE_CHECKING:
    from pathlib import Path


def test_a_name_says_who_uses_it(tmp_path: Path) -> None:
    maker = Owner.current(tmp_path)
    user = dataclasses.replace(maker, pid=maker.pid + 1, pid_start=77, run="0123456789ab")
    assert warm.user_of(warm.taken_name(user), maker) == user
    assert warm.user_of(warm.parked_name(maker, "qa", "0" * 16), maker) == maker
    assert warm.user_of("envpar-qa-0123456789ab-5", maker) == maker
    assert warm.user_of(warm.taken_name(user), None) is None


BEFORE = {"processes": [1], "/etc/hosts": (1, 2), "/dev/shm": []}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"processes": [1, 7]}, []),
        ({"processes": [1, 7, 9]}, ["processes"]),
        ({"processes": [1, 7], "/etc/hosts": (1, 3)}, ["/etc/hosts"]),
        ({"processes": [1, 7], "/dev/shm": ["x"]}, ["/dev/shm"]),
        ({"processes": [1, 7], "/mnt": []}, ["/mnt"]),
    ],
)
def test_what_is_noticed(monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], told: list[str]) -> None:
    looks = iter([BEFORE, {**BEFORE, **now}])
    monkeypatch.setattr(watch, "_look", lambda: next(looks))
    assert watch.Watch().changed([7]) == told


def test_folders_in_memory_are_found_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        "tmpfs /a\\040b tmpfs rw",
        "x /src ext4 rw",
        "tmpfs /proc/acpi tmpfs ro",
        "m /dev/mqueue mqueue rw",
    )
    monkeypatch.setattr(watch, "_read", lambda _: "\n".join(rows).encode())
    assert watch.in_memory() == ["/a b", "/dev/mqueue"]
