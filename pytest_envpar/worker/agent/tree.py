"""The container's file system under watch: which folders there are, what is in them, and what has happened to it.

Paths are bytes without a slash at the end, so that any name has one form; the root folder is empty.
"""

import collections
import os
import stat
import time
from typing import Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from . import inotify
from .limits import mounts

MAX_FOLDERS = 1 << 16
"""More are not watched; nor is more than half of what the kernel allows a user, which others need, too."""
_CLOCK = 5  # CLOCK_REALTIME_COARSE: the one that the kernel stamps files with
# A file that was only closed after writing may not have been written to: its time tells.
_CERTAIN = inotify.CHANGES & ~inotify.CLOSE_WRITE
_NO_PLACES = ("/proc", "/sys", "/dev", "/.envpar")
_NO_FILES = ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue")
_LIMIT = "/proc/sys/fs/inotify/max_user_watches"

Names = Union[bytes, Set[bytes]]


class Change(NamedTuple):
    """One path that is not as it was.

    ``kind`` is ``created``, ``changed`` or ``deleted``; ``bits`` what the kernel told of a changed one, 0 if nothing.
    """

    kind: str
    path: bytes
    bits: int
    now: Optional[os.stat_result]


def is_left_out(name: bytes) -> bool:
    """Python's bytecode, and pytest's own temporary folders, which it keeps and removes by its own rules."""
    return name == b"__pycache__" or name.startswith(b"pytest-of-")


def now_ns() -> int:
    """The time that a file would get which is written now."""
    return time.clock_gettime_ns(_CLOCK)


