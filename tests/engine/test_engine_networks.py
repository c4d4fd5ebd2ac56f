"""Networks and growing logs, the same on every engine."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.parse.shapes import unix_time
from pytest_envpar.errors import ConflictError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

ASK = """
import socket, sys
print(socket.create_connection((sys.argv[1], 8000), 5).recv(20).decode())
"""
SERVE = """
import socket
server = socket.create_server(("", 8000))
print("listening", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""


@pytest.fixture
def network(engine: Engine, run_labels: Mapping[str, str]) -> Iterator[Callable[..., str]]:
    """``network(internal=False)`` creates a network that is removed after the test, and returns its name."""
    made: list[str] = []

    def create(*, internal: bool = False) -> str:
        name = f"envpar-test-{secrets.token_hex(6)}"
        engine.create_network(name, labels=run_labels, internal=internal)
        made.append(name)
        return name

    yield create
    for name in made:
        engine.remove_network(name)


def test_containers_of_a_network_find_each_other_by_alias(
    engine: Engine, network: Callable[..., str], create: Callable[..., str]
) -> None:
    name = network()
    try:
        served = create("python3", "-c", SERVE, network=name, aliases=("db", "cache"))
        engine.start(served)
        assert next(iter(engine.follow_logs(served))).text == b"listening"
        asking = create("sleep", "60", network=name)
        engine.start(asking)
        for alias in ("db", "cache"):
            answer = engine.exec(asking, ["python3", "-c", ASK, alias], timeout_s=30)
            assert answer.stdout == b"hello\n", answer
    finally:
        for container in (served, asking):
            engine.remove_container(container)


def test_a_container_can_join_one_more_network(
    engine: Engine, network: Callable[..., str], create: Callable[..., str]
) -> None:
    first, second = network(), network()
    container = create("sleep", "60", network=first)
    engine.connect_network(second, container, aliases=("more",))
    engine.start(container)
    assert set(engine.inspect_container(container).ip_addresses) == {first, second}
    engine.remove_container(container)


def test_a_network_is_listed_by_its_labels_and_its_name_is_taken(
    engine: Engine, network: Callable[..., str], run_labels: Mapping[str, str]
) -> None:
    name = network(internal=True)
    assert name in [listed.name for listed in engine.list_networks(run_labels)]
    with pytest.raises(ConflictError):
        engine.create_network(name, labels=run_labels)
    engine.remove_network(name)
    engine.remove_network(name)
    assert name not in [listed.name for listed in engine.list_networks(run_labels)]


def test_a_network_in_use_is_not_removed(
    engine: Engine, network: Callable[..., str], create: Callable[..., str]
) -> None:
    name = network()
    container = create("sleep", "60", network=name)
    engine.start(container)
    with pytest.raises(EngineError):
        engine.remove_network(name)
    engine.remove_container(container)


def test_lines_of_a_log_come_as_they_are_written_and_end_with_the_container(
    engine: Engine, create: Callable[..., str]
) -> None:
    script = "echo out; echo err >&2; read line; echo last; printf 'no end'; exit 3"
    container = create("sh", "-c", script, stdin=True, log="readable")
    stream = engine.attach(container)
    engine.start(container)
    lines = engine.follow_logs(container)
    first = [next(lines), next(lines)]
    assert {line.text for line in first} == {b"out", b"err"}
    assert abs(first[0].time - first[1].time) < 60
    stream.write(b"go\n")
    rest = list(lines)
    # Docker 20.10 may leave out what is written in the very last moment; its whole log has it.
    assert [line.text for line in rest] == [b"last", b"no end"][: len(rest)]
    assert b"no end" in engine.logs(container)
    stream.close()
    assert engine.wait(container, timeout_s=30) == 3


def test_lines_of_a_log_that_are_written_in_pieces(engine: Engine, create: Callable[..., str]) -> None:
    script = "printf a; sleep 0.3; echo b; python3 -c 'print(\"x\" * 20000)'; printf 'no '; exec sleep 60"
    container = create("sh", "-c", script, log="readable")
    engine.start(container)
    lines = engine.follow_logs(container)
    assert [next(lines).text for _ in range(2)] == [b"ab", b"x" * 20000]
    whole = b"ab\n" + b"x" * 20000 + b"\n"
    if engine.info.kind == "podman":  # Docker keeps what has no end yet to itself
        whole += b"no "
        deadline = time.monotonic() + 60
        while not engine.logs(container, tail=1).endswith(b"no ") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert engine.logs(container, tail=1) == b"no "
    assert engine.logs(container, tail=9) == whole
    engine.remove_container(container)


def test_following_ends_when_the_container_is_removed(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sh", "-c", "echo there; exec sleep 60")
    engine.start(container)
    lines = engine.follow_logs(container)
    assert next(lines).text == b"there"
    rest: list[object] = []

    def follow() -> None:
        try:
            rest.extend(lines)
        except EngineError as error:
            rest.append(error)

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    engine.remove_container(container)
    following.join(30)
    assert not following.is_alive()


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-02T00:00:00.25Z", 86400.25),
        ("1970-01-01T01:00:00.5+01:00", 0.5),
        ("1969-12-31T23:00:00.000000001-01:30", 1800.000000001),
        ("no time", 0.0),
    ],
)
def test_times_of_log_lines(stamp: str, seconds: float) -> None:
    assert unix_time(stamp) == pytest.approx(seconds)
