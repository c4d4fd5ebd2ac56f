"""Files and folders on their way between this container and another one, as tar files without a name."""

import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, List, Optional, Tuple

from .calls import PIECE

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors


def pack(source: Path, spool: IO[bytes]) -> None:
    """Write a file or folder as ``copy`` and below; links stay links, sockets and devices stay here."""
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(str(source), "copy", filter=_plain)


def _plain(member: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
    """Files, folders and links; nobody's name."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uname = member.gname = ""
    return member


def _below(place: Path, parts: List[str]) -> Path:
    """The path, which no link on the way may bend."""
    for part in parts:
        if place.is_symlink():
            raise errors.UsageError(
                "copy_out: %s is a symbolic link" % place, hint="copy to a folder of its own"
            )
        place /= part
    return place


def unpack(spool: IO[bytes], place: Path) -> None:
    """Write what the host has taken apart and put together again: its names are safe."""
    folders: List[Tuple[Path, int]] = []
    with tarfile.open(fileobj=spool, mode="r|") as archive:
        for member in archive:
            below = [part for part in member.name.split("/") if part][1:]
            target = _below(place, below)
            if member.isdir():
                target.mkdir(parents=not below, exist_ok=True)
                folders.append((target, member.mode))
                continue
            if target.is_symlink() or target.is_file():
                target.unlink()
            if member.issym():
                target.symlink_to(member.linkname)
            else:
                file = archive.extractfile(member)
                assert file is not None
                with target.open("wb") as out:
                    for piece in iter(lambda: file.read(PIECE), b""):  # noqa: B023 - read at once
                        out.write(piece)
                target.chmod(member.mode)
    for folder, mode in reversed(folders):
        folder.chmod(mode)
