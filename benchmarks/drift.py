"""Measure what it costs to know how two file systems differ, beside other tools, and what each of them finds.

    python benchmarks/drift.py [--rounds N] [--entries N] [--markdown FILE]

Needs a Docker Engine that has an image of `fixtures/setup_engine.py`; reading layers as folders also needs root. One
pair of images is planted: the second has one more layer, in which something of every kind differs. All ways take turns
in the same process on the same pair; the median of each is told. Tools that are not installed are left out; in Debian
they are the packages `diffutils`, `mtree-netbsd`, `diffoscope-minimal`, and `umoci` with `skopeo`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytest_envpar.containers.labels import Owner
from pytest_envpar.drift import manifest
from pytest_envpar.drift.compare import compare_records
from pytest_envpar.drift.folder import folder_manifest
from pytest_envpar.drift.produce import MemoryStore
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.sides import container_side, image_side
from pytest_envpar.engine.select import select_engine
from pytest_envpar.engine.values.create import ContainerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_envpar.drift.records import Record
    from pytest_envpar.drift.routes import Force
    from pytest_envpar.engine.api import Engine

IMAGES = ("envpar-base:py3.11", "envpar-base:py3.13", "envpar-base:py3.9")

PLANT = """
import os, shutil
def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
os.makedirs("/opt/plant/gone")
for name in ("content", "same-size", "mode", "owner", "cap", "a", "b", "lone", "gone/file"):
    put("/opt/plant/" + name, b"before")
