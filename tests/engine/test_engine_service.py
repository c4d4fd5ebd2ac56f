"""A Podman service of our own: it is found, it ends with us, and its sudden end is told."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig.needs import base_image, missing

from pytest_envpar.containers.labels import Owner
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.podman_service import PodmanService
from pytest_envpar.engine.select import select_engine
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.engine


@pytest.fixture
def service(engine_environ: Mapping[str, str]) -> Iterator[PodmanService]:
    try:
        made = PodmanService.start(engine_environ)
    except EngineError as error:
        missing(f"no podman: {error}")
    with contextlib.closing(made):
        yield made


@pytest.fixture
def waiting_container(engine_environ: Mapping[str, str]) -> Iterator[str]:
    """A container that says ``up`` and waits, kept by a service that lives on."""
    survivor = select_engine(["podman"], engine_environ)
    with contextlib.closing(survivor):
        spec = ContainerSpec(
            image=base_image(survivor),
            command=("python3", "-c", "import time; print('up', flush=True); time.sleep(600)"),
            labels=Owner.current(Path(__file__).parent).labels("run"),
            network="none",
            stdin=True,
        )
        container = survivor.create_container(spec)
        try:
            yield container
        finally:
            survivor.remove_container(container)


def test_an_engine_that_goes_away_in_the_middle(service: PodmanService, waiting_container: str) -> None:
    engine = DockerEngine(service.url, ours=True)
    with contextlib.closing(engine), contextlib.closing(engine.attach(waiting_container)) as stream:
        engine.start(waiting_container)
        assert stream.read(60) == (1, b"up\n")
        failed: list[EngineError] = []

        def wait() -> None:
            try:
                engine.wait(waiting_container)
            except EngineError as error:
                failed.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        os.killpg(service.pid, signal.SIGKILL)
        assert stream.read(60) == (0, b"")
        waiter.join(60)
        assert [type(error) for error in failed] == [ConnectionLostError]
        with pytest.raises(ConnectionLostError, match="standard input"):
            stream.write(b"x" * (64 << 20))
        for verb in (engine.inspect_container, engine.wait, engine.remove_container):
            with pytest.raises(ConnectionLostError, match=r"refuses connections|no such file"):
                verb(waiting_container)


def test_its_engine_is_known_without_asking(service: PodmanService) -> None:
    told = DockerEngine(service.url)
    known = DockerEngine(service.url, ours=True)
    with contextlib.closing(told), contextlib.closing(known):
        assert known.info.kind == "podman"
        for name in (
            "kind",
            "version",
            "api_version",
            "local",
            "rootless",
            "cgroup_version",
            "os",
            "architecture",
        ):
            assert getattr(known.info, name) == getattr(told.info, name), name


def test_closing_ends_it_and_leaves_no_file(service: PodmanService) -> None:
    path = Path(service.url.removeprefix("unix://"))
    assert path.exists()
    service.close()
    service.close()
    assert not path.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(service.pid, 0)


def test_it_dies_with_a_process_that_is_killed(engine_environ: Mapping[str, str]) -> None:
    program = (
        "import os, sys\n"
        "from pytest_envpar.engine.podman_service import PodmanService\n"
        "made = PodmanService.start(os.environ)\n"
        "print(made.url, made.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**engine_environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().decode().split()
        watch = os.pidfd_open(int(pid))
        try:
            process.kill()
            process.wait(60)
            # A pidfd is readable once its process has ended.
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            assert poll.poll(60_000), "the service outlived us"
        finally:
            os.close(watch)
    assert not Path(url.removeprefix("unix://")).parent.exists()


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\necho the-cause http://user:secret@host/ >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(EngineError, match="ended with 3") as caught:
        PodmanService.start({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert caught.value.detail == ("the-cause http://host/",)


def test_a_service_that_never_listens(tmp_path: Path) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    with pytest.raises(EngineError, match="does not listen after"):
        PodmanService.start({"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout_s=0.3)


def test_no_podman(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not installed"):
        PodmanService.start({"PATH": str(tmp_path)})
