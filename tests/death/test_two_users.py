"""Two users of one machine with one engine: neither sees, waits for or removes what is the other's."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig.hosts import SOURCE
from rig.needs import base_image, missing

from pytest_envpar.containers.labels import KIND, USER
from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import Candidate, connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.api import Engine

    from .daemons import Daemon

UIDS = (65101, 65102)
HELD = """
    import os, time
    def test_held():
        os.write(1, b"now held\\n")
        time.sleep(1000)
"""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can be two other users"),
]


@pytest.fixture(autouse=True)
def setpriv() -> None:
    """The program by which root becomes another user."""
    if shutil.which("setpriv") is None:
        missing("no setpriv (util-linux)")


class User:
    """Somebody with a project and a cache of their own, who may use the engine."""

    def __init__(self, uid: int, folder: Path, engine: Engine, environ: Mapping[str, str]) -> None:
        self.uid = uid
        self.root = folder / "project"
        self._engine = engine
        self._group = Path(engine.info.url.removeprefix("unix://")).stat().st_gid
        self._environ = {**environ, "HOME": str(folder)}
        if uid != os.getuid():
            self._environ["XDG_CACHE_HOME"] = str(folder / "cache")
        if not any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11")):
            self._environ |= {"PYTHONPATH": str(SOURCE), "PYTEST_PLUGINS": "pytest_envpar.plugin"}
        self.root.mkdir(parents=True)
        stage = f'[stages.qa]\nimage = "{base_image(engine)}"\nnetwork = "none"\n'
        self.write("envpar.toml", f'engine = "{engine.info.url}"\n{stage}')
        for path in (folder, self.root):
            os.chown(path, uid, uid)

    def write(self, name: str, text: str) -> None:
        """Write a file of the project; the text is dedented."""
        (self.root / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def start(self) -> subprocess.Popen[str]:
        """Begin a run of stage qa."""
        # The capability is to read what only root may, since the interpreter may be root's.
        command = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={self._group}"]
        command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        return subprocess.Popen(
            [*command, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "--env=qa"],
            cwd=self.root,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> None:
        """Run stage qa, where all has to pass."""
        process = self.start()
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out

    @contextlib.contextmanager
    def held(self) -> Iterator[subprocess.Popen[str]]:
        """A run that has a container and goes on."""
        self.write("test_it.py", HELD)
        process = self.start()
        assert process.stdout is not None
        try:
            seen = []
            for line in process.stdout:
                seen.append(line)
                if "now held" in line:
                    break
            assert process.poll() is None, "".join(seen)
            yield process
        finally:
            process.kill()
            process.communicate()

    def has(self) -> set[str]:
        """The names of what belongs to runs of this user's project; caches do not."""
        return {
            each.name
            for each in list_ours(self._engine)
            if each.state != "cache" and each.project == str(self.root)
        }

    def caches(self) -> set[str]:
        """The names of volumes that this user's runs may use again."""
        return {each.name for each in self._engine.list_volumes({USER: str(self.uid), KIND: "cache"})}


@contextlib.contextmanager
def users(engine: Engine, environ: Mapping[str, str], *uids: int) -> Iterator[list[User]]:
    """Users with projects that are not below pytest's own folder, which only its user may enter."""
    base = Path(tempfile.mkdtemp(prefix="envpar-users-"))
    base.chmod(0o755)
    try:
        yield [User(uid, base / str(uid), engine, environ) for uid in uids]
    finally:
        shutil.rmtree(base)
        for uid in set(uids) - {os.getuid()}:
            for container in engine.list_containers({USER: str(uid), KIND: ""}):
                engine.remove_container(container.id)
            # An overlay volume goes before the two that it is mounted over.
            volumes = engine.list_volumes({USER: str(uid), KIND: ""})
            for volume in sorted(volumes, key=lambda each: not each.name.endswith("-source")):
                engine.remove_volume(volume.name)


def test_a_run_beside_another_users(docker: Engine, environ: Mapping[str, str]) -> None:
    with users(docker, environ, os.getuid(), UIDS[0]) as (one, other):
        with one.held() as process:
            before = one.has()
            assert before
            other.write(
                "test_it.py",
                f"""
                import pathlib
                def test_a():
                    assert not pathlib.Path({str(one.root)!r}).exists()
                """,
            )
            other.run()
            assert one.has() == before
            assert other.has() == set()
            assert process.poll() is None
            process.terminate()
            process.communicate(timeout=60)
        assert one.has() == set()
        assert one.caches()
        assert other.caches()
        assert one.caches().isdisjoint(other.caches())


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_its_users_to_sweep(daemon: Daemon, environ: Mapping[str, str]) -> None:
    """On an engine that nobody else sweeps."""
    with (
        contextlib.closing(connect(Candidate("docker", daemon.url), environ)) as engine,
        users(engine, environ, *UIDS) as (one, other),
    ):
        with one.held():
            pass
        left = one.has()
        assert left
        for user in (one, other):
            user.write("test_it.py", "def test_a(): pass\n")
        other.run()
        assert one.has() == left
        one.run()
        deadline = time.monotonic() + 60
        while one.has() and time.monotonic() < deadline:
            time.sleep(0.1)  # the end of a run does not wait long for what it sweeps
        assert one.has() == set()