class Tree:
    """Everything that the tests can write to. It changes with every look.

    Args:
        roots: Folders that are watched with all below them, the most important first.
        outside: Folders that are left out on the way.
        limit: How many folders are watched; None for what the machine allows.
    """

    def __init__(
        self, roots: Iterable[bytes], outside: Iterable[bytes] = (), limit: Optional[int] = None
    ) -> None:
        self.opened: Set[bytes] = set()
        """Paths that were opened, or folders that were listed, of those that ``heed`` has named."""
        self.touched: Dict[bytes, int] = {}
        """Paths to which something was done since the last ``changes``, and what, as bits of the kernel."""
        self.problem = ""
        """Why nothing, or not all, is watched."""
        self._queue: Optional[inotify.Inotify] = None
        self._folders: Dict[int, bytes] = {}
        self._numbers: Dict[bytes, int] = {}
        # Names of a folder are one piece of bytes until something happens in it: most folders of an image are large,
        # and never touched.
        self._names: Dict[bytes, Names] = {}
        self._heeded: Set[bytes] = set()
        self._roots = list(roots)
        self._outside = set(outside)
        self._overflowed = False
        self._limit = _allowed() if limit is None else limit
        self._since = now_ns()
        try:
            self._queue = inotify.Inotify()
        except (OSError, ImportError, AttributeError) as error:
            self.problem = "inotify cannot be had (%s)" % error
            return
        for root in self._roots:
            if root not in self._names:
                _exhaust(self._walk(root))

    def knows(self, folder: bytes) -> bool:
        """Whether it is known what is in a folder, and will be."""
        return folder in self._names

    @property
    def complete(self) -> bool:
        """Whether the kernel tells all that happens; otherwise what is handed to :meth:`note` is needed, too."""
        return not self.problem

    # --- what happens --------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take what the kernel has to tell, so that its queue does not run over."""
        queue = self._queue
        if queue is None:
            return
        touched = self.touched
        folders = self._folders
        try:
            if not queue.waits():
                return
            for number, bits, name in queue.read():
                folder = folders.get(number)
                if folder is None:
                    if bits & inotify.OVERFLOW:
                        self._overflowed = True
                elif bits & inotify.IGNORED:
                    self._drop(folder)
                elif bits & inotify.OPEN:
                    self.opened.add(folder + b"/" + name if name else folder)
                elif name and not is_left_out(name):
                    path = folder + b"/" + name
                    touched[path] = touched.get(path, 0) | bits
                    if bits & inotify.IS_FOLDER and bits & inotify.MOVED_FROM:
                        self._unwatch(path)
        except OSError as error:
            self._queue = None
            self.problem = "a test closed the descriptor of inotify (%s)" % error

    def note(self, path: bytes, bits: int) -> None:
        """Something was done to a path, as far as the test process can tell itself."""
        self.touched[path] = self.touched.get(path, 0) | bits

    def quiet(self) -> bool:
        """Whether nothing has happened since the last ``changes``."""
        self.drain()
        if self.touched or self._overflowed:
            return False
        self._since = max(self._since, now_ns())
        return True

    def changes(self) -> Iterator[Change]:
        """What is not as it was at the last call. To be read to its end."""
        self.drain()
        since, self._since = self._since, max(self._since, now_ns())
        touched = self.touched
        if self._overflowed:
            self._overflowed = False
            self.touched = {}
            yield from self._compare(self._roots, since, touched)
            return
        if not touched:
            return
        self.touched = {}
        # Folders come before what is in them.
        for path in sorted(touched):
            yield from self._change(path, touched[path], since)

    def _change(self, path: bytes, bits: int, since: int) -> Iterator[Change]:
        folder, _, name = path.rpartition(b"/")
        known = self._known(folder)
        if known is None:
            return  # the folder is as new as this, or gone with it
        now = _status(path)
        if now is not None:
            # Files can be stamped more finely than the clock that was asked.
            self._since = max(self._since, now.st_ctime_ns + 1)
        if now is None:
            if name in known:
                known.discard(name)
                yield Change("deleted", path, bits, None)
                yield from self._gone(path)
        elif name not in known:
            known.add(name)
            yield Change("created", path, bits, now)
            if stat.S_ISDIR(now.st_mode):
                yield from self._walk(path, counts=True)
        elif stat.S_ISDIR(now.st_mode):
            if path not in self._names:
                if bits & inotify.STRUCTURE:  # it was something else
                    yield Change("changed", path, bits, now)
                    yield from self._walk(path, counts=True)
            elif bits & inotify.STRUCTURE:  # another one of the same name
                yield from self._compare([path], since, {})
            if bits & inotify.ATTRIB:
                yield Change("changed", path, inotify.ATTRIB, now)
        else:
            yield from self._gone(path)
            if bits & _CERTAIN or now.st_ctime_ns >= since:
                yield Change("changed", path, bits, now)

    def _compare(self, tops: Iterable[bytes], since: int, touched: Dict[bytes, int]) -> Iterator[Change]:
        """All of some folders, with what was known of them."""
        before: Dict[bytes, Names] = {}
        for top in tops:
            before.update(self._forget(top))
        now_there: Set[bytes] = set()
        for top in tops:
            if top not in self._names:
                _exhaust(self._walk(top, now_there))
        return self._differences(before, now_there, since, touched)

    def since(self, before: Dict[bytes, Names], since: int) -> Iterator[Change]:
        """What is not as another one knew it at a time (nanoseconds)."""
        return self._differences(before, set(self._names), since, {})

    @property
    def names(self) -> Dict[bytes, Names]:
        """What is in each folder, as of the last look; not to be changed."""
        return self._names

    def _differences(
        self, before: Dict[bytes, Names], now_there: Set[bytes], since: int, touched: Dict[bytes, int]
    ) -> Iterator[Change]:
        for folder in sorted({*before, *now_there}):
            old, new = as_set(before.get(folder, b"")), as_set(self._names.get(folder, b""))
            for name in sorted(old | new):
                path = folder + b"/" + name
                now = _status(path)
                if name not in new:
                    yield Change("deleted", path, 0, None)
                elif name not in old:
                    yield Change("created", path, 0, now)
                elif now is not None and not stat.S_ISDIR(now.st_mode):
                    bits = touched.get(path, 0)
                    if bits & _CERTAIN or now.st_ctime_ns >= since:
                        yield Change("changed", path, bits, now)

    # --- evidence ------------------------------------------------------------------------------------------------

    def heed(self, path: bytes) -> None:
        """From now on tell when the path is opened; of a folder also when something in it is."""
        queue = self._queue
        if queue is None:
            return
        for folder in (path, path.rpartition(b"/")[0]):
            if folder in self._numbers and folder not in self._heeded:
                self._heeded.add(folder)
                try:
                    queue.add(folder or b"/", opened=True)
                except OSError:
                    pass  # gone by now

    # --- folders -------------------------------------------------------------------------------------------------

    def _walk(
        self, top: bytes, walked: Optional[Set[bytes]] = None, counts: bool = False
    ) -> Iterator[Change]:
        """Watch a folder and all below it.

        Args:
            walked: Is given the folders that were found.
            counts: Tell what is in there, also in folders that cannot be watched.
        """
        todo: Deque[bytes] = collections.deque([top])
        while todo:
            folder = todo.popleft()
            watched = self._watch(folder)
            if not watched and not counts:
                continue
            names: List[bytes] = []
            try:
                # Only now, so that nothing is missed that is made meanwhile.
                with os.scandir(folder or b"/") as entries:
                    for entry in entries:
                        name = entry.name
                        if is_left_out(name):
                            continue
                        names.append(name)
                        path = folder + b"/" + name
                        if entry.is_dir(follow_symlinks=False):
                            if path in self._outside:
                                continue
                            if path not in self._names:
                                todo.append(path)
                        if counts:
                            yield Change("created", path, 0, None)
            except OSError:
                pass  # gone, or not to be read: what could be listed counts
            if watched:
                self._names[folder] = b"\0".join(names)
                if walked is not None:
                    walked.add(folder)

    def _watch(self, folder: bytes) -> bool:
        queue = self._queue
        if queue is None:
            return False
        if len(self._numbers) >= self._limit:
            self.problem = "only %d folders are watched, which is the limit" % len(self._numbers)
            return False
        try:
            number = queue.add(folder or b"/", folder in self._heeded)
        except OSError as error:
            if error.errno == 28:  # ENOSPC: fs.inotify.max_user_watches
                self._limit = len(self._numbers)
                self.problem = "only %d folders are watched, which is the user's limit" % len(self._numbers)
            return False
        self._folders[number] = folder
        self._numbers[folder] = number
        return True

    def _known(self, folder: bytes) -> Optional[Set[bytes]]:
        """The names in a folder as of the last look, to be kept up to date; None if that is not known."""
        names = self._names.get(folder)
        if names is None:
            return None
        if isinstance(names, bytes):
            names = self._names[folder] = as_set(names)
        return names

    def _gone(self, path: bytes) -> Iterator[Change]:
        """What was in a folder that is not there any more."""
        if path in self._names:
            for folder, names in self._forget(path).items():
                for name in as_set(names):
                    yield Change("deleted", folder + b"/" + name, 0, None)

    def _forget(self, top: bytes) -> Dict[bytes, Names]:
        """Let go of what is known of a folder and all below it; returns it."""
        self._unwatch(top)
        return {
            path: self._names.pop(path) for path in [each for each in self._names if _is_below(each, top)]
        }

    def _unwatch(self, top: bytes) -> None:
        """What was moved away tells of another place from now on."""
        for folder in [each for each in self._numbers if _is_below(each, top)]:
            if self._queue is not None:
                self._queue.remove(self._numbers[folder])
            self._drop(folder)

    def _drop(self, folder: bytes) -> None:
        number = self._numbers.pop(folder, None)
        self._heeded.discard(folder)
        if number is not None:
            self._folders.pop(number, None)


