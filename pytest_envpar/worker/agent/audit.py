"""What the test process itself does with files, as Python's audit events tell: before it does it.

The kernel tells of all processes, but only afterwards. From here comes what a file was like before a test wrote to it
(many tests put back what they changed), and which files a test wanted that are not there any more.
https://docs.python.org/3/library/audit_events.html
"""

import hashlib
import os
import stat
import sys
import tempfile
from typing import Any, Callable, Dict, NamedTuple, Optional, Set, Tuple

from . import inotify
from .tree import Change, Tree

MAX_DIGEST = 1 << 20
"""Larger files are not read before they are written to: they count as changed when they were written to."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# Event: the path among its arguments, the folder's descriptor (which paths are relative to) among them or None, what
# it does as bits, what is said of a test that did it, and of one that met something which was in the way of it.
_EVENTS: Tuple[Tuple[str, int, Optional[int], int, str, str], ...] = (
    ("os.remove", 0, 1, inotify.DELETE, "removed", "tried to remove"),
    ("os.rmdir", 0, 1, inotify.DELETE, "removed", "tried to remove"),
    ("os.rename", 0, 2, inotify.MOVED_FROM, "renamed", "tried to rename"),
    ("os.rename", 1, 3, inotify.MOVED_TO, "replaced", "made anew"),
    ("os.mkdir", 0, 2, inotify.CREATE, "tried to make", "made anew"),
    ("os.link", 1, 3, inotify.CREATE, "tried to make", "made anew"),
    ("os.symlink", 1, 2, inotify.CREATE, "tried to make", "made anew"),
    ("os.truncate", 0, None, inotify.MODIFY, "truncated", "tried to truncate"),
    ("os.chmod", 0, 2, inotify.ATTRIB, "changed", "tried to change"),
    ("os.chown", 0, 3, inotify.ATTRIB, "changed", "tried to change"),
    ("os.utime", 0, 3, inotify.ATTRIB, "changed", "tried to change"),
    ("sqlite3.connect", 0, None, inotify.MODIFY, "opened", "made anew"),
)


class Before(NamedTuple):
    """What a path was like before a test did something to it; ``digest`` only of a file that is not large."""

    status: os.stat_result
    digest: Optional[bytes]


class Audit:
    """Listens for the rest of the process's life. It changes: ``clear`` forgets what one test did.

    Args:
        tree: Where the kernel's own events arrive.
        root: The project. All of it counts, also where it lies in a folder that does not.
        own: What the paths of our own files begin with. They never count, wherever they are.
    """

    def __init__(self, tree: Tree, root: bytes, own: bytes) -> None:
        self.seen: Dict[bytes, str] = {}
        """Paths that were ``left`` and that the test has met, and what it did."""
        self.before: Dict[bytes, Optional[Before]] = {}
        """What was there before the test did something to it; None for nothing."""
        self.left: Dict[bytes, Any] = {}
        """Paths to look out for; their values have ``kind``. Filled by :meth:`look_out`."""
        self._names: Set[str] = set()
        self._folders: Dict[bytes, bytes] = {}
        self._tree = tree
        self._own = own
        pytests = os.path.join(os.fsencode(tempfile.gettempdir()), b"pytest-of-")
        self._not_noted = (pytests, b"/dev/", b"/proc/", b":")
        # None of a project that is above these folders, or whose name only begins alike: it would hide them.
        self._yet_noted = (root + b"/",) if root.startswith(self._not_noted) else ()
        self._handlers: Dict[str, Callable[[Any], None]] = {
            "open": self._open,
            "os.listdir": self._list,
            "os.scandir": self._list,
        }
        for event, place, folder, bits, done, tried in _EVENTS:
            self._handlers[event] = _handler(
                self._handlers.get(event), self._does, place, folder, (bits, done, tried)
            )

    def install(self) -> None:
        """Begin. There is no end: Python knows none."""
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: Any) -> None:
        """One event, just before it happens."""
        handler = self._handlers.get(event)
        if handler is not None:
            try:
                handler(args)
            except Exception:  # noqa: BLE001 - it would become an error of the test's own call
                pass

    def clear(self) -> None:
        """A test begins."""
        self.seen.clear()
        self.before.clear()

    def look_out(self, path: bytes, value: Any) -> None:
        """Tell if a test meets this path."""
        self.left[path] = value
        folder, _, name = path.rpartition(b"/")
        self._names.add(os.fsdecode(name))
        self._folders[folder] = path

    def forget(self, path: bytes) -> None:
        self.left.pop(path, None)
        self._folders.pop(path.rpartition(b"/")[0], None)

    # --- events --------------------------------------------------------------------------------------------------

    def _open(self, args: Any) -> None:
        path, _, flags = args
        if isinstance(path, int):
            return
        if flags & _WRITES:
            self._note(path, inotify.MODIFY, follow=True)
        if self._names:
            self._meet(path, "opened", "tried to open")

    def _does(self, path: Any, bits: int, done: str, tried: str) -> None:
        self._note(path, bits, follow=bits == inotify.MODIFY)
        if self._names:
            self._meet(path, done, tried)

    def _list(self, args: Any) -> None:
        if not self._folders or isinstance(args[0], int):
            return
        folder = os.path.realpath(os.fsencode(args[0] or "."))
        example = self._folders.get(folder.rstrip(b"/"))
        if example is not None:
            self.seen.setdefault(example, "listed")

    def _meet(self, path: Any, done: str, tried: str) -> None:
        text = os.fsdecode(path)
        if text.rpartition("/")[2] in self._names:
            full = _full(os.fsencode(text), follow=False)
            met = self.left.get(full)
            if met is not None:
                self.seen.setdefault(full, tried if met.kind == "deleted" else done)

    def _note(self, path: Any, bits: int, follow: bool) -> None:
        raw = os.fsencode(path)
        if raw.startswith(self._own):
            return
        if raw.startswith(self._not_noted) and not (raw + b"/").startswith(self._yet_noted):
            return
        try:
            status = os.stat(raw) if follow else os.lstat(raw)
        except OSError:
            if not self._tree.complete:
                full = _full(raw, follow)
                self.before.setdefault(full, None)
                self._tree.note(full, bits)
            return
        full = _full(raw, follow)
        if full not in self.before:
            # What another process, or a library, has done to it before is the same test's doing.
            self._tree.drain()
            if full not in self._tree.touched:
                self.before[full] = None  # for the event of reading it
                self.before[full] = Before(status, digest(raw, status))
        if not self._tree.complete:
            self._tree.note(full, bits)


def difference(change: Change, before: Optional[Before]) -> Tuple[str, ...]:
    """What differs of a path that was there before a test and is after it; empty if nothing does but its times.

    Args:
        before: What it was like, if that is known.
    """
    now = change.now
    if now is None:
        return ()
    if before is None:
        return ("content",) if change.bits & inotify.CONTENT or not change.bits else ("mode, owner or times",)
    was = before.status
    found = []
    if stat.S_IFMT(was.st_mode) != stat.S_IFMT(now.st_mode):
        return ("type",)
    if stat.S_ISREG(now.st_mode) and change.bits & inotify.CONTENT:
        if was.st_size != now.st_size or before.digest is None or before.digest != digest(change.path, now):
            found.append("content")
    elif change.bits & inotify.STRUCTURE and not stat.S_ISDIR(now.st_mode):
        found.append("content")  # another link, or the like
    if stat.S_IMODE(was.st_mode) != stat.S_IMODE(now.st_mode):
        found.append("mode")
    if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
        found.append("owner")
    return tuple(found)


def digest(path: bytes, status: os.stat_result) -> Optional[bytes]:
    """Of a regular file's content; None of anything else, of large files, and of what cannot be read."""
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_DIGEST:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return hashlib.sha256(os.read(fd, MAX_DIGEST + 1)).digest()
    except OSError:
        return None
    finally:
        os.close(fd)


def _handler(
    earlier: Optional[Callable[[Any], None]],
    does: Callable[..., None],
    place: int,
    folder: Optional[int],
    what: Tuple[int, str, str],
) -> Callable[[Any], None]:
    """For one path of an event; ``earlier`` is for another path of the same."""

    def handle(args: Any) -> None:
        if earlier is not None:
            earlier(args)
        path = args[place]
        if not isinstance(path, int) and (folder is None or args[folder] == -1 or os.path.isabs(path)):
            does(path, *what)

    return handle


def _full(raw: bytes, follow: bool) -> bytes:
    """The one form of a path that :class:`Tree` knows."""
    if follow:
        return os.path.realpath(raw).rstrip(b"/")
    folder, name = os.path.split(raw.rstrip(b"/"))
    return os.path.realpath(folder or b".").rstrip(b"/") + b"/" + name
