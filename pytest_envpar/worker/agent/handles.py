"""Containers as a test inside a stage has them: every method asks the host, which answers only for what it gave out.

The same names, arguments, answers and errors as on the host (a test compares them); what they mean is said there, in
``pytest_envpar.containers.handle``. Paths of "the side where the test runs" are paths of this container.
"""

import base64
import io
import ipaddress
import itertools
import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from . import wire
from .channel import Channel

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors

PIECE = 256 * 1024
"""Bytes in one message."""

ContainerPath = Union[PurePosixPath, str]
_NONE: Mapping[str, str] = {}


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return "[%s]:%d" % self if ":" in self.host else "%s:%d" % self


class ExecResult(NamedTuple):
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Stats(NamedTuple):
    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


class Checkpoint(NamedTuple):
    name: str
    reference: str
    image_id: str
    parent_id: str
    stage: Optional[str]


class Image(NamedTuple):
    """The facts of an image that are told inside; ``digest`` is None for one that no registry gave."""

    reference: str
    digest: Optional[str]
    image_id: str
    platform: str


class Change(NamedTuple):
    path: PurePosixPath
    kind: str


class Caller:
    """Calls over the worker's channel, from any thread; each waits for its own answer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)

    def call(
        self, verb: str, target: str = "", data: Union[bytes, Iterable[bytes]] = b"", **fields: Any
    ) -> Tuple[Dict[str, Any], bytes]:
        """Ask, and return the fields of the answer and its bytes.

        Raises:
            EnvparError: As the host raised it; also FileNotFoundError, IsADirectoryError and TimeoutError.
        """
        sink = io.BytesIO()
        __tracebackhide__ = True
        told = self.stream(sink, verb, target, data, **fields)
        return told, sink.getvalue()

    def stream(
        self,
        sink: IO[bytes],
        verb: str,
        target: str = "",
        data: Union[bytes, Iterable[bytes]] = b"",
        **fields: Any,
    ) -> Dict[str, Any]:
        """The same; the bytes of the answer go to ``sink`` as they come."""
        __tracebackhide__ = True
        channel = self._channel
        if not channel.ours:
            raise errors.UsageError(
                "a forked child cannot use the containers of its parent",
                hint="use them in the test's own process",
            )
        number = next(self._numbers)
        waiting: Optional[bytes] = None
        for piece in _pieces(data):
            if waiting is not None:
                self._send(wire.Call(number, verb, target, {}, _text(waiting), True))
            waiting = piece
        self._send(wire.Call(number, verb, target, fields, _text(waiting or b""), False))
        while True:
            answer = channel.take(lambda each: isinstance(each, wire.Answer) and each.number == number)
            assert isinstance(answer, wire.Answer)
            sink.write(base64.b64decode(answer.data))
            if answer.more:
                continue
            if answer.error:
                content = getattr(sink, "getvalue", bytes)()
                raise _error(answer.error, content)
            return answer.fields

    def _send(self, message: wire.Call) -> None:
        self._channel.send(message)
        self._channel.flush()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _pieces(data: Union[bytes, Iterable[bytes]]) -> Iterator[bytes]:
    for chunk in [data] if isinstance(data, bytes) else data:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]


def _error(told: Dict[str, Any], content: bytes) -> Exception:
    kind, message = str(told.get("kind")), str(told.get("message"))
    if kind in ("FileNotFoundError", "IsADirectoryError", "TimeoutError"):
        plain = {
            "FileNotFoundError": FileNotFoundError,
            "IsADirectoryError": IsADirectoryError,
            "TimeoutError": TimeoutError,
        }
        return plain[kind](message)
    cls = getattr(errors, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, errors.EnvparError)):
        cls = errors.EnvparError
    more: Dict[str, Any] = {}
    if issubclass(cls, errors.CommandError):
        split = int(told.get("split") or 0)
        more = {"exit_code": told.get("exit_code"), "stdout": content[:split], "stderr": content[split:]}
    detail = tuple(str(line) for line in told.get("detail") or ())
    error = cls(message, hint=told.get("hint"), detail=detail, **more)
    error.__dict__["skip"] = bool(told.get("skip"))
    return error


class Process:
    def __init__(self, caller: Caller, key: str, args: Sequence[str]) -> None:
        self.args = tuple(args)
        self._caller = caller
        self._key = key
        self._code: Optional[int] = None

    def write(self, data: bytes) -> None:
        self._caller.call("process.write", self._key, data)

    def close_stdin(self) -> None:
        self._caller.call("process.close_stdin", self._key)

    def read(self, timeout: Optional[float] = None) -> Optional[Tuple[int, bytes]]:
        told, data = self._caller.call("process.read", self._key, timeout=timeout)
        return None if told.get("stream") is None else (int(told["stream"]), data)

    def poll(self) -> Optional[int]:
        if self._code is None:
            self._code = self._caller.call("process.poll", self._key)[0].get("exit_code")
        return self._code

    def wait(self, timeout: Optional[float] = None) -> int:
        self._code = int(self._caller.call("process.wait", self._key, timeout=timeout)[0]["exit_code"])
        return self._code

    def communicate(self, data: Optional[bytes] = None, timeout: Optional[float] = None) -> ExecResult:
        told, out = self._caller.call(
            "process.communicate", self._key, data or b"", timeout=timeout, given=data is not None
        )
        self._code = int(told["exit_code"])
        return _result(told, out)

    def kill(self) -> bool:
        return bool(self._caller.call("process.kill", self._key)[0].get("killed"))

    def close(self) -> None:
        self._caller.call("process.close", self._key)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _result(told: Dict[str, Any], out: bytes) -> ExecResult:
    split = int(told["split"])
    return ExecResult(int(told["exit_code"]), out[:split], out[split:])


class Container:
    def __init__(self, caller: Caller, told: Mapping[str, Any]) -> None:
        self.id = str(told["id"])
        self.name = str(told["name"])
        self.image = Image(**told["image"])
        self.stage: Optional[str] = told["stage"]
        self._caller = caller
        self._key = str(told["key"])

    def __repr__(self) -> str:
        return "<Container %s of %s>" % (self.name, self.stage or self.image.reference)

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
            args=_words(args),
            env=dict(env),
            user=user,
            workdir=None if workdir is None else str(workdir),
            timeout=timeout,
            check=check,
            given=input is not None,
        )
        return _result(told, out)

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
            args=_words(args),
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
            with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as archive:
                archive.add(str(source), "copy", filter=_plain)
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
                _unpack(spool, place)
            except OSError as error:
                raise errors.UsageError("copy_out: %s cannot be written: %s" % (place, error)) from error
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
        told, _ = self._call("restore", checkpoint=checkpoint._asdict())
        return Container(self._caller, told)

    def changes(self) -> Any:
        told, _ = self._call("changes")
        return [Change(PurePosixPath(path), kind) for path, kind in told["changes"]]

    def diff(self, other: "Container") -> Any:
        raise errors.NotYetError(
            "diff: comparing %s with %s inside a stage is not yet part of this version"
            % (self.name, other.name)
        )

    def manifest(self) -> Any:
        raise errors.NotYetError(
            "manifest: that of %s inside a stage is not yet part of this version" % self.name
        )

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _call(
        self, verb: str, data: Union[bytes, Iterable[bytes]] = b"", **fields: Any
    ) -> Tuple[Dict[str, Any], bytes]:
        __tracebackhide__ = True
        return self._caller.call(verb, self._key, data, **fields)


class ContainerFactory:
    def __init__(self, caller: Caller, give_up: Callable[[Exception], Any]) -> None:
        self._caller = caller
        self._give_up = give_up
        self.started: List[Container] = []

    def start(
        self,
        stage: Optional[str] = None,
        *,
        image: Optional[str] = None,
        command: Union[Sequence[str], str, None] = None,
        env: Optional[Mapping[str, str]] = None,
        ports: Sequence[Union[int, str]] = (),
    ) -> Container:
        return self.start_many(1, stage, image=image, command=command, env=env, ports=ports)[0]

    def start_many(
        self,
        count: int,
        stage: Optional[str] = None,
        *,
        image: Optional[str] = None,
        command: Union[Sequence[str], str, None] = None,
        env: Optional[Mapping[str, str]] = None,
        ports: Sequence[Union[int, str]] = (),
    ) -> List[Container]:
        fields: Dict[str, Any] = {
            "count": count,
            "stage": stage,
            "image": image,
            "command": command if command is None or isinstance(command, str) else list(command),
            "env": dict(env or {}),
            "ports": list(ports),
        }
        try:
            told, _ = self._caller.call("start", **fields)
        except errors.EnvparError as error:
            if getattr(error, "skip", False):
                self._give_up(error)
            raise
        made = [Container(self._caller, each) for each in told["containers"]]
        self.started += made
        return made

    def _take(self, stage: Optional[str], name: str, more: int) -> Container:
        """A container for the fixture ``name``, of which ``more`` tests are going to ask for one."""
        try:
            told, _ = self._caller.call("take", stage=stage, name=name, more=more)
        except errors.EnvparError as error:
            self._give_up(error)
            raise
        return Container(self._caller, told)

    def checkpoint(self, name: str) -> Optional[Checkpoint]:
        told, _ = self._caller.call("find_checkpoint", name=name)
        return Checkpoint(**told) if told else None

    def restore(self, checkpoint: Union[Checkpoint, str], like: Optional[Container] = None) -> Container:
        named = checkpoint if isinstance(checkpoint, str) else checkpoint._asdict()
        told, _ = self._caller.call(
            "restore_any", checkpoint=named, like=like._key if like is not None else ""
        )
        made = Container(self._caller, told)
        self.started.append(made)
        return made


def _words(args: Sequence[str]) -> List[str]:
    if isinstance(args, (str, bytes)) or not args:
        raise errors.UsageError(
            "exec takes a program and its arguments as a list, not %r" % (args,),
            hint="for a shell's line: ['sh', '-c', line]",
        )
    return [str(arg) for arg in args]


def _plain(member: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
    """Files, folders and links; nobody's name."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uname = member.gname = ""
    return member


def _unpack(spool: IO[bytes], place: Path) -> None:
    """Write what the host has taken apart and put together again: its names are safe."""
    folders: List[Tuple[Path, int]] = []
    with tarfile.open(fileobj=spool, mode="r|") as archive:
        for member in archive:
            below = [part for part in member.name.split("/") if part][1:]
            target = place.joinpath(*below)
            if member.isdir():
                target.mkdir(parents=not below, exist_ok=True)
                folders.append((target, member.mode))
                continue
            if target.is_symlink() or target.is_file():
                target.unlink()
            if member.issym():
                target.symlink_to(member.linkname)
            else:
                file = archive.extractfile(member)
                assert file is not None
                with target.open("wb") as out:
                    for piece in iter(lambda: file.read(PIECE), b""):  # noqa: B023 - read at once
                        out.write(piece)
                target.chmod(member.mode)
    for folder, mode in reversed(folders):
        folder.chmod(mode)
