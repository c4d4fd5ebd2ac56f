"""A way to an engine that can be cut and mended: what an engine that is started again is for those who talk to it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path


class Proxy:
    """A socket that leads to another one. Owns both sides of every connection until ``close``."""

    def __init__(self, target: str) -> None:
        # A short path: a socket's has 108 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="envpar-"))
        self._path = self._folder / "s"
        self._target = target
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.url = f"unix://{self._path}"
        self.mend()

    def mend(self) -> None:
        """Answer, from now on."""
        self._path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(self._path))
        server.listen(64)
        self._server = server
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def cut(self) -> None:
        """Close every connection, and take no other."""
        server, self._server = self._server, None
        if server is not None:
            _end(server)
        self.drop()

    def drop(self) -> None:
        """Close every connection."""
        with self._lock:
            pieces = list(self._open)
        for piece in pieces:
            with contextlib.suppress(OSError):
                piece.shutdown(socket.SHUT_RDWR)
        for piece in pieces:
            _end(piece)

    def close(self) -> None:
        """``cut`` for good."""
        self.cut()
        shutil.rmtree(self._folder)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(self._target)
            with self._lock:
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for piece in (source, target):
                _end(piece)
                with self._lock:
                    self._open.discard(piece)


def _end(piece: socket.socket) -> None:
    with contextlib.suppress(OSError):
        piece.shutdown(socket.SHUT_RDWR)
    piece.close()
