"""Which limits of the container a failing test ran into, by name.

A limit shows in one of two ways: a counter of the kernel has moved while the test ran (cgroup versions 1 and 2:
https://docs.kernel.org/admin-guide/cgroup-v1/pids.html, https://docs.kernel.org/admin-guide/cgroup-v2.html), or the
test ended with an error number that stands for one. Counters are looked at per test only where there is a limit.
"""

import errno
import os
import resource
import signal
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .cgroup import MemoryWatch, kernel_text

_CGROUP = "/sys/fs/cgroup"
_PIDS = ("%s/pids/pids.%%s" % _CGROUP, "%s/pids.%%s" % _CGROUP)
_NEARLY = 0.8
"""The part of a limit of processor time that a process killed for it has used at least: the kernel counts in ticks
there, and tells exactly."""
_UNITS = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"))
_OURS = "/.envpar"


class Mount(NamedTuple):
    """A mount as ``/proc/self/mountinfo`` has it."""

    path: str
    kind: str
    read_only: bool
    size: Optional[str]


class Limits:
    """Knows what holds for this container. It changes: ``begin`` notes the counters.

    Args:
        cap_drop: The capabilities that the stage drops, as configured.
    """

    def __init__(self, cap_drop: List[str]) -> None:
        self._cap_drop = cap_drop
        self._pids = _pids_limit()
        self._memory = MemoryWatch()
        self._limited = self._memory.facts()["limit"] is not None
        self._forks = 0

    def begin(self) -> None:
        """A test begins."""
        if self._pids is not None:
            forks = _refused_forks()
            if forks is None:
                return  # the last test holds all the files that may be open: what was known before stands
            self._forks = forks
        if self._limited:
            self._memory = MemoryWatch()

    def bitten(self, error: Optional[BaseException]) -> List[str]:
        """A line for each limit that was reached since the test began.

        Args:
            error: What the test ended with.
        """
        lines = []
        if self._pids is not None and (_refused_forks() or 0) > self._forks:
            lines.append("pids limit %d reached" % self._pids)
        facts = self._memory.facts()
        if self._limited and facts["oom"]:
            text = "memory limit %s reached: a process was killed" % size(facts["limit"] or 0)
            lines.append(text + (", peak %s" % size(facts["peak"]) if facts["peak"] else ""))
        known = dict(_by_number(self._cap_drop))
        for number, path in _numbers(error):
            tell = known.get(number)
            line = tell(path) if tell is not None else None
            if line is not None and line not in lines:
                lines.append(line)
        # A child process may have met it: its error number is not known here, but the space is still used up.
        lines += [line for line in _full() if line not in lines]
        return lines


def _by_number(cap_drop: List[str]) -> Iterator[Tuple[int, Callable[[Optional[str]], Optional[str]]]]:
    yield errno.ENOSPC, _no_space
    yield errno.EROFS, _read_only
    for number, limit, name in (
        (errno.EMFILE, resource.RLIMIT_NOFILE, "nofile"),
        (errno.EFBIG, resource.RLIMIT_FSIZE, "fsize"),
        (errno.ENOMEM, resource.RLIMIT_DATA, "data"),
    ):
        yield number, lambda _, limit=limit, name=name: _ulimit(limit, name)  # type: ignore[misc]
    if cap_drop:
        text = "not permitted: the stage drops capabilities (%s)" % ", ".join(cap_drop)
        yield errno.EPERM, lambda _: text
        yield errno.EACCES, lambda _: text


def of_signal(number: int, used_s: float) -> Optional[str]:
    """The limit of this process, and of those that it has forked, for which the kernel sends a signal.

    Args:
        number: The signal that a forked process died of.
        used_s: The processor time that it had used.
    """
    if number == signal.SIGXFSZ:
        return _ulimit(resource.RLIMIT_FSIZE, "fsize")
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    # Above the soft limit there is a signal every second, at the hard one the end; where both are one, the end it is.
    for sent, limit in ((signal.SIGXCPU, soft), (signal.SIGKILL, hard)):
        if number == sent and limit != resource.RLIM_INFINITY and used_s >= _NEARLY * limit:
            return "ulimit cpu %d reached" % limit
    return None


