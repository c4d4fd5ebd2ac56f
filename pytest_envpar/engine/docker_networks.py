"""The verbs of networks, and the log of a container as it grows."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine import parse
from pytest_envpar.engine.api import Listed, LogLine
from pytest_envpar.engine.calls import Calls, label_filter
from pytest_envpar.engine.paths import at
from pytest_envpar.engine.stream import MAX_LINE, Demultiplexer
from pytest_envpar.engine.translate import translated
from pytest_envpar.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_STAMP = re.compile(rb"\A\d{4}-\d\d-\d\dT\S+ ")


class DockerNetworks(Calls):
    """See :class:`~pytest_envpar.engine.api.Engine`."""

    def create_network(self, name: str, *, labels: Mapping[str, str], internal: bool = False) -> str:
        body = {
            "Name": name,
            "Driver": "bridge",
            "Internal": internal,
            "Labels": dict(labels),
            # Docker would make a second network of a name that is taken.
            "CheckDuplicate": True,
        }
        answer = self._json("POST", "/networks/create", f"network {name}", body=body)
        return str(parse.table(answer).get("Id") or "")

    def connect_network(self, network: str, container: str, *, aliases: Sequence[str] = ()) -> None:
        body = {"Container": container, "EndpointConfig": {"Aliases": list(aliases)}}
        doing = f"network {network[:40]}: connect container {container[:12]}"
        self._done("POST", at("networks", network, "connect"), doing, body=body)

    def list_networks(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/networks", "networks", query=label_filter(labels))
        return tuple(parse.listed_named(item) for item in parse.rows(answer))

    def remove_network(self, network: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", at("networks", network), f"network {network}")

    def follow_logs(self, container: str) -> Iterator[LogLine]:
        query = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1", "tail": "all"}
        with translated(f"container {container[:12]}: logs", self._url):
            response = self._request("GET", at("containers", container, "logs"), query=query, timeout_s=None)
            try:
                yield from log_lines(response.chunks())
            finally:
                response.close()


def log_lines(chunks: Iterable[bytes]) -> Iterator[LogLine]:
    """The lines of a multiplexed log with timestamps.

    A frame is what was written at once, up to 16 KiB, and each begins with its time, also where it goes on with a line.
    """
    pieces = Demultiplexer()
    rest: dict[int, bytes] = {1: b"", 2: b""}
    for chunk in chunks:
        for stream, data in pieces.feed(chunk):
            more = _STAMP.sub(b"", data, count=1) if rest[stream] else data
            *lines, rest[stream] = (rest[stream] + more).split(b"\n")
            rest[stream] = rest[stream][:MAX_LINE]
            yield from map(_log_line, lines)
    yield from (_log_line(line) for line in rest.values() if line)


def _log_line(line: bytes) -> LogLine:
    """``2026-01-31T12:00:00.123456789Z text``; Podman writes the offset of its own time zone instead of ``Z``."""
    stamp, _, text = line.partition(b" ")
    told = parse.unix_time(stamp.decode("ascii", "replace"))
    latest = told
    if b"." not in stamp:
        # Podman tells whole seconds. It has been written before it is heard here, if the clock is the same.
        heard = time.time()
        latest = heard if told <= heard < told + 1 else told + 1
    return LogLine(told, text.rstrip(b"\r"), latest)
