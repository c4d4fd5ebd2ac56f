"""Two real daemons: the one of this machine, reached over ssh, and one in a network of its own, over TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER
from rig.hosts import SOURCE, clean_environ
from rig.needs import images
from rig.ports import free_port

from .daemons import PATH, SecondDocker, answers, program, wait_until
from .projects import IMAGES, Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondDocker]:
    """The second daemon, over TLS."""
    program("dockerd")
    made = SecondDocker(tmp_path_factory.mktemp("second"))
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def ssh_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of this machine's own daemon over ssh, and a folder for ``PATH`` whose ``ssh`` knows the key."""
    sshd, ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
            check=True,
            capture_output=True,
        )
    port = free_port()
    (folder / "keys").write_bytes((folder / "user.pub").read_bytes())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\nUsePAM no\n"
        f"SetEnv XDG_CACHE_HOME={folder}/cache PYTHONPATH={SOURCE}\n"
    )
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(("127.0.0.1", port)), process, log)
        yield f"ssh://root@127.0.0.1:{port}{DOCKER.removeprefix('unix://')}", wrapper.parent
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def pool_environ(
    tmp_path_factory: pytest.TempPathFactory, second: SecondDocker, ssh_url: tuple[str, Path]
) -> Mapping[str, str]:
    """The environment of hosts that reach both: the certificates and the key."""
    return {
        **clean_environ(tmp_path_factory.mktemp("cache")),
        "PATH": f"{ssh_url[1]}:{PATH}",
        "DOCKER_CERT_PATH": str(second.certs.parent),
    }


@pytest.fixture(scope="session")
def near(docker: Engine) -> Engine:
    """The daemon of this machine, with the test images."""
    images(docker, IMAGES.values())
    return docker


@pytest.fixture
def project(
    tmp_path: Path,
    near: Engine,
    second: SecondDocker,
    ssh_url: tuple[str, Path],
    pool_environ: Mapping[str, str],
) -> Project:
    """A project with one stage on both daemons."""
    second.start()
    made = Project(tmp_path / "project", near, second, [ssh_url[0], second.url], pool_environ)
    made.configure(*made.urls)
    return made
