"""How containers that outlive their run are entered and removed: the engine's own commands, ready to be pasted."""

from __future__ import annotations

import os
import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.containers import warm
from pytest_envpar.containers.labels import RUN, WARM
from pytest_envpar.containers.lifecycle import run_name
from pytest_envpar.engine.select import docker_command_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.containers.lifecycle import RunningContainer
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.engine import EngineInfo

_SHELLS = (PurePosixPath("/bin/bash"), PurePosixPath("/bin/sh"))


def lines(
    running: RunningContainer,
    environ: Mapping[str, str],
    *,
    workdir: PurePosixPath | None = None,
    python: PurePosixPath | None = None,
) -> list[str]:
    """Commands that start it if it has ended, enter it, and remove it with its volumes.

    Args:
        running: The container, kept already.
        environ: The user's environment, in which the commands will be given.
        workdir: Where one lands (container path); by default where its main process began.
        python: What is run where there is no shell (container path).

    Raises:
        EngineError: It is not there any more, or the engine failed.
    """
    engine = running.engine
    info = running.inspect()
    words = [*tool(engine.info, environ), "exec", "-it"]
    if workdir is not None:
        words += ["--workdir", str(workdir)]
    told = [] if info.running else [f"start:  {_command(engine, environ, ['start', running.name])}"]
    told.append(f"enter:  {shlex.join([*words, running.name, _shell(running, python)])}")
    if WARM in info.labels:
        volumes = [
            each for each in warm.volumes(info.labels[WARM]) if engine.inspect_volume(each) is not None
        ]
    else:
        volumes = _volumes(engine, info.labels.get(RUN, ""), run_name(running.name))
    return [*told, f"remove: {removal(engine, environ, [running.name], volumes)}"]


def removal(
    engine: Engine,
    environ: Mapping[str, str],
    containers: Sequence[str],
    volumes: Sequence[str] = (),
    networks: Sequence[str] = (),
) -> str:
    """The command that removes these, by name."""
    steps = [["rm", "--force", "--volumes", *containers]]
    steps += [["volume", "rm", *volumes]] if volumes else []
    steps += [["network", "rm", *networks]] if networks else []
    return " && ".join(_command(engine, environ, step) for step in steps)


def tool(info: EngineInfo, environ: Mapping[str, str]) -> list[str]:
    """The command line program of an engine, pointed at it where it would not go there by itself."""
    if info.kind == "podman":
        if info.local and info.rootless == (os.geteuid() != 0):
            return ["podman"]
        return ["podman", "--url", info.url]
    return ["docker"] if info.url == docker_command_url(environ) else ["docker", "--host", info.url]


def _command(engine: Engine, environ: Mapping[str, str], words: Sequence[str]) -> str:
    return shlex.join([*tool(engine.info, environ), *words])


def _shell(running: RunningContainer, python: PurePosixPath | None) -> str:
    for shell in _SHELLS:
        if running.engine.stat_path(running.id, shell) is not None:
            return shell.name
    return "sh" if python is None else str(python)


def _volumes(engine: Engine, run: str, name: str) -> list[str]:
    """Of its project, in an order in which they can be removed: an overlay before what it is mounted over."""
    found = [
        each.name for each in engine.list_volumes({RUN: run}) if each.name.rpartition("-")[0] == name and run
    ]
    return sorted(found, key=lambda volume: (not volume.endswith("-source"), volume))
