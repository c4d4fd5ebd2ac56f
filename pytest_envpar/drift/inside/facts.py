"""What a process feels of its environment beside files: limits, locale, time zone, the search path, the kernel.

Runs inside a container, where its text is the program, as the container's own user. Prints one JSON object of texts.
"""

from __future__ import annotations

import json
import locale
import os
import resource
import time

_OF_A_SHELL = ("PWD", "OLDPWD", "SHLVL", "_")


def facts() -> dict[str, str]:
    """Names such as ``limits.nofile`` with their values."""
    found = {}
    for name in ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack"):
        soft, hard = resource.getrlimit(getattr(resource, "RLIMIT_" + name.upper()))
        found["limits." + name] = "%s:%s" % (_limit(soft), _limit(hard))
    try:
        locale.setlocale(locale.LC_ALL, "")
        found["locale"] = "%s, %s" % (locale.setlocale(locale.LC_CTYPE), locale.nl_langinfo(locale.CODESET))
    except locale.Error as error:
        found["locale"] = "%s (%s)" % (os.environ.get("LC_ALL") or os.environ.get("LANG") or "", error)
    found["timezone"] = " ".join(time.tzname) + " %+d" % -time.timezone
    for number, folder in enumerate(os.environ.get("PATH", "").split(os.pathsep)):
        if not os.path.isdir(folder):
            found["path.%02d" % number] = folder + ": is not there"
        elif os.access(folder, os.W_OK) and os.geteuid() != 0:
            found["path.%02d" % number] = folder + ": may be written to"
    system = os.uname()
    found["kernel"] = "%s %s %s" % (system.sysname, system.release, system.machine)
    mask = os.umask(0)
    os.umask(mask)
    found["umask"] = "%04o" % mask
    found["cpus"] = str(len(os.sched_getaffinity(0)))
    found["process.user"] = "%d:%d" % (os.geteuid(), os.getegid())
    found.update(_of_group())
    found.update(_of_first_process())
    return found


def _of_group() -> dict[str, str]:
    """The limits of the container's control group, version 2 or 1."""
    found = {}
    for name, files in (
        ("memory", ("memory.max", "memory/memory.limit_in_bytes")),
        ("pids", ("pids.max", "pids/pids.max")),
        ("cpu", ("cpu.max", "cpu/cpu.cfs_quota_us")),
    ):
        for file in files:
            try:
                with open("/sys/fs/cgroup/" + file) as opened:
                    value = " ".join(opened.read().split())
            except OSError:
                continue
            # Version 1 has no word for it: the largest number of whole pages, and -1.
            unlimited = (
                value.startswith("max") or value == "-1" or (value.isdigit() and int(value) >= 1 << 62)
            )
            found["limits.container." + name] = "unlimited" if unlimited else value
            break
    return found


def _of_first_process() -> dict[str, str]:
    """Where the environment of the container's first process is another than the configured one, which this one has."""
    try:
        with open("/proc/1/environ", "rb") as opened:
            pairs = [item.partition(b"=") for item in opened.read().split(b"\0") if item]
    except OSError:
        return {}
    theirs = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    return {
        "process.env." + name: theirs.get(name, "(not set)")
        for name in theirs.keys() | os.environ.keys()
        if theirs.get(name) != os.environ.get(name) and name not in _OF_A_SHELL
    }


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


if __name__ == "__main__":
    print(json.dumps(facts()))
