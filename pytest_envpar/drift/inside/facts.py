"""What a process feels of its environment beside files: limits, locale, time zone, the search path, the kernel.

Runs inside a container, where its text is the program, as the container's own user. Prints one JSON object of texts.
"""

from __future__ import annotations

import json
import locale
import os
import resource
import time


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
    return found


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


if __name__ == "__main__":
    print(json.dumps(facts()))