os.utime("/opt/plant/same-size", (5, 5))
os.symlink("a", "/opt/plant/link")
os.link("/opt/plant/a", "/opt/plant/hard")
os.mkfifo("/opt/plant/fifo")
os.mknod("/opt/plant/device", 0o600 | 0o020000, os.makedev(1, 3))
"""
CHANGE = """
import os, shutil, struct
def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
put("/opt/plant/content", b"after all")
put("/opt/plant/same-size", b"AFTER!")
os.utime("/opt/plant/same-size", (5, 5))
os.chmod("/opt/plant/mode", 0o4755)
os.chown("/opt/plant/owner", 7, 7)
os.setxattr("/opt/plant/cap", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
os.unlink("/opt/plant/link"); os.symlink("b", "/opt/plant/link")
os.unlink("/opt/plant/hard"); put("/opt/plant/hard", b"before"); os.chmod("/opt/plant/hard", 0o644)
os.utime("/opt/plant/hard", ns=(os.stat("/opt/plant/a").st_mtime_ns,) * 2)
os.unlink("/opt/plant/device"); os.mknod("/opt/plant/device", 0o600 | 0o020000, os.makedev(1, 5))
os.chmod("/opt/plant/fifo", 0o600)
shutil.rmtree("/opt/plant/gone")
put("/opt/plant/added", b"new")
"""
PLANTED = (
    "added",
    "cap",
    "content",
    "device",
    "fifo",
    "gone/file",
    "hard",
    "link",
    "mode",
    "owner",
    "same-size",
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images, the containers they were made of, and a folder for what tools need."""

    engine: Engine
    left: str
    right: str
    before: str
    after: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to know: what it does, which of the planted paths it told, and how many others beside."""

    name: str
    run: Callable[[], set[str]]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--entries", type=int, default=1_000_000, help="of the comparison whose memory is measured"
    )
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(select_engine(("auto",), os.environ)))
        pair = stack.enter_context(planted(engine))
        lines = table(ways(pair), options.rounds)
    lines += ["", *memory(options.entries)]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


@contextlib.contextmanager
def planted(engine: Engine) -> Iterator[Pair]:
    """The pair; removed afterwards."""
    base = next(name for name in IMAGES if engine.inspect_image(name) is not None)
    labels = Owner.current(Path.cwd()).labels("build")
    containers: list[str] = []
    images: list[str] = []
    name = f"envpar-bench-drift-{secrets.token_hex(4)}"
    folder = Path(tempfile.mkdtemp(prefix="envpar-bench-"))
    try:
        image = base
        for step, program in (("left", PLANT), ("right", CHANGE)):
            spec = ContainerSpec(
                image=image, command=("sleep", "3600"), labels=labels, network="none", user="0"
            )
            containers.append(engine.create_container(spec))
            engine.start(containers[-1])
            done = engine.exec(containers[-1], ["python3", "-c", program])
            if done.exit_code:
                raise SystemExit(done.stderr.decode())
            image = engine.commit(containers[-1], f"{name}:{step}", labels=labels)
            images.append(image)
        yield Pair(engine, images[0], images[1], containers[0], containers[1], folder)
    finally:
        for container in containers:
            engine.remove_container(container)
        for image in reversed(images):
            engine.remove_image(image, force=True)
        shutil.rmtree(folder)


def ways(pair: Pair) -> list[Way]:
    """Ours, then what else one could do."""
    warm, afar = MemoryStore(), MemoryStore()
    ours(pair, warm)
    ours_elsewhere(pair, afar)
    found = [
        Way("two inspects through the API", lambda: inspects(pair)),
        Way("envpar, by layers, known before", lambda: ours(pair, warm)),
        Way("envpar, by layers, nothing known", lambda: ours(pair)),
        Way("  one stat + sha256 pass over the differing layer", lambda: one_pass(pair)),
        Way("envpar, reading a whole layer as a folder", lambda: whole_layer(pair)),
        Way("  one stat + sha256 pass over that layer", lambda: one_pass(pair, 0)),
        Way("envpar, a container and its image elsewhere, known before", lambda: ours_elsewhere(pair, afar)),
        Way("envpar, scanning two containers that run", lambda: ours(pair, force="scan", containers=True)),
        Way("  two exec stat scans beside each other", lambda: stat_scans(pair)),
        Way("envpar, scanning two images", lambda: ours(pair, force="scan")),
        Way("envpar, by exports", lambda: ours(pair, force="export")),
        Way("docker diff (container against its image)", lambda: engine_changes(pair)),
        Way("docker export x 2 + tarfile + sha256", lambda: exports(pair)),
    ]
    if shutil.which("diff"):
        found.append(Way("docker export x 2, unpacked, diff -rq", lambda: unpacked(pair)))
    if shutil.which("mtree"):
        found.append(Way("docker export x 2, unpacked, mtree", lambda: mtree(pair)))
    if shutil.which("diffoscope"):
        found.append(Way("docker export x 2 + diffoscope", lambda: diffoscope(pair)))
    if shutil.which("umoci") and shutil.which("skopeo"):
        found.append(Way("skopeo + umoci unpack x 2, the manifests of gomtree", lambda: umoci(pair)))
    return found


def table(found: list[Way], rounds: int) -> list[str]:
    """A row for each way."""
    times: dict[str, list[float]] = {way.name: [] for way in found}
    told: dict[str, set[str]] = {}
    for number in range(rounds):
        for way in found:
            if number and statistics.median(times[way.name]) > 60:
                continue
            began = time.perf_counter()
            told[way.name] = way.run()
            times[way.name].append(time.perf_counter() - began)
            sys.stderr.write(f"{way.name}: {times[way.name][-1]:.3f} s\n")
    lines = ["| way | median | finds | misses | says besides |", "|---|---|---|---|---|"]
    for way in found:
        paths = told[way.name]
        wanted = {f"/opt/plant/{name}" for name in PLANTED}
        missed = sorted(path.removeprefix("/opt/plant/") for path in wanted - paths)
        beside = len({path for path in paths - wanted if path not in ("/opt/plant/a", "/opt/plant/gone")})
        what = f"{len(wanted & paths)} of {len(wanted)} | {', '.join(missed) or '-'} | {beside}"
        if not paths:
            what = "- | - | -"
        lines.append(f"| {way.name} | {statistics.median(times[way.name]):.3f} s | {what} |")
    return lines


def ours(
    pair: Pair, store: MemoryStore | None = None, *, force: Force | None = None, containers: bool = False
) -> set[str]:
    if containers:
        left, right = container_side(pair.engine, pair.before), container_side(pair.engine, pair.after)
    else:
        left, right = image_side(pair.engine, pair.left), image_side(pair.engine, pair.right)
    return {change.path for change in compare_sides(left, right, store, force=force).changes}


def inspects(pair: Pair) -> set[str]:
    for image in (pair.left, pair.right):
        pair.engine.inspect_image(image)
    return set()


def one_pass(pair: Pair, layer: int = -1) -> set[str]:
    folders = pair.engine.image_folders(pair.right)
    if folders is not None:
        _hashed(folders[layer])
    return set()


def whole_layer(pair: Pair) -> set[str]:
    folders = pair.engine.image_folders(pair.right)
    if folders is not None:
        folder_manifest(folders[0], layer=True)
    return set()


class Elsewhere:
    """An engine whose files cannot be read from here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return (lambda _: None) if name.endswith("_folders") else getattr(self._engine, name)


def ours_elsewhere(pair: Pair, store: MemoryStore) -> set[str]:
    engine = cast("Engine", Elsewhere(pair.engine))
    left, right = image_side(engine, pair.left), container_side(engine, pair.after)
    return {change.path for change in compare_sides(left, right, store).changes}


def _hashed(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if path.lstat().st_mode >> 12 == 8:
                hashlib.sha256(path.read_bytes()).hexdigest()


STAT_SCAN = (
    "import os\nfor a, b, c in os.walk('/'):\n for n in b + c:\n  print(a, n, os.lstat(os.path.join(a, n)))\n"
)


def stat_scans(pair: Pair) -> set[str]:
    def one(container: str) -> None:
        program = STAT_SCAN.replace(
            "in os.walk('/'):", "in os.walk('/'):\n b[:] = [n for n in b if n not in ('proc', 'sys', 'dev')]"
        )
        pair.engine.exec(container, ["python3", "-S", "-c", program])

    threads = [threading.Thread(target=one, args=(container,)) for container in (pair.before, pair.after)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return set()


def engine_changes(pair: Pair) -> set[str]:
    return {str(change.path) for change in pair.engine.changes(pair.after)}


def exported(pair: Pair) -> list[Path]:
    files = []
    for name, container in (("left", pair.before), ("right", pair.after)):
        file = pair.folder / f"{name}.tar"
        with file.open("wb") as opened:
            opened.writelines(pair.engine.export(container))
        files.append(file)
    return files


def exports(pair: Pair) -> set[str]:
    sides = []
    for file in exported(pair):
        side = {}
        with tarfile.open(file) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                digest = hashlib.sha256(content.read()).hexdigest() if content is not None else ""
                place = (member.devmajor, member.devminor) if member.isdev() else ()
                side["/" + member.name] = (
                    *(member.type, member.mode, member.uid, member.gid, member.linkname, digest, place),
                    member.pax_headers.get("SCHILY.xattr.security.capability"),
                )
        sides.append(side)
    left, right = sides
    return {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}


def mtree(pair: Pair) -> set[str]:
    """NetBSD's, from which gomtree has its format."""
    folders = _unpacked(pair)
    words = "type,mode,uid,gid,size,sha256,link,nlink,device"
    listed = subprocess.run(
        ["mtree", "-c", "-k", words, "-p", str(folders[0])], check=True, capture_output=True, timeout=600
    )
    done = subprocess.run(
        ["mtree", "-p", str(folders[1])], input=listed.stdout, check=False, capture_output=True, timeout=600
    )
    found = set()
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line and not line[0].isspace():
            name = line.removeprefix("missing: ").removeprefix("extra: ").strip().rstrip(":")
            found.add("/" + name.removeprefix("./"))
    return found


def unpacked(pair: Pair) -> set[str]:
    folders = _unpacked(pair)
    # Without --no-dereference links are followed out of the tree.
    done = subprocess.run(
        ["diff", "-rq", "--no-dereference", *map(str, folders)], check=False, capture_output=True, timeout=600
    )
    return _named(done.stdout.decode("utf-8", "replace"), folders)


def _unpacked(pair: Pair) -> list[Path]:
    folders = []
    for file in exported(pair):
        folder = pair.folder / file.stem
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        subprocess.run(["tar", "-C", str(folder), "-xf", str(file)], check=False, capture_output=True)
        folders.append(folder)
    return folders


def _named(text: str, folders: list[Path]) -> set[str]:
    """Paths of lines such as ``Files A and B differ`` and ``Only in A/x: y``."""
    found = set()
    for line in text.splitlines():
        words = line.split()
        if line.startswith("Only in "):
            folder, _, name = line.removeprefix("Only in ").partition(": ")
            line = f"{folder}/{name}"  # noqa: PLW2901
            words = [line]
        for word in words:
            for folder_ in folders:
                if word.startswith(f"{folder_}/"):
                    found.add(word.removeprefix(str(folder_)))
    # `diff` names a directory that is gone, and not what was in it.
    return found | ({"/opt/plant/gone/file"} if "/opt/plant/gone" in found else set())


def diffoscope(pair: Pair) -> set[str]:
    files = exported(pair)
    done = subprocess.run(
        ["diffoscope", "--text", "-", "--exclude-directory-metadata", "yes", *map(str, files)],
        check=False,
        capture_output=True,
        timeout=1800,
    )
    # What stands in its listings as a line that is only on one side, and files that it opened.
    lines = [line.lstrip("│ ") for line in done.stdout.decode("utf-8", "replace").splitlines()]
    text = "\n".join(line for line in lines if line[:1] in ("+", "-", "├"))
    return {f"/opt/plant/{name}" for name in PLANTED if f"opt/plant/{name}" in text}


def umoci(pair: Pair) -> set[str]:
    """Both from OCI layouts; what is unpacked is described in the form of gomtree, by the library behind it."""
    layout = pair.folder / "layout"
    sides = []
    for name, image in (("left", pair.left), ("right", pair.right)):
        bundle = pair.folder / f"bundle-{name}"
        shutil.rmtree(bundle, ignore_errors=True)
        for command in (
            ["skopeo", "copy", "-q", f"docker-daemon:{image}", f"oci:{layout}:{name}"],
            ["umoci", "unpack", "--image", f"{layout}:{name}", str(bundle)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        sides.append(_mtree_entries(next(bundle.glob("*.mtree"))))
    shutil.rmtree(layout)
    left, right = sides
    return {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}


def _mtree_entries(manifest: Path) -> dict[str, dict[str, str]]:
    """Keywords by path, without times, and of folders without sizes and numbers of links."""
    found: dict[str, dict[str, str]] = {}
    common: dict[str, str] = {}
    folder = ""
    for line in manifest.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        name, *words = line.split() or [""]
        told = dict(word.partition("=")[::2] for word in words)
        if name == "#" and len(words) == 1:
            folder = words[0].removeprefix(".")
        elif name == "/set":
            common = told
        elif name and name != ".." and name[0] != "#":
            told = {**common, **told}
            told.pop("tar_time", None)
            if told["type"] == "dir":
                told = {key: value for key, value in told.items() if key not in ("size", "nlink")}
                found[f"/{folder}"] = told
            else:
                found[f"{f'/{folder}' if folder else ''}/{name}"] = told
    return found


def memory(entries: int) -> list[str]:
    """Peak memory of a comparison of two trees of so many entries, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(entries)], check=True, capture_output=True, text=True
    )
    return [done.stdout.strip()]


def _memory(entries: int) -> None:
    def generate(salt: str) -> Iterator[Record]:
        yield ("/", "d755", "0:0", "", "", "", "", "0")
        for folder in range(entries // 1000):
            where = f"/srv/{folder:06}"
            yield (where, "d755", "0:0", "", "", "", "", "0")
            for number in range(999):
                path = f"{where}/a-file-with-a-name-{number:04}.py"
                digest = hashlib.sha256(f"{salt if number == 500 else ''}{path}".encode()).hexdigest()
                yield (path, "f644", "0:0", "1234", digest, "", "", "1700000000123456789")

    began = time.perf_counter()
    left, right = (manifest.write(generate(salt)) for salt in ("", "x"))
    written = time.perf_counter() - began
    began = time.perf_counter()
    count = sum(1 for _ in compare_records(left.records(), right.records()))
    taken = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"Two trees of {left.count:,} entries, {count:,} of which differ: {peak:.0f} MB at most (budget 200), "
        f"written in {written:.1f} s ({left.size_bytes / 1e6:.0f} MB each), compared in {taken:.1f} s.\n"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _memory(int(sys.argv[2]))
    else:
        sys.exit(main())
