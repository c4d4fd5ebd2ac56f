"""What the container's cgroup says about memory.

Version 1: ``memory.limit_in_bytes``, ``memory.max_usage_in_bytes``, ``memory.oom_control``
(https://docs.kernel.org/admin-guide/cgroup-v1/memory.html). Version 2: ``memory.max``, ``memory.peak`` (Linux 5.19),
``memory.events`` (https://docs.kernel.org/admin-guide/cgroup-v2.html). The engine's own ``OOMKilled`` only speaks of a
container's first process.
"""

from typing import Dict, Optional, Union

_V1 = "/sys/fs/cgroup/memory/"
_V2 = "/sys/fs/cgroup/"
_NO_LIMIT = 1 << 60


class MemoryWatch:
    """Counts OOM kills from the moment it was made."""

    def __init__(self) -> None:
        self._before = _kills()

    def facts(self) -> Dict[str, Union[bool, int, None]]:
        """``oom``: a process was killed since; ``limit`` and ``peak`` in bytes, None if there is none or not told."""
        limit = _number(_V1 + "memory.limit_in_bytes") or _number(_V2 + "memory.max")
        peak = _number(_V1 + "memory.max_usage_in_bytes") or _number(_V2 + "memory.peak")
        return {
            "oom": _kills() > self._before,
            "limit": None if limit is None or limit >= _NO_LIMIT else limit,
            "peak": peak,
        }


def _kills() -> int:
    for path in (_V1 + "memory.oom_control", _V2 + "memory.events"):
        for line in kernel_text(path).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0


def _number(path: str) -> Optional[int]:
    number = kernel_text(path).strip()
    return int(number) if number.isdigit() else None


def kernel_text(path: str) -> str:
    """What a file of the kernel says; empty where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""
