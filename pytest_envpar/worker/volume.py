"""Volumes of ours that containers mount read-only: filled once, by the Python of the image that will use them."""

from __future__ import annotations

import dataclasses
import io
import secrets
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import EngineError, UsageError
from pytest_envpar.worker import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.worker.probe import Probe

_FORMAT = 1
_TIMEOUT_S = 300.0
# Any fixed date serves: unchecked bytecode does not look at it, and equal content gives equal bytes.
_MTIME = 1_577_836_800

# Runs in the container that fills the volume. Each entry appears in its place by one rename, so another
# container that mounts the volume meanwhile sees all of it or nothing, and a fill that was killed is
# repeated over its rest.
FILL = """
import compileall, json, os, py_compile, shutil, sys, time
root, incoming, key = sys.argv[1:]
done = os.path.join(root, "complete.json")
try:
    with open(done) as file:
        known = json.load(file).get("key")
except (OSError, ValueError, AttributeError):
    known = None
if known != key:
    compileall.compile_dir(incoming, maxlevels=20, ddir=root, quiet=2,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    for entry in os.listdir(incoming):
        try:
            os.rename(os.path.join(incoming, entry), os.path.join(root, entry))
        except OSError:
            # Somebody else was faster; what is in place is whole, and the volume's name says that it is the
            # same.
            if not os.path.isdir(os.path.join(root, entry)):
                raise
    beside = incoming + ".json"
    with open(beside, "w") as file:
        json.dump({"key": key, "python": sys.version.split()[0]}, file)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(beside, 0o644)
    os.rename(beside, done)
shutil.rmtree(incoming, ignore_errors=True)
for entry in os.listdir(root):
    left = os.path.join(root, entry)
    if entry.startswith(".incoming-") and os.lstat(left).st_ctime < time.time() - 3600:
        shutil.rmtree(left, ignore_errors=True)
print("filled")
"""


@dataclasses.dataclass(frozen=True)
class Filler:
    """Makes sure that volumes exist and are filled.

    Args:
        image: Whose Python makes the bytecode.
        stage: Its platform and runtime are used.
        owner: Who owns the short-lived container that fills a volume.
        cache_dir: Where stamps and locks are kept (host).
    """

    engine: Engine
    image: ImageInfo
    probe: Probe
    stage: Stage | None
    owner: Owner
    cache_dir: Path

    def ensure(self, name: str, key: str, root: PurePosixPath, tar: Callable[[str], bytes]) -> None:
        """Fill the volume if it is not there, or has other content; a warm call only inspects it.

        Args:
            key: Names the content.
            root: Where containers mount it.
            tar: Makes the content, below the folder that it is given. Only called if it is needed.

        Raises:
            UsageError: The cache folder cannot be made or written to.
            EngineError: The engine failed, or the volume could not be filled.
        """
        if self._is_filled(name, key):
            return
        # What is only needed for a volume's first filling is only imported for it.
        from filelock import FileLock

        stamp = self._stamp(name)
        lock = FileLock(stamp.with_suffix(".lock"))
        try:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise UsageError(
                f"the cache folder {self.cache_dir} cannot be used: {error}",
                hint="set XDG_CACHE_HOME to a folder that you may write to",
            ) from error
        try:
            # Another process may have done it while this one waited.
            if self._is_filled(name, key):
                return
            incoming = f".incoming-{secrets.token_hex(6)}"
            self._fill(name, key, root, root / incoming, tar(incoming))
            cache.store(stamp, _FORMAT, {"key": key})
        finally:
            lock.release()

    def _stamp(self, name: str) -> Path:
        place = cache.digest(self.engine.info.id or self.engine.info.url, name)
        return self.cache_dir / "volumes" / f"{place}.json"

    def _is_filled(self, name: str, key: str) -> bool:
        known = cache.load(self._stamp(name), _FORMAT)
        return known == {"key": key} and self.engine.inspect_volume(name) is not None

    def _fill(self, name: str, key: str, root: PurePosixPath, incoming: PurePosixPath, tar: bytes) -> None:
        from pytest_envpar.worker import oneshot

        engine, stage = self.engine, self.stage
        engine.create_volume(name, labels=self.owner.labels("cache"))
        spec = ContainerSpec(
            image=self.image.id,
            entrypoint=(str(self.probe.python),),
            # Isolated: neither the image's variables nor what lies in a folder may change how the tree is made.
            command=("-I", "-c", FILL, str(root), str(incoming), key),
            labels=MappingProxyType(self.owner.labels("probe", stage.name if stage is not None else None)),
            user="0:0",
            workdir=PurePosixPath("/"),
            network="none",
            mounts=(Mount(kind="volume", source=name, target=root),),
            platform=stage.platform if stage is not None else None,
            runtime=stage.runtime if stage is not None else None,
        )
        result = oneshot.run(
            engine,
            spec,
            timeout_s=_TIMEOUT_S,
            before_start=lambda container: engine.put_archive(container, root, tar),
        )
        if result.exit_code or result.stdout.strip() != b"filled":
            tail = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-8:]
            raise EngineError(
                f"The volume {name} could not be filled: {self.probe.python} in image {self.image.id} "
                f"ended with exit code {result.exit_code}.",
                detail=tuple(tail),
            )


def packed(files: Mapping[PurePosixPath, bytes], links: Mapping[PurePosixPath, str]) -> bytes:
    """Deterministic; everything belongs to root and is readable by all.

    It ends with its two empty blocks. Podman stops reading there and fails with "broken pipe" if the rest of a record
    comes a moment later (https://github.com/containers/buildah/issues/6573).
    """
    import tarfile

    buffer = io.BytesIO()
    folders = {parent for path in (*files, *links) for parent in path.parents if parent.name}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted({*folders, *files, *links}):
            member = tarfile.TarInfo(str(path))
            member.mtime = _MTIME
            if path in folders:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            elif path in links:
                member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, links[path]
                tar.addfile(member)
            else:
                member.mode, member.size = 0o644, len(files[path])
                tar.addfile(member, io.BytesIO(files[path]))
        end = tar.offset
    return buffer.getvalue()[: end + 2 * tarfile.BLOCKSIZE]
