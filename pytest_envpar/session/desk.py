"""Where tests inside a stage ask for containers: a closed list of verbs, and only for what was given out here.

What comes in is not trusted. A call names its container by a key that was made here, never by an engine's name, so that
nothing of other runs can be reached; stages come from the configuration, and no call can mount anything of the host.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import itertools
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any

from pytest_envpar import userfiles
from pytest_envpar.containers import checkpoint as checkpoints
from pytest_envpar.errors import CommandError, ConfigError, EnvparError, NotFoundError, UsageError
from pytest_envpar.session import desk_comparisons
from pytest_envpar.session.desk_fields import Fields
from pytest_envpar.session.desk_files import FILES, MOST_HELD
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.ahead import Turn
from pytest_envpar.worker.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Settings
    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.handle import Container
    from pytest_envpar.containers.handle_process import Process
    from pytest_envpar.containers.recipe import Recipe
    from pytest_envpar.containers.services import Services
    from pytest_envpar.images.locking import Mode
    from pytest_envpar.session.desk_files import Answer
    from pytest_envpar.worker.client import Client
    from pytest_envpar.worker.start import Ground

PIECE = 256 * 1024
MOST_BYTES = 1 << 30
"""What one call may bring in, and what it may copy out by way of the disk."""
MOST_CALLS = 64
_IN_MEMORY = 1 << 20
_PLAIN = (FileNotFoundError, IsADirectoryError, TimeoutError)


@dataclasses.dataclass
class _Incoming:
    """A call whose pieces are still coming."""

    spool: IO[bytes] = dataclasses.field(default_factory=lambda: tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - closed by whoever serves the call
    size: int = 0


class Desk:
    """Answers the calls of one worker's tests, each in a thread. Closing it removes all that it gave out.

    Args:
        settings: The project's configuration.
        stage: The stage of the run, which is the active one.
        ground: What the run's own containers have in common.
        cache_dir: Our cache folder (host).
        environ: The host's environment.
        mode: How strictly the lock file binds.
        services: Those of the run, which containers of its stage share.
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        ground: Ground,
        cache_dir: Path,
        environ: Mapping[str, str],
        mode: Mode,
        services: Services | None = None,
    ) -> None:
        self._settings = settings
        self._stage = stage
        self._supply = Supply(
            settings,
            ground.owner,
            ground.engine,
            cache_dir,
            environ,
            mode,
            remember=userfiles.remember_checkpoint(settings.root, environ),
            services=None if services is None else {stage: services},
        )
        self._containers: dict[str, Container] = {}
        self._removed: dict[str, str] = {}
        self._processes: dict[str, Process] = {}
        self._keys = itertools.count(1)
        self._incoming: dict[int, _Incoming] = {}
        self._lock = threading.Lock()
        self._work = concurrent.futures.ThreadPoolExecutor(MOST_CALLS, "envpar-desk")
        self._closed = False

    def take(self, call: wire.Call, client: Client) -> None:
        """One message of a call; the answer is sent when it is there. Never waits."""
        incoming = self._incoming.get(call.number)
        if incoming is None:
            incoming = self._incoming[call.number] = _Incoming()
        try:
            piece = base64.b64decode(call.data, validate=True)
        except ValueError:
            piece = b""
        incoming.size += len(piece)
        if incoming.size <= MOST_BYTES:
            incoming.spool.write(piece)
        if call.more:
            return
        del self._incoming[call.number]
        if not self._closed:
            self._work.submit(self._serve, call, incoming, client)

    def close(self) -> None:
        """Remove everything; calls that are under way fail. Safe to repeat."""
        self._closed = True
        self._supply.close()
        self._work.shutdown(wait=False, cancel_futures=True)
        for incoming in self._incoming.values():
            incoming.spool.close()
        self._incoming.clear()

    def _serve(self, call: wire.Call, incoming: _Incoming, client: Client) -> None:
        def send(error: dict[str, Any], fields: dict[str, Any], data: bytes, more: bool) -> None:
            client.send(wire.Answer(call.number, error, fields, base64.b64encode(data).decode("ascii"), more))

        with incoming.spool:
            try:
                if incoming.size > MOST_BYTES:
                    raise UsageError(f"{call.verb}: more than {MOST_BYTES >> 20} MiB in one call")
                incoming.spool.seek(0)
                fields, pieces = self._do(call.verb, call.target, Fields(call.fields), incoming.spool)
                for piece in _cut(pieces):
                    send({}, {}, piece, True)
                send({}, fields, b"", False)
            except CommandError as error:
                for piece in _cut([error.stdout, error.stderr]):
                    send({}, {}, piece, True)
                more = {"exit_code": error.exit_code, "split": len(error.stdout)}
                send({**_told(error), **more}, {}, b"", False)
            except EnvparError as error:
                send(_told(error), {}, b"", False)
            except _PLAIN as error:
                kind = next(kind.__name__ for kind in _PLAIN if isinstance(error, kind))
                send({"kind": kind, "message": str(error)}, {}, b"", False)
            except Exception as error:  # noqa: BLE001 - the test waits: it hears of a bug of ours, too
                send({"kind": "EnvparError", "message": f"{type(error).__name__}: {error}"}, {}, b"", False)

    def _do(self, verb: str, target: str, given: Fields, data: IO[bytes]) -> Answer:
        match verb:
            case "start":
                return self._start(given)
            case "take":
                name, more = given.text("name"), int(given.number("more"))
                recipe = self._stage_recipe(given.maybe_text("stage"))
                return self._give(self._supply.take(name, lambda: recipe, more=more)), ()
            case "find_checkpoint":
                found = checkpoints.find(self._supply.engine, self._supply.project, given.text("name"))
                return ({} if found is None else dataclasses.asdict(found)), ()
            case "restore_any":
                return self._restore_any(given)
            case _:
                return self._do_with(verb, target, given, data)

    def _do_with(self, verb: str, target: str, given: Fields, data: IO[bytes]) -> Answer:
        if verb.startswith("process."):
            process = self._processes.get(target)
            if process is None and verb == "process.close" and target.partition(".")[0] in self._removed:
                return {}, ()
            if process is None:
                self._known(target.partition(".")[0])
                raise UsageError("this process is not one that this run has started")
            return self._process(verb.removeprefix("process."), process, given, data)
        if verb in ("remove", "drop") and target in self._removed:
            return {}, ()
        container = self._known(target)
        files = FILES.get(verb)
        if files is not None:
            return files(container, given, data)
        return self._container(verb, target, container, given, data)

    def _known(self, key: str) -> Container:
        container = self._containers.get(key)
        if container is not None:
            return container
        name = self._removed.get(key)
        if name is not None:
            raise NotFoundError(f"{name} was removed")
        raise UsageError("this container is not one that this run has started")

    def _forget(self, key: str, name: str) -> None:
        """Let go of a container that is being removed, and of what was started in it."""
        self._removed[key] = name
        self._containers.pop(key, None)
        for each in [each for each in self._processes if each.startswith(f"{key}.")]:
            del self._processes[each]

    def _start(self, given: Fields) -> Answer:
        stage, image = given.maybe_text("stage"), given.maybe_text("image")
        if stage is not None and image is not None:
            raise UsageError("name a stage or an image, not both")
        count = int(given.number("count"))
        if count < 1:
            raise UsageError(f"{count} containers cannot be started")
        supply = self._supply
        recipe = self._stage_recipe(stage) if image is None else supply.image(image)
        command: Any = given.raw("command")
        if command is not None and command != "image" and not isinstance(command, list):
            raise UsageError(f"command is a list of words, or 'image', not {command!r}")
        varied = supply.varied(
            recipe,
            command=command if command in (None, "image") else [str(word) for word in command],
            env=given.texts("env"),
            ports=[each for each in given.items("ports") if isinstance(each, (int, str))],
        )
        made = supply.start_likely(varied, count, self._turn(given))
        return {"containers": [self._give(container) for container in made]}, ()

    def _stage_recipe(self, stage: str | None) -> Recipe:
        name = stage or self._stage
        if name not in self._settings.stages:
            error = ConfigError(
                f"stage {name!r} is not configured",
                hint=f"add a table [tool.envpar.stages.{name}] with an image; see `envpar init`",
            )
            error.__dict__["skip"] = True
            raise error
        return self._supply.stage(name)

    def _give(self, container: Container) -> dict[str, Any]:
        key = f"c{next(self._keys)}"
        container.most_held, container.most_copied = MOST_HELD, MOST_BYTES
        self._containers[key] = container
        image = container.image
        return {
            "key": key,
            "id": container.id,
            "name": container.name,
            "stage": container.stage,
            "image": {
                "reference": image.reference,
                "digest": image.digest,
                "image_id": image.image_id,
                "layers": list(image.layers),
                "platform": image.platform,
                "short": image.short(),
            },
        }

    def _checkpoint(self, told: Any) -> Checkpoint:
        """A checkpoint of this project, whatever else a call says of it: by its name, or by its image as well."""
        name = str(told.get("name") if isinstance(told, dict) else told)
        image_id = str(told.get("image_id")) if isinstance(told, dict) else None
        found = checkpoints.find(self._supply.engine, self._supply.project, name, image_id)
        if found is None:
            raise UsageError(f"there is no checkpoint {name!r}", hint="take one: container.checkpoint(name)")
        return found

    def _restore_any(self, given: Fields) -> Answer:
        like = self._containers.get(given.text("like"))
        found = self._checkpoint(given.raw("checkpoint"))
        return self._give(self._supply.restore(found, like, self._turn(given))), ()

    def _turn(self, given: Fields) -> Turn:
        return Turn(int(given.maybe_number("asker") or 0), int(given.maybe_number("more") or 0))

    def _container(self, verb: str, key: str, container: Container, given: Fields, data: IO[bytes]) -> Answer:
        match verb:
            case "exec":
                result = container.exec(
                    given.words("args"),
                    input=data.read() if given.raw("given") else None,
                    env=given.texts("env"),
                    user=given.maybe_text("user"),
                    workdir=given.maybe_text("workdir"),
                    timeout=given.maybe_number("timeout"),
                    check=bool(given.raw("check")),
                )
                told = {"exit_code": result.exit_code, "split": len(result.stdout)}
                return told, (result.stdout, result.stderr)
            case "popen":
                process = container.popen(
                    given.words("args"),
                    env=given.texts("env"),
                    user=given.maybe_text("user"),
                    workdir=given.maybe_text("workdir"),
                )
                name = f"{key}.p{next(self._keys)}"
                self._processes[name] = process
                return {"key": name}, ()
            case "logs":
                tail = given.maybe_number("tail")
                text = container.logs(
                    since=given.maybe_number("since"), tail=None if tail is None else int(tail)
                )
                return {}, (text.encode(),)
            case "port":
                address = container.port(int(given.number("port")), given.text("protocol"))
                return address._asdict(), ()
            case "ip":
                return {"ip": str(container.ip(given.maybe_text("network")))}, ()
            case "wait_ready":
                container.wait_ready(given.maybe_number("timeout"))
            case "stats":
                return dataclasses.asdict(container.stats()), ()
            case "kill":
                container.kill(given.text("signal"))
            case "stop":
                container.stop(given.number("timeout"))
            case "restart":
                container.restart()
            case "pause":
                container.pause()
            case "unpause":
                container.unpause()
            case "remove" | "drop":
                self._forget(key, container.name)
                if verb == "remove":
                    container.remove()  # who asks for it may rely on it
                self._supply.drop(container)
            case "checkpoint":
                return dataclasses.asdict(container.checkpoint(given.text("name"))), ()
            case "restore":
                return self._give(
                    self._supply.restore(self._checkpoint(given.raw("checkpoint")), container)
                ), ()
            case "changes":
                return desk_comparisons.changes(container)
            case "diff":
                return desk_comparisons.diff(container, self._known(given.text("other")))
            case "manifest":
                return desk_comparisons.manifest(container)
            case _:
                raise UsageError(f"{verb!r} is nothing that a container can do")
        return {}, ()

    def _process(self, verb: str, process: Process, given: Fields, data: IO[bytes]) -> Answer:
        match verb:
            case "write":
                process.write(data.read())
            case "close_stdin":
                process.close_stdin()
            case "read":
                piece = process.read(given.maybe_number("timeout"))
                return ({"stream": None}, ()) if piece is None else ({"stream": piece[0]}, (piece[1],))
            case "poll":
                return {"exit_code": process.poll()}, ()
            case "wait":
                return {"exit_code": process.wait(given.maybe_number("timeout"))}, ()
            case "communicate":
                sent = data.read() if given.raw("given") else None
                result = process.communicate(sent, given.maybe_number("timeout"))
                told = {"exit_code": result.exit_code, "split": len(result.stdout)}
                return told, (result.stdout, result.stderr)
            case "kill":
                return {"killed": process.kill()}, ()
            case "close":
                process.close()
            case _:
                raise UsageError(f"{verb!r} is nothing that a process can do")
        return {}, ()


def _cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]


def _told(error: EnvparError) -> dict[str, Any]:
    # By the public class that both sides have.
    kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == "pytest_envpar.errors")
    told: dict[str, Any] = {
        "kind": kind,
        "message": error.message,
        "hint": error.hint,
        "detail": list(error.detail),
    }
    return {**told, "skip": True} if getattr(error, "skip", False) else told
