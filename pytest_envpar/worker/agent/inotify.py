"""The kernel's own word on what happens in folders: inotify, by way of ``ctypes``.

It tells of everything that any process does through the file system, also a child or a library in C, and costs a test
that does nothing one system call. It does not tell what a file was like before, nor of writes through ``mmap`` (which
show when the file is closed). https://man7.org/linux/man-pages/man7/inotify.7.html
"""

import array
import fcntl
import os
import struct
import termios
from typing import Iterator, Tuple

MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
OPEN = 0x20
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
OVERFLOW = 0x4000
IGNORED = 0x8000
IS_FOLDER = 0x40000000

CHANGES = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
"""What a folder is watched for."""
STRUCTURE = MOVED_FROM | MOVED_TO | CREATE | DELETE
CONTENT = MODIFY | CLOSE_WRITE | STRUCTURE

_ONLY_FOLDERS = 0x01000000
_DO_NOT_FOLLOW = 0x02000000
_HEAD = struct.Struct("=iIII")
_SMALLEST = 4096  # one event has to fit


class Inotify:
    """One queue of events.

    Raises:
        OSError: The kernel or the system's limits refuse one.
        ImportError: This Python has no ``ctypes``.
    """

    def __init__(self) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._add = libc.inotify_add_watch
        self._add.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
        self._remove = libc.inotify_rm_watch
        self._remove.argtypes = [ctypes.c_int, ctypes.c_int]
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        from .supervisor import move_up

        self._fd = move_up(fd)
        self._length = array.array("i", [0])

    def add(self, folder: bytes, opened: bool = False) -> int:
        """Watch a folder; the number that its events carry. Watching one again is fine and gives the same number.

        Args:
            opened: Tell also which files in it are opened, and when it is listed.

        Raises:
            OSError: It is gone, is no folder, may not be read, or there are too many watches (``ENOSPC``).
        """
        mask = CHANGES | _ONLY_FOLDERS | _DO_NOT_FOLLOW | (OPEN if opened else 0)
        number = int(self._add(self._fd, folder, mask))
        if number < 0:
            raise OSError(self._errno(), os.strerror(self._errno()))
        return number

    def remove(self, number: int) -> None:
        self._remove(self._fd, number)

    def read(self) -> Iterator[Tuple[int, int, bytes]]:
        """What has happened since the last call: number of the folder, bits, and name in it (empty: itself).

        Raises:
            OSError: The queue is gone: a test has closed its descriptor.
        """
        while self.waits():
            data = os.read(self._fd, max(_SMALLEST, self._length[0]))
            at = 0
            while at < len(data):
                number, bits, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size
                name = data[at : at + length].rstrip(b"\0")
                at += length
                yield number, bits, name

    def waits(self) -> bool:
        """Whether there is anything to read. Costs half a microsecond; reading in vain costs five."""
        fcntl.ioctl(self._fd, termios.FIONREAD, self._length)
        return self._length[0] > 0

    def close(self) -> None:
        os.close(self._fd)
