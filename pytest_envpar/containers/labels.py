"""Who owns an object on an engine, and whether that owner is dead.

Every object carries its owner as labels, so that the next run can remove what a killed run left behind
without ever touching a live one. "Dead" is only claimed where it can be known: on the same host and in the
same process-id namespace, by boot id, pid and the process's start time (pids are reused).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_envpar.images.tags import CACHE, KIND, LABEL_PREFIX, PROJECT, SERVICE, STAGE, USER, label_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BYTECODE",
    "CACHE",
    "KIND",
    "LABEL_PREFIX",
    "PROJECT",
    "RUN",
    "SERVICE",
    "STAGE",
    "USER",
    "WARM",
    "Kind",
    "Owner",
    "is_dead",
    "is_gone",
]

RUN = LABEL_PREFIX + "run"
WARM = LABEL_PREFIX + "warm"
"""Of a warm container and its volumes: what their names began with when they were made."""
BYTECODE = "pytest-envpar-bytecode-"
"""What the names of volumes begin with that are of no use once their owner's project is gone."""
_HOST = LABEL_PREFIX + "host"
_BOOT = LABEL_PREFIX + "boot"
_PID = LABEL_PREFIX + "pid"
_PID_START = LABEL_PREFIX + "pid-start"
_PID_NAMESPACE = LABEL_PREFIX + "pid-namespace"

Kind = Literal["run", "probe", "cache", "build", "source"]
"""What an object is for; everything but ``cache`` lives no longer than its run."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that owns an object.

    Args:
        run: Identifies the run; the workers of one run may share it.
        project: The project root as text.
        host: Name and machine of the host.
        boot: The boot id of the host's kernel.
        pid: The process, as numbered in ``pid_namespace``.
        pid_start: Its start in clock ticks since boot; 0 if unknown.
        pid_namespace: Tells containers of one host apart.
        uid: The user of the process.
    """

    run: str
    project: str
    host: str
    boot: str
    pid: int
    pid_start: int
    pid_namespace: str
    uid: int

    @classmethod
    def current(cls, project_root: Path, *, run: str | None = None) -> Owner:
        """This process as the owner of what a run in ``project_root`` makes."""
        pid = os.getpid()
        _, start = _process(pid)
        return cls(
            run=run or secrets.token_hex(6),
            project=label_text(str(project_root)),
            host=_host(),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            pid=pid,
            pid_start=start,
            pid_namespace=_pid_namespace(),
            uid=os.getuid(),
        )

    def labels(self, kind: Kind, stage: str | None = None) -> dict[str, str]:
        """The labels of an object of ``kind`` that this owner makes."""
        made = {
            KIND: kind,
            RUN: self.run,
            PROJECT: self.project,
            USER: str(self.uid),
            _HOST: self.host,
            _BOOT: self.boot,
            _PID: str(self.pid),
            _PID_START: str(self.pid_start),
            _PID_NAMESPACE: self.pid_namespace,
        }
        if stage is not None:
            made[STAGE] = stage
        return made

    @classmethod
    def parse(cls, labels: Mapping[str, str]) -> Owner | None:
        """The owner that ``labels`` name; ``None`` if they are not ours or not complete."""
        try:
            return cls(
                run=labels[RUN],
                project=labels[PROJECT],
                host=labels[_HOST],
                boot=labels[_BOOT],
                pid=int(labels[_PID]),
                pid_start=int(labels[_PID_START]),
                pid_namespace=labels[_PID_NAMESPACE],
                uid=int(labels[USER]),
            )
        except (KeyError, ValueError):
            return None


def is_gone(owner: Owner) -> bool:
    """Whether it is certain that the owner's project is not there any more.

    Other users' projects are taken to be there: they may lie where only their user can look.
    """
    if owner.uid != os.getuid():
        return False
    if owner.host != _host() or owner.pid_namespace != _pid_namespace() or "\\" in owner.project:
        return False  # another machine's paths, or one that was not written down as it is
    try:
        os.lstat(owner.project)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False  # not to be looked at: no permission, or a mount that does not answer
    return False


def is_dead(owner: Owner) -> bool:
    """Whether it is certain that the owner no longer runs.

    Owners on other hosts, and in other process-id namespaces of this one, are taken for alive: their pids
    mean nothing here.
    """
    if owner.host != _host():
        return False
    boot = _read("/proc/sys/kernel/random/boot_id")
    if owner.boot != boot:
        return bool(owner.boot and boot)
    if owner.pid_namespace != _pid_namespace():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        # Alive under another user; /proc may hide it (hidepid), so its start time decides only if readable.
        pass
    state, start = _process(owner.pid)
    if state in ("Z", "X"):
        # Killed and not yet reaped by its parent: it will never remove anything.
        return True
    return bool(start and owner.pid_start and start != owner.pid_start)


def _host() -> str:
    """Name and machine of this host. The name is part of it because clones share a machine id, and the
    machine id goes in as a hash because it is meant to stay on its machine."""
    machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id")
    digest = hashlib.sha256(b"pytest-envpar" + machine.encode()).hexdigest()[:12]
    return f"{label_text(socket.gethostname())}-{digest}"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int]:
    """State and start time of a process; ``("", 0)`` if unknown."""
    stat = _read(f"/proc/{pid}/stat")
    # The command's name stands in parentheses and may hold anything, also spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    try:
        return fields[0], int(fields[19])
    except (IndexError, ValueError):
        return "", 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
