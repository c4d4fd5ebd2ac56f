"""The program that keeps a container up while nothing runs in it, for any image, also one without a shell.

It is some hundred bytes of machine code behind an ELF header, made here so that it can be read here. It blocks all
signals and waits for one: children that have ended are reaped (it is process 1), anything else but SIGCONT ends it, so
that ``stop`` need not wait for its time to be up. A volume of ours brings it in, read-only, filled once for an engine.
On other processors the image's own ``sleep`` has to serve.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import filelock

from pytest_envpar.containers import cachefolder
from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.images import tarstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.engine.api import Engine

FOLDER = PurePosixPath("/.envpar/idle")
"""Where the volume is mounted."""

_NAME = "idle"
_LOCK_S = 120.0
_BASE = 0x400000
_EM_X86_64, _EM_AARCH64 = 62, 183

_X86_64 = bytes.fromhex(
    "6aff"  # push -1                        the set of all signals
    "31ff" "4889e6" "31d2"  # edi = 0 (SIG_BLOCK), rsi = rsp, edx = 0
    "6a08" "415a"  # r10 = 8                 bytes of a set
    "6a0e" "58" "0f05"  # rt_sigprocmask
    # wait:
    "4889e7" "31f6" "31d2"  # rdi = rsp, esi = 0, edx = 0
    "6a08" "415a"  # r10 = 8
    "b880000000" "0f05"  # rt_sigtimedwait
    "83f811" "7412"  # SIGCHLD: reap
    "83f812" "74e4"  # SIGCONT: wait
    "85c0" "7ee0"  # interrupted: wait
    "31ff" "b8e7000000" "0f05"  # exit_group(0)
    # reap:
    "6aff" "5f" "31f6"  # rdi = -1, esi = 0
    "6a01" "5a" "4531d2"  # edx = WNOHANG, r10d = 0
    "6a3d" "58" "0f05"  # wait4
    "85c0" "7fec"  # one more: reap
    "ebc1"  # wait
)  # fmt: skip

_AARCH64 = bytes.fromhex(
    "ff4300d1"  # sub sp, sp, #16
    "00008092"  # mov x0, #-1
    "e00300f9"  # str x0, [sp]: the set of all signals
    "000080d2"  # mov x0, #0: SIG_BLOCK
    "e1030091"  # mov x1, sp
    "020080d2"  # mov x2, #0
    "030180d2"  # mov x3, #8: bytes of a set
    "e81080d2"  # mov x8, #135: rt_sigprocmask
    "010000d4"  # svc #0
    "e0030091"  # wait: mov x0, sp
    "010080d2"  # mov x1, #0
    "020080d2"  # mov x2, #0
    "030180d2"  # mov x3, #8
    "281180d2"  # mov x8, #137: rt_sigtimedwait
    "010000d4"  # svc #0
    "1f4400f1"  # cmp x0, #17: SIGCHLD
    "00010054"  # b.eq reap
    "1f4800f1"  # cmp x0, #18: SIGCONT
    "e0feff54"  # b.eq wait
    "1f0000f1"  # cmp x0, #0: interrupted
    "adfeff54"  # b.le wait
    "000080d2"  # mov x0, #0
    "c80b80d2"  # mov x8, #94: exit_group
    "010000d4"  # svc #0
    "00008092"  # reap: mov x0, #-1
    "010080d2"  # mov x1, #0
    "220080d2"  # mov x2, #1: WNOHANG
    "030080d2"  # mov x3, #0
    "882080d2"  # mov x8, #260: wait4
    "010000d4"  # svc #0
    "1f0000f1"  # cmp x0, #0
    "2cffff54"  # b.gt reap
    "e9ffff17"  # b wait
)  # fmt: skip

_CODE = {"amd64": (_EM_X86_64, _X86_64), "arm64": (_EM_AARCH64, _AARCH64)}

FALLBACK = ("sleep", "2147483647")
"""The command where we have no program for the processor."""


def program(architecture: str) -> bytes | None:
    """The program as a static executable for ``amd64`` or ``arm64``; ``None`` for any other processor."""
    if architecture not in _CODE:
        return None
    machine, code = _CODE[architecture]
    header_size, segment_size = 64, 56
    size = header_size + segment_size + len(code)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF",
        *(2, 1, 1, 0, 0),  # 64 bit, little endian, version, System V
        *(2, machine, 1),  # executable
        *(_BASE + header_size + segment_size, header_size, 0, 0),
        *(header_size, segment_size, 1, 64, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def ensure(
    engine: Engine, architecture: str, image: str, labels: Mapping[str, str], cache_dir: Path
) -> tuple[tuple[str, ...], tuple[Mount, ...]]:
    """The command that idles, and the mount that brings it in; fills the volume where it is missing.

    Args:
        image: Any image of the engine; a container of it is made, and never started, to fill the volume.
        labels: The volume's and that container's; of the kind ``cache``.
        cache_dir: Where is remembered that the volume is filled (host).

    Raises:
        UsageError: The cache folder cannot be used.
    """
    content = program(architecture)
    if content is None:
        return FALLBACK, ()
    key = hashlib.sha256(content).hexdigest()[:12]
    volume = f"pytest-envpar-idle-{architecture}-{key}"
    mount = Mount("volume", volume, FOLDER, read_only=True)
    place = hashlib.sha256((engine.info.id or engine.info.url).encode()).hexdigest()[:12]
    stamp = cache_dir / "idle" / f"{volume}-{place}"
    if not (stamp.exists() and engine.inspect_volume(volume) is not None):
        cachefolder.make(stamp.parent)
        with filelock.FileLock(f"{stamp}.lock", timeout=_LOCK_S):
            if not (stamp.exists() and engine.inspect_volume(volume) is not None):
                _fill(engine, volume, content, image, labels)
                stamp.touch()
    return (str(FOLDER / _NAME),), (mount,)


def _fill(engine: Engine, volume: str, content: bytes, image: str, labels: Mapping[str, str]) -> None:
    engine.create_volume(volume, labels=labels)
    writable = Mount("volume", volume, FOLDER)
    helper = engine.create_container(ContainerSpec(image, ("idle",), labels, mounts=(writable,)))
    try:
        # Filled by a process with another cache folder, whose containers run it: to be replaced under them it must not.
        found = engine.stat_path(helper, FOLDER / _NAME)
        if found is not None and found.size == len(content):
            return
        entry = tarstream.bytes_file(_NAME, content, 0o755)
        engine.put_archive(helper, FOLDER, tarstream.tar([entry]))
    finally:
        engine.remove_container(helper)
