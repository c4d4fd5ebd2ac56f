"""What can be done to a container that is there: stop, pause, measure, read, look at, commit and rename it.

No run needs these before its first container is there: what they are parsed by is imported where it is used.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.engine.calls import Calls
from pytest_envpar.engine.parse.shapes import image_id, table
from pytest_envpar.engine.paths import at
from pytest_envpar.engine.translate import translated
from pytest_envpar.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import PurePosixPath

    from pytest_envpar.engine.stream import SocketStream
    from pytest_envpar.engine.values.containers import LogLine, Stats
    from pytest_envpar.engine.values.files import PathStat

_NOTHING: Mapping[str, str] = MappingProxyType({})
_STAT_HEADER = "x-docker-container-path-stat"


class DockerLife(Calls):
    """The verbs of a container's life; see :class:`~pytest_envpar.engine.api.Engine`."""

    def exec_exit_code(self, exec_id: str) -> int | None:
        answer = table(self._json("GET", at("exec", exec_id, "json"), "exec"))
        return None if answer.get("Running") else int(answer.get("ExitCode") or 0)

    def open_terminal(
        self, container: str, command: Sequence[str], *, env: Mapping[str, str] = _NOTHING
    ) -> tuple[str, SocketStream]:
        doing = f"container {container[:12]}: {command[0]}"
        body = {
            **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty"), True),
            "Cmd": list(command),
            "Env": [f"{name}={value}" for name, value in env.items()],
        }
        made = self._json("POST", at("containers", container, "exec"), doing, body=body)
        exec_id = str(table(made).get("Id") or "")
        start = {"Detach": False, "Tty": True}
        return exec_id, self._hijack(at("exec", exec_id, "start"), doing, body=start, raw=True)

    def resize_terminal(self, exec_id: str, *, rows: int, columns: int) -> None:
        self._done(
            "POST", at("exec", exec_id, "resize"), "terminal", query={"h": str(rows), "w": str(columns)}
        )

    def stop(self, container: str, *, timeout_s: float = 10.0) -> None:
        self._change(container, "stop", t=str(max(0, round(timeout_s))))

    def restart(self, container: str, *, timeout_s: float = 10.0) -> None:
        self._change(container, "restart", t=str(max(0, round(timeout_s))))

    def pause(self, container: str) -> None:
        self._change(container, "pause")

    def unpause(self, container: str) -> None:
        self._change(container, "unpause")

    def rename(self, container: str, name: str) -> None:
        self._change(container, "rename", name=name)

    def follow_logs(self, container: str) -> Iterator[LogLine]:
        from pytest_envpar.engine.logs import log_lines

        query = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1", "tail": "all"}
        with translated(f"container {container[:12]}: logs", self._url):
            response = self._request("GET", at("containers", container, "logs"), query=query, timeout_s=None)
            try:
                yield from log_lines(response.chunks())
            finally:
                response.close()

    def stats(self, container: str) -> Stats:
        from pytest_envpar.engine.parse.containers import stats

        doing = f"container {container[:12]}: stats"
        # Without "one-shot" an engine waits for a second measure, only to tell a share of the processor.
        query = {"stream": "0", "one-shot": "1"}
        return stats(self._json("GET", at("containers", container, "stats"), doing, query=query))

    def commit(
        self,
        container: str,
        reference: str,
        *,
        labels: Mapping[str, str] = _NOTHING,
        entrypoint: Sequence[str] = (),
        command: Sequence[str] = (),
        comment: str = "",
    ) -> str:
        repository, _, tag = reference.rpartition(":")
        query: dict[str, str | list[str]] = {
            "container": container,
            "repo": repository,
            "tag": tag,
            "pause": "1",
            "comment": comment,
        }
        body: dict[str, object] = {}
        if self.info.kind == "podman":
            # It reads the body and looks at instructions of a Dockerfile only; Docker's cannot take an entrypoint away.
            query["changes"] = [
                f"ENTRYPOINT {json.dumps(list(entrypoint))}",
                f"CMD {json.dumps(list(command))}",
                *(f"LABEL {_quoted(name)}={_quoted(value)}" for name, value in labels.items()),
            ]
        else:
            body = {"Entrypoint": list(entrypoint), "Cmd": list(command), "Labels": dict(labels)}
        headers = {"Content-Type": "application/json"}
        with translated(f"container {container[:12]}: commit", self._url):
            answer = self._request(
                "POST",
                "/commit",
                query=query,
                headers=headers,
                body=json.dumps(body).encode(),
                timeout_s=None,
            ).json()
        return image_id(table(answer).get("Id"))

    def stat_path(self, container: str, path: PurePosixPath) -> PathStat | None:
        doing = f"container {container[:12]}: look at {path}"
        try:
            with translated(doing, self._url):
                response = self._request(
                    "HEAD", at("containers", container, "archive"), query={"path": str(path)}
                )
        except NotFoundError:
            return None
        response.read()
        from pytest_envpar.engine.parse.files import path_stat

        return path_stat(response.headers.get(_STAT_HEADER, ""))

    def _change(self, container: str, verb: str, **query: str) -> None:
        doing = f"container {container[:12]}: {verb}"
        with translated(doing, self._url):
            self._request("POST", at("containers", container, verb), query=query, timeout_s=None).read()


def _quoted(text: str) -> str:
    """A word of a Dockerfile instruction, in which nothing is replaced by a variable's value."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")