def used(pid: int) -> float:
    """The processor time of a process in seconds, also of one that has died and is not reaped yet; 0 if unknown.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 14 and 15.
    """
    fields = kernel_text("/proc/%d/stat" % pid).rpartition(")")[2].split()
    try:
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (IndexError, ValueError):
        return 0.0


def _ulimit(limit: int, name: str) -> Optional[str]:
    soft = resource.getrlimit(limit)[0]
    return None if soft == resource.RLIM_INFINITY else "ulimit %s %d reached" % (name, soft)


def _no_space(path: Optional[str]) -> Optional[str]:
    mount = None if path is None else mount_of(path, mounts())
    return None if mount is None or mount.kind != "tmpfs" else _full_line(mount)


def _full_line(mount: Mount) -> str:
    return "no space left: %s is a tmpfs%s" % (
        mount.path,
        "" if mount.size is None else " of %s" % mount.size,
    )


def _full() -> List[str]:
    found = []
    for mount in mounts():
        if mount.kind == "tmpfs" and not mount.read_only and mount.size and not mount.path.startswith(_OURS):
            try:
                left = os.statvfs(mount.path)
            except OSError:
                continue
            if left.f_blocks and not left.f_bavail:
                found.append(_full_line(mount))
    return found


def _read_only(path: Optional[str]) -> Optional[str]:
    mount = mount_of(path or "/", mounts())
    if mount is None or not mount.read_only:
        return None
    what = "the container's root (the key read-only)" if mount.path == "/" else "the mount %s" % mount.path
    return "read-only: %s" % what + ("" if path is None else ", %s" % path)


def _numbers(error: Optional[BaseException]) -> Iterator[Tuple[int, Optional[str]]]:
    seen: List[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, OSError) and error.errno is not None:
            path = error.filename
            yield error.errno, os.path.abspath(path) if isinstance(path, str) else None
        elif isinstance(error, MemoryError):
            yield errno.ENOMEM, None
        error = error.__cause__ or error.__context__


def mount_of(path: str, known: List[Mount]) -> Optional[Mount]:
    """The mount that a path is on."""
    found = None
    for mount in known:
        under = mount.path.rstrip("/") + "/"
        if (path == mount.path or path.startswith(under)) and (
            found is None or len(mount.path) >= len(found.path)
        ):
            found = mount
    return found


def mounts(text: Optional[str] = None) -> List[Mount]:
    """What is mounted here.

    Args:
        text: ``/proc/self/mountinfo`` (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html); read if None.
    """
    found = []
    for line in (kernel_text("/proc/self/mountinfo") if text is None else text).splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(more) < 3:
            continue
        options: Dict[str, str] = {}
        for option in more[2].split(","):
            name, _, value = option.partition("=")
            options[name] = value
        path = fields[4].encode("latin-1", "replace").decode("unicode_escape", "replace")
        read_only = "ro" in fields[5].split(",") or "ro" in options
        found.append(Mount(path, more[0], read_only, _size_of(options.get("size"))))
    return found


def _size_of(option: Optional[str]) -> Optional[str]:
    """``16384k`` as ``16m``."""
    if not option:
        return None
    number, unit = option[:-1], option[-1:].lower()
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(unit)
    return size(int(number) * factor) if factor and number.isdigit() else option


def size(count: int) -> str:
    """A number of bytes as the configuration writes it, where it is a whole one."""
    for unit, name in _UNITS:
        if count >= unit:
            return ("%.1f" % (count / float(unit))).replace(".0", "") + name
    return str(count)


def _pids_limit() -> Optional[int]:
    for place in _PIDS:
        text = kernel_text(place % "max").strip()
        if text.isdigit():
            return int(text)
    return None


def _refused_forks() -> Optional[int]:
    for place in _PIDS:
        name, _, value = kernel_text(place % "events").strip().partition("\n")[0].partition(" ")
        if name == "max" and value.isdigit():
            return int(value)
    return None
