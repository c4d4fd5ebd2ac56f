"""Scanners where they can run: in a container itself or beside it; of an image in a container of it, or in another one
that has it mounted."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.drift import remote
from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import ConnectionLostError, EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_envpar.drift.remote import Scanner
    from pytest_envpar.drift.sides import Side
    from pytest_envpar.engine.api import Engine

_FIND_PYTHON = (
    'for p in "$@"; do shift; case $p in --) break;; esac; '
    'if command -v "$p" >/dev/null 2>&1; then found=$p; while [ "$1" != -- ]; do shift; done; shift; '
    'exec "$found" "$@"; fi; done; exit 127'
)


class NoWayError(EnvparError):
    """This way is not open for this side; the message says why."""

    code = "no-way"


class Scanners:
    """Starts scanners, and removes what was made for them.

    Args:
        labels: For containers that are made.
        resources: Closed by whoever owns it when the comparison is done.
        images: Images of the same engine in which there may be a Python, for sides that have none they may use.
    """

    def __init__(
        self, labels: Mapping[str, str], resources: contextlib.ExitStack, images: Sequence[str] = ()
    ) -> None:
        self._labels = labels
        self._resources = resources
        self._images = images
        self._created: dict[str, Engine] = {}
        self._made_for: dict[Scanner, str] = {}
        self._pool = ThreadPoolExecutor(4)
        resources.callback(self._remove)

    def of(self, side: Side) -> Scanner:
        """A scanner inside a container: the side itself, one beside it, or one of its image that is made for it.

        Raises:
            NoWayError: None can run there.
        """
        if side.engine is None:
            raise NoWayError(f"{side.name}: there is no engine that has it")
        if side.container is None:
            return self._of_image(side)
        if not side.container.running:
            raise NoWayError(f"{side.name}: it does not run, so that nothing can be started in it")
        if side.container.cap_drop:
            reasons = [f"{side.name}: its root has not all rights (cap-drop), and might not read all"]
        else:
            try:
                return self._inside(side)
            except NoWayError as error:
                reasons = [error.message]
        if not side.container.own_processes:
            raise NoWayError(
                f"{reasons[0]}; its processes are not only its own, so that it is not seen from beside"
            )
        return self._lent(side, (side.image_id, *self._images), reasons, beside=side.container.id)

    def _of_image(self, side: Side) -> Scanner:
        """A scanner in a container of an image, or in one of another image that has it mounted."""
        assert side.engine is not None
        lenders = self._images
        if side.config is not None and side.config.volumes:
            reasons = [f"{side.name}: it declares volumes, which would hide what it has there"]
            lenders = (side.image_id, *lenders)  # where it is mounted they hide nothing
        else:
            try:
                return self._started(side, side.image_id)
            except NoWayError as error:
                reasons = [error.message]
            lenders = tuple(image for image in lenders if image != side.image_id)
        if not side.engine.info.image_mounts:
            raise NoWayError(reasons[0])
        return self._lent(side, lenders, reasons)

    def _lent(
        self, side: Side, lenders: Sequence[str], reasons: Sequence[str], *, beside: str = ""
    ) -> Scanner:
        """A scanner in a container of one of the images, that joins a side's processes or has its image mounted."""
        told = list(reasons)
        for image in dict.fromkeys(lenders):
            try:
                return self._started(side, image, beside=beside, mounted=not beside)
            except NoWayError as error:
                told.append(error.message)
        raise NoWayError("; ".join(dict.fromkeys(told)))

    def _inside(self, side: Side) -> Scanner:
        """A scanner in a container that runs."""
        engine, container = side.engine, side.container
        assert engine is not None
        assert container is not None
        with _no_way(side):
            stream = engine.exec_stream(
                container.id, find_python(remote.arguments()), user="0:0", workdir=PurePosixPath("/")
            )
            self._resources.callback(stream.close)
            made = remote.Scanner(stream, f"container {side.name}", born_s=container.created_at)
            made.ready()
        return made

    def _started(self, side: Side, image: str, *, beside: str = "", mounted: bool = False) -> Scanner:
        """A scanner in a container of its own.

        Args:
            beside: The container whose files it reads, by way of its first process, instead of its own.
            mounted: Whether it reads the side's image, mounted, instead of its own.
        """
        engine = side.engine
        assert engine is not None
        with _no_way(side):
            arguments = remote.arguments(remote.OTHER if beside else "", remote.MOUNTED if mounted else "")
            container = self.create(side, find_python(arguments), image=image, beside=beside, mounted=mounted)
            stream = engine.attach(container)
            self._resources.callback(stream.close)
            engine.start(container)
            born_s = side.container.created_at if side.container is not None else None
            what = f"beside {side.name}" if beside else f"image {side.name}"
            made = remote.Scanner(stream, what, born_s=born_s)
            made.ready()
            self._made_for[made] = container
        return made

    def done(self, scanner: Scanner) -> None:
        """It is not asked any more: a container that was made for it goes while the comparison goes on."""
        container = self._made_for.pop(scanner, "")
        if container:
            self._pool.submit(_remove, self._created.pop(container), container)

    def create(
        self,
        side: Side,
        line: tuple[str, ...],
        *,
        image: str = "",
        beside: str = "",
        mounted: bool = False,
    ) -> str:
        """Create a container that is no more than a place to look from: no network, no rights but to read."""
        engine = side.engine
        assert engine is not None
        spec = ContainerSpec(
            image=image or side.image_id,
            entrypoint=line[:1],
            command=line[1:],
            labels=self._labels,
            user="0:0",
            network="none",
            workdir=PurePosixPath("/"),
            stdin=True,
            log="none",
            cap_drop=("ALL",),
            # Another's root is reached by way of its process, which takes the right to trace it.
            cap_add=("DAC_READ_SEARCH", "SYS_PTRACE") if beside else ("DAC_READ_SEARCH",),
            processes_of=beside,
            mounts=(Mount("image", side.image_id, PurePosixPath(remote.MOUNTED), read_only=True),)
            if mounted
            else (),
        )
        container = engine.create_container(spec)
        self._created[container] = engine
        return container

    def _remove(self) -> None:
        """What was made for this comparison, beside each other: an engine takes its time for each."""
        with self._pool:
            for container, engine in self._created.items():
                self._pool.submit(_remove, engine, container)


def find_python(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """A command line that starts the first Python that a container has; it ends with 127 if there is none."""
    return ("/bin/sh", "-c", _FIND_PYTHON, "sh", *remote.PYTHONS, "--", *arguments)


@contextlib.contextmanager
def _no_way(side: Side) -> Iterator[None]:
    """What fails here leaves other ways open, unless the engine is gone."""
    try:
        yield
    except ConnectionLostError:
        raise
    except (EngineError, remote.NoScannerError) as error:
        raise NoWayError(f"{side.name}: no Python could be started there ({error.message})") from error


def _remove(engine: Engine, container: str) -> None:
    with contextlib.suppress(EngineError):
        engine.remove_container(container)