def places(first: Iterable[str]) -> Tuple[List[bytes], Set[bytes]]:
    """Where writing is possible, and what is left out when those are walked: other mounts, which are walked as such.

    Args:
        first: What comes first, if there are too many folders for all.
    """
    roots: List[bytes] = []
    outside: Set[bytes] = set()
    for mount in mounts():
        outside.add(_form(mount.path))
        below = [place for place in _NO_PLACES if mount.path == place or mount.path.startswith(place + "/")]
        if not mount.read_only and mount.kind not in _NO_FILES and (not below or mount.path == "/dev/shm"):
            roots.append(_form(mount.path))
    outside.update(_form(place) for place in _NO_PLACES)
    closed = outside.difference(roots)
    wanted = [_form(os.path.realpath(place)) for place in first]
    return [place for place in wanted if not _lies_in(place, closed)] + roots, outside


def _form(path: str) -> bytes:
    return os.fsencode(path).rstrip(b"/")


def _allowed() -> int:
    try:
        with open(_LIMIT) as file:
            return min(MAX_FOLDERS, int(file.read()) // 2)
    except (OSError, ValueError):
        return MAX_FOLDERS


def as_set(names: Names) -> Set[bytes]:
    """The names in a folder."""
    if isinstance(names, set):
        return names
    return set(names.split(b"\0")) if names else set()


def _is_below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


def _lies_in(path: bytes, places: Iterable[bytes]) -> bool:
    """Whether a path is in one of the places. The root folder counts for itself alone: others are mounted in it."""
    return any(_is_below(path, place) if place else not path for place in places)


def _exhaust(steps: Iterator[object]) -> None:
    collections.deque(steps, maxlen=0)


def _status(path: bytes) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except OSError:
        return None
