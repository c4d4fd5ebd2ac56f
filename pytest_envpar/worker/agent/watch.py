"""What a container that waits for a run looks like from inside, except for the files of its image.

Those are compared from outside. What an engine does not show there is looked at here: processes, files in memory, what
is written over the project, messages and memory that processes share, and the files that engines write for a container.
The project itself is not looked at: what was looked up once the kernel may remember, and not see a change of the host.
"""

import os
from typing import Any, Dict, Iterable, List, Tuple

WRITTEN = "/.envpar/written"
_ENGINES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_SHARED = ("/proc/sysvipc/msg", "/proc/sysvipc/sem", "/proc/sysvipc/shm")
_IN_MEMORY = ("tmpfs", "mqueue", "ramfs")


class Watch:
    """Remembers how it was when it was made."""

    def __init__(self) -> None:
        self._before = _look()

    def changed(self, workers: Iterable[int]) -> List[str]:
        """What is different now, in words; ``workers`` are processes that belong here."""
        now = _look()
        before = dict(self._before)
        before["processes"] = sorted(set(before["processes"]).union(workers))
        return [name for name in sorted(set(now) | set(before)) if now.get(name) != before.get(name)]


def _look() -> Dict[str, Any]:
    found: Dict[str, Any] = {"processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit())}
    for path in _SHARED:
        found[path] = _read(path)
    for path in _ENGINES:
        found[path] = _status(path)
    for folder in (WRITTEN, *in_memory()):
        found[folder] = sorted(_walk(folder))
    return found


def in_memory() -> List[str]:
    """The folders whose files are in memory only."""
    lines = _read("/proc/self/mounts").decode("utf-8", "surrogateescape").splitlines()
    rows = [line.split(" ") for line in lines]
    paths = [_unescaped(row[1]) for row in rows if len(row) > 2 and row[2] in _IN_MEMORY]
    return [path for path in paths if not path.startswith(("/proc/", "/sys/"))]


def _unescaped(text: str) -> str:
    for sign in " \t\n\\":
        text = text.replace("\\%03o" % ord(sign), sign)
    return text


def _walk(folder: str) -> Iterable[Tuple[str, Any]]:
    device = _device(folder)
    for place, folders, files in os.walk(folder):
        # What is mounted below is looked at by itself, or is not in memory.
        folders[:] = [name for name in folders if _device(os.path.join(place, name)) == device]
        for name in folders + files:
            path = os.path.join(place, name)
            yield path, _status(path)


def _device(path: str) -> Any:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return None


def _status(path: str) -> Any:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
