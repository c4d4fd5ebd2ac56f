"""Containers as a test inside a stage has them: every method asks the host, which answers only for what it gave out.

The same names, arguments, answers and errors as on the host (a test compares them); what they mean is said there, in
``pytest_envpar.containers.handle``. Paths of "the side where the test runs" are paths of this container.
"""

import dataclasses
import ipaddress
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union

from . import copying
from .calls import PIECE, Caller
from .comparisons import Changes, Comparison, Manifest, changes_of, comparison_of
from .processes import Process, result_of, words
from .values import Address, Checkpoint, ExecResult, Image, Stats

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors

ContainerPath = Union[PurePosixPath, str]
_NONE: Mapping[str, str] = {}


class Container:
    def __init__(self, caller: Caller, told: Mapping[str, Any]) -> None:
        self.id = str(told["id"])
        self.name = str(told["name"])
        self.image = Image.of(told["image"])
        self.stage: Optional[str] = told["stage"]
        self._caller = caller
        self._key = str(told["key"])

    def __repr__(self) -> str:
        return "<Container %s of %s>" % (self.name, self.stage or self.image.short())

    def exec(
        self,
        args: Sequence[str],
        *,
        input: Optional[bytes] = None,  # noqa: A002 - the name that subprocess.run has
        env: Mapping[str, str] = _NONE,
        user: Optional[str] = None,
        workdir: Optional[ContainerPath] = None,
        timeout: Optional[float] = None,
        check: bool = False,
    ) -> ExecResult:
        told, out = self._call(
            "exec",
            input or b"",
            args=words(args),
            env=dict(env),
            user=user,
            workdir=None if workdir is None else str(workdir),
            timeout=timeout,
            check=check,
            given=input is not None,
        )
        return result_of(told, out)

    def popen(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] = _NONE,
        user: Optional[str] = None,
        workdir: Optional[ContainerPath] = None,
    ) -> Process:
        told, _ = self._call(
            "popen",
            args=words(args),
            env=dict(env),
            user=user,
            workdir=None if workdir is None else str(workdir),
        )
        return Process(self._caller, str(told["key"]), args)

    def read_bytes(self, path: ContainerPath) -> bytes:
        return self._call("read", path=str(path))[1]

    def read_text(self, path: ContainerPath, encoding: str = "utf-8") -> str:
        return self.read_bytes(path).decode(encoding)

    def write(self, path: ContainerPath, data: Union[bytes, str], *, mode: int = 0o644) -> None:
        self._call(
            "write", data.encode() if isinstance(data, str) else bytes(data), path=str(path), mode=mode
        )

    def copy_in(self, source: Path, target: ContainerPath) -> None:
        source = Path(source)
        if not os.access(str(source), os.R_OK) and not source.is_symlink():
            raise errors.UsageError("copy_in: %s does not exist or cannot be read" % source)
        with tempfile.TemporaryFile() as spool:
            try:
                copying.pack(source, spool)
            except OSError as error:
                raise errors.UsageError(
                    "copy_in: %s cannot be read: %s" % (source, error.strerror or error)
                ) from error
            spool.seek(0)
            pieces = iter(lambda: spool.read(PIECE), b"")
            self._call("copy_in", pieces, name=source.name, place=str(target))

    def copy_out(self, source: ContainerPath, target: Path) -> Path:
        target = Path(target)
        with tempfile.TemporaryFile() as spool:
            told = self._caller.stream(spool, "copy_out", self._key, source=str(source))
            spool.seek(0)
            name = str(told["name"])
            place = target / name if target.is_dir() and name else target
            try:
                copying.unpack(spool, place)
            except OSError as error:
                raise errors.UsageError(
                    "copy_out: %s cannot be written: %s" % (place, error.strerror or error)
                ) from error
        return place

    def logs(self, *, since: Optional[float] = None, tail: Optional[int] = None) -> str:
        return self._call("logs", since=since, tail=tail)[1].decode("utf-8", "replace")

    def port(self, container_port: int, protocol: str = "tcp") -> Address:
        told, _ = self._call("port", port=container_port, protocol=protocol)
        return Address(str(told["host"]), int(told["port"]))

    def ip(self, network: Optional[str] = None) -> Union[ipaddress.IPv4Address, ipaddress.IPv6Address]:
        return ipaddress.ip_address(str(self._call("ip", network=network)[0]["ip"]))

    def wait_ready(self, timeout: Optional[float] = None) -> None:
        self._call("wait_ready", timeout=timeout)

    def stats(self) -> Stats:
        return Stats(**self._call("stats")[0])

    def kill(self, signal: str = "KILL") -> None:
        self._call("kill", signal=signal)

    def stop(self, timeout: float = 10.0) -> None:
        self._call("stop", timeout=timeout)

    def restart(self) -> None:
        self._call("restart")

    def pause(self) -> None:
        self._call("pause")

    def unpause(self) -> None:
        self._call("unpause")

    def remove(self) -> None:
        self._call("remove")

    def checkpoint(self, name: str) -> Checkpoint:
        return Checkpoint(**self._call("checkpoint", name=name)[0])

    def restore(self, checkpoint: Checkpoint) -> "Container":
        told, _ = self._call("restore", checkpoint=dataclasses.asdict(checkpoint))
        return Container(self._caller, told)

    def changes(self) -> Changes:
        return changes_of(self._call("changes")[1])

    def diff(self, other: "Container") -> Comparison:
        return comparison_of(*self._call("diff", other=other._key))

    def manifest(self) -> Manifest:
        return Manifest(*self._call("manifest"))

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _drop(self) -> None:
        """The fixture is over: nobody waits for the removal."""
        self._call("drop")

    def _call(
        self, verb: str, data: Union[bytes, Iterable[bytes]] = b"", **fields: Any
    ) -> Tuple[Dict[str, Any], bytes]:
        __tracebackhide__ = True
        return self._caller.call(verb, self._key, data, **fields)
