"""Two trees that differ in every way that a file system can, and what a comparison of them has to say.

The functions run inside a container, on whatever Python it has: their text is sent there.
"""

from __future__ import annotations

import inspect


def before() -> None:
    """Make the left tree."""
    import os

    def put(path: str, content: bytes = b"same\n", mode: int = 0o644) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)

    def folder(path: str) -> None:
        os.makedirs(path, exist_ok=True)

    root = "/plant"
    for name in (
        "content",
        "size",
        "mode",
        "suid",
        "owner",
        "removed",
        "type-link",
        "type-dir",
        "xattr",
        "cap",
        "attribute",
        "touched",
    ):
        put(f"{root}/{name}")
    put(f"{root}/untouched")
    os.symlink("untouched", f"{root}/target")
    os.symlink("untouched", f"{root}/link-to-file")
    os.mknod(f"{root}/device", 0o600 | 0o020000, os.makedev(1, 3))
    os.mkfifo(f"{root}/fifo", 0o600)
    os.mkfifo(f"{root}/fifo-mode", 0o600)
    # Hard links: kept, one broken off, the first of three removed, made.
    for group in ("kept", "broken", "first-removed"):
        put(f"{root}/hard/{group}-a", group.encode())
        os.link(f"{root}/hard/{group}-a", f"{root}/hard/{group}-b")
    os.link(f"{root}/hard/first-removed-a", f"{root}/hard/first-removed-c")
    put(f"{root}/hard/made-a")
    put(f"{root}/hard/made-b")
    # Directories: removed whole, removed and made again (opaque), a plain file in their place.
    for name in ("gone/deep/er", "again/old", "again/sub", "replaced/inner", "kept/inner"):
        put(f"{root}/{name}/file")
    folder(f"{root}/empty-kept")
    folder(f"{root}/empty-removed")
    folder(f"{root}/dir-mode")
    # Names and sizes that break things.
    put(f"{root}/names/new\nline")
    put(f"{root}/names/esc\x1b[31m")
    put(os.fsdecode(b"/plant/names/latin-\xe9"))
    put(f"{root}/names/{'n' * 200}")
    put("/".join([root, "long", *["l" * 200] * 18, "file"]))
    put("/".join([root, "deep", *["d"] * 150, "file"]))
    with open(f"{root}/sparse", "wb") as file:
        file.truncate(5 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    put(f"{root}/large", b"large" * 100_000)
    put("/plant-a", b"order\n")
    put("/plant/a", b"order\n")
    os.chown(f"{root}/link-to-file", 5, 5, follow_symlinks=False)


def after() -> None:
    """Make the right tree of the left one."""
    import os
    import shutil
    import struct

    def put(path: str, content: bytes = b"other\n") -> None:
        with open(path, "wb") as file:
            file.write(content)

    root = "/plant"
    put(f"{root}/content", b"else\n")
    put(f"{root}/size", b"longer than it was\n")
    os.chmod(f"{root}/mode", 0o600)
    os.chmod(f"{root}/suid", 0o4755)
    os.chown(f"{root}/owner", 123, 456)
    os.unlink(f"{root}/removed")
    put(f"{root}/added")
    os.utime(f"{root}/touched", (1, 1))
    os.unlink(f"{root}/type-link")
    os.symlink("untouched", f"{root}/type-link")
    os.unlink(f"{root}/type-dir")
    os.mkdir(f"{root}/type-dir")
    put(f"{root}/type-dir/file")
    os.unlink(f"{root}/target")
    os.symlink("elsewhere", f"{root}/target")
    # A capability: magic of revision 2 with cap_net_raw effective.
    os.setxattr(f"{root}/cap", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    os.setxattr(f"{root}/attribute", "user.note", b"of a user")
    os.unlink(f"{root}/device")
    os.mknod(f"{root}/device", 0o600 | 0o020000, os.makedev(1, 5))
    os.chmod(f"{root}/fifo-mode", 0o644)
    os.unlink(f"{root}/hard/broken-b")
    put(f"{root}/hard/broken-b", b"broken")
    os.chmod(f"{root}/hard/broken-b", 0o644)
    os.unlink(f"{root}/hard/first-removed-a")
    os.unlink(f"{root}/hard/made-b")
    os.link(f"{root}/hard/made-a", f"{root}/hard/made-b")
    shutil.rmtree(f"{root}/gone")
    shutil.rmtree(f"{root}/again")
    os.mkdir(f"{root}/again")
    os.mkdir(f"{root}/again/sub")
    put(f"{root}/again/new")
    shutil.rmtree(f"{root}/replaced")
    put(f"{root}/replaced")
    os.rmdir(f"{root}/empty-removed")
    os.mkdir(f"{root}/empty-added")
    os.chmod(f"{root}/dir-mode", 0o1777)
    put(f"{root}/names/new\nline")
    put(f"{root}/names/esc\x1b[31m")
    put(os.fsdecode(b"/plant/names/latin-\xe9"))
    os.unlink(f"{root}/names/{'n' * 200}")
    put("/".join([root, "long", *["l" * 200] * 18, "file"]))
    put("/".join([root, "deep", *["d"] * 150, "file"]))
    with open(f"{root}/sparse", "r+b") as file:
        file.seek((5 << 20) - 3)
        file.write(b"end")
    put(f"{root}/large", b"LARGE" * 100_000)
    os.unlink("/plant-a")


def later() -> None:
    """What no image can have: done when the image of the right tree is made, in the container that it was made of."""
    import os
    import socket

    server = socket.socket(socket.AF_UNIX)
    server.bind("/plant/socket")
    os.chmod("/plant/socket", 0o711)
    server.close()
    os.setxattr("/plant/xattr", "user.note", b"of a container")


LONG = "/".join(["/plant/long", *["l" * 200] * 18, "file"])
DEEP = "/".join(["/plant/deep", *["d"] * 150, "file"])

EXPECTED = {
    "/plant/added": ("added",),
    "/plant/again/new": ("added",),
    "/plant/again/old": ("removed",),
    "/plant/again/old/file": ("removed",),
    "/plant/again/sub/file": ("removed",),
    "/plant/cap": ("modified", "xattr"),
    "/plant/content": ("modified", "content"),
    DEEP: ("modified", "content"),
    "/plant/device": ("modified", "device"),
    "/plant/dir-mode": ("modified", "mode"),
    "/plant/empty-added": ("added",),
    "/plant/empty-removed": ("removed",),
    "/plant/fifo-mode": ("modified", "mode"),
    "/plant/gone": ("removed",),
    "/plant/gone/deep": ("removed",),
    "/plant/gone/deep/er": ("removed",),
    "/plant/gone/deep/er/file": ("removed",),
    "/plant/hard/broken-a": ("modified", "hardlink"),
    "/plant/hard/broken-b": ("modified", "hardlink"),
    "/plant/hard/first-removed-a": ("removed",),
    "/plant/hard/first-removed-b": ("modified", "hardlink"),
    "/plant/hard/first-removed-c": ("modified", "hardlink"),
    "/plant/hard/made-a": ("modified", "hardlink"),
    "/plant/hard/made-b": ("modified", "hardlink"),
    "/plant/large": ("modified", "content"),
    LONG: ("modified", "content"),
    "/plant/mode": ("modified", "mode"),
    "/plant/names/esc\x1b[31m": ("modified", "content"),
    "/plant/names/latin-\udce9": ("modified", "content"),
    "/plant/names/new\nline": ("modified", "content"),
    f"/plant/names/{'n' * 200}": ("removed",),
    "/plant/owner": ("modified", "owner"),
    "/plant/removed": ("removed",),
    "/plant/replaced": ("modified", "type"),
    "/plant/replaced/inner": ("removed",),
    "/plant/replaced/inner/file": ("removed",),
    "/plant/size": ("modified", "content"),
    "/plant/sparse": ("modified", "content"),
    "/plant/suid": ("modified", "mode"),
    "/plant/target": ("modified", "target"),
    "/plant/type-dir": ("modified", "type"),
    "/plant/type-dir/file": ("added",),
    "/plant/type-link": ("modified", "type"),
    "/plant-a": ("removed",),
}
"""Path to kind and attributes; the attributes are those that do not only follow from a type that differs."""

ATTRIBUTE = {"/plant/attribute": ("modified", "xattr")}
"""What Docker leaves out of images and exports, and Podman of neither."""
LATER = {**ATTRIBUTE, "/plant/socket": ("added",), "/plant/xattr": ("modified", "xattr")}
"""What only a container has."""


def program(make: object) -> tuple[str, ...]:
    """A command line that runs one of the functions above."""
    text = inspect.getsource(make)  # type: ignore[arg-type]
    return ("python3", "-X", "utf8", "-c", f"{text}\n{make.__name__}()\n")  # type: ignore[attr-defined]
