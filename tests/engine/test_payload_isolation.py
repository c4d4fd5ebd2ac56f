"""A brought-in pytest works in real images, and the code under test cannot see what it needs."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import tarfile
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from rig.needs import missing

from pytest_envpar.config.model import Stage
from pytest_envpar.containers.labels import RUN, Owner
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import StageError
from pytest_envpar.worker import oneshot, payload
from pytest_envpar.worker.payload import ROOT, Payload, ensure
from pytest_envpar.worker.probe import Probe, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.engine.values.processes import ExecResult

pytestmark = pytest.mark.engine

BASES = {"bullseye": "3.9", "bookworm": "3.11", "trixie": "3.13"}
PROJECT = Path("/data/some/project")

SUITE = """
import importlib.metadata
import multiprocessing
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["pluggy", "iniconfig", "packaging", "pygments", "tomli"])
def test_not_importable(name):
    with pytest.raises(ModuleNotFoundError, match="No module named '%s'" % name):
        __import__(name)


def test_no_metadata():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pytest")


def imports_pytest():
    import pytest  # noqa: F401


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    child = multiprocessing.get_context(method).Process(target=imports_pytest)
    child.start()
    child.join()
    assert child.exitcode == 0


def test_subprocess():
    code = "import os, sys; print([k for k in os.environ if 'ENVPAR' in k or k.startswith('PYTHON')]);"
    code += "print([p for p in sys.path if 'envpar' in p]); import pytest"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout.split() == [b"[]", b"[]"]
    assert b"No module named 'pytest'" in done.stderr


def test_detail():
    left = {"x": 1, "y": [1, 2]}
    assert left == {"x": 1, "y": [1, 3]}
"""

# Stands in for the agent. The suite lies in /dev/shm: a tmpfs that every container has, also with a
# read-only root.
RUN_SUITE = """
import json, os, sys
os.makedirs("/dev/shm/suite", exist_ok=True)
with open("/dev/shm/suite/test_it.py", "w") as file:
    file.write(sys.argv[1])
sys.dont_write_bytecode = True
sys.path.append("/.envpar/agent/site")
import pytest

class Outcomes:
    def __init__(self):
        self.found = {}
    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.found[report.nodeid.split("::")[1]] = report.outcome

outcomes = Outcomes()
arguments = ["-p", "no:cacheprovider", "--color=yes", "-v", "--rootdir=/dev/shm/suite", "/dev/shm/suite"]
code = pytest.main(arguments, plugins=[outcomes])
facts = {"version": pytest.__version__, "file": pytest.__file__, "uid": os.getuid()}
print("RESULT" + json.dumps([int(code), outcomes.found, facts]))
"""

CHECK_TREE = """
import importlib.util, json, os, stat
bad = []
for folder, folders, files in os.walk("/.envpar/agent"):
    for name in folders + files:
        path = os.path.join(folder, name)
        state = os.lstat(path)
        wanted = {stat.S_IFDIR: 0o755, stat.S_IFREG: 0o644, stat.S_IFLNK: 0o777}[stat.S_IFMT(state.st_mode)]
        if stat.S_IMODE(state.st_mode) != wanted or state.st_uid or state.st_gid:
            bad.append([path, oct(state.st_mode), state.st_uid])
        if name.endswith(".py"):
            try:
                with open(importlib.util.cache_from_source(path), "rb") as file:
                    head = file.read(8)
            except FileNotFoundError:
                head = b""
            if head != importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0":
                bad.append([path, "bytecode", head.hex()])
try:
    open("/.envpar/agent/new", "w").close()
    bad.append("writable")
except OSError:
    pass
print(json.dumps([bad, sorted(os.listdir("/.envpar/agent"))]))
"""


@pytest.fixture(scope="module")
def owner(engine: Engine) -> Iterator[Owner]:
    """Owns all that these tests make, and removes it."""
    made = Owner.current(PROJECT)
    yield made
    ours = {RUN: made.run}
    assert engine.list_containers(ours) == ()
    for volume in engine.list_volumes(ours):
        engine.remove_volume(volume.name)
    for image in engine.list_images(ours):
        engine.remove_image(image.id, force=True)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def base(engine: Engine, suite: str) -> ImageInfo:
    names = (f"envpar-base:py{BASES[suite]}", f"base:{suite}")
    found = next((image for name in names if (image := engine.inspect_image(name)) is not None), None)
    if found is None:
        missing(f"the engine has no base image with Python {BASES[suite]}")
    return found


def built(engine: Engine, owner: Owner, suite: str, dockerfile: str, **files: str) -> ImageInfo:
    """An image on top of a base; ``files`` by name, with the double underscore for a dot."""
    files = {name.replace("__", "."): text for name, text in files.items()}
    name = next(iter(base(engine, suite).tags))
    files["Dockerfile"] = f"FROM {name}\n{dockerfile}\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(file)
            member.size, member.mode = len(text.encode()), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    image = engine.build([buffer.getvalue()], dockerfile="Dockerfile", tag=None, labels=owner.labels("build"))
    found = engine.inspect_image(image)
    assert found is not None
    return found


def run(
    engine: Engine,
    owner: Owner,
    image: ImageInfo,
    found: Probe,
    made: Payload,
    code: str,
    *args: str,
    **more: object,
) -> ExecResult:
    spec = ContainerSpec(
        image=image.id,
        entrypoint=(str(found.python),),
        command=("-c", code, *args),
        labels=owner.labels("run"),
        env={"TMPDIR": "/dev/shm"},
        workdir=PurePosixPath("/"),
        network="none",
        mounts=(made.mount,),
        user=str(more.get("user")) if "user" in more else None,
        read_only=bool(more.get("read_only")),
    )
    return oneshot.run(engine, spec, timeout_s=120)


def ready(
    engine: Engine, owner: Owner, image: ImageInfo, cache_dir: Path, stage: Stage | None = None
) -> tuple[Probe, Payload]:
    stage = stage or Stage("qa")
    found = probe(engine, image, stage, PROJECT, cache_dir, owner=owner)
    try:
        return found, ensure(engine, image, found, "auto", cache_dir, stage=stage, owner=owner)
    except StageError as error:
        if "with pip failed" in error.message:
            missing(f"an older pytest is needed and no package index answers: {error}")
        raise


@pytest.mark.parametrize("suite", ["bullseye", pytest.param("bookworm", marks=pytest.mark.slow), "trixie"])
@pytest.mark.parametrize("locked_down", [False, True], ids=["root", "user and read-only root"])
def test_a_suite_runs_and_sees_only_what_its_image_has(
    engine: Engine, owner: Owner, cache_dir: Path, suite: str, locked_down: bool
) -> None:
    image = base(engine, suite)
    found, made = ready(engine, owner, image, cache_dir)
    assert found.pytest_version is None
    assert f"{found.version[0]}.{found.version[1]}" == BASES[suite]
    more = {"user": "1000:1000", "read_only": True} if locked_down else {}
    result = run(engine, owner, image, found, made, RUN_SUITE, SUITE, **more)
    output, _, last = result.stdout.decode().rpartition("RESULT")
    assert output, result.stderr.decode()
    code, outcomes, facts = json.loads(last)
    failed = [name for name, outcome in outcomes.items() if outcome != "passed"]
    assert (code, failed, len(outcomes)) == (1, ["test_detail"], 11), output
    assert facts["version"] == made.pytest_version
    assert facts["file"] == "/.envpar/agent/site/pytest/__init__.py"
    assert facts["uid"] == (1000 if locked_down else 0)
    assert "Differing items:" in output
    assert "\x1b[94massert\x1b[39;49;00m" in output


@pytest.mark.parametrize("suite", list(BASES))
def test_the_volume_is_compiled_readable_and_read_only(
    engine: Engine, owner: Owner, cache_dir: Path, suite: str
) -> None:
    image = base(engine, suite)
    found, made = ready(engine, owner, image, cache_dir)
    result = run(engine, owner, image, found, made, CHECK_TREE)
    bad, entries = json.loads(result.stdout)
    assert bad == []
    assert entries == ["_envpar_agent", "complete.json", "first", "site"]


def test_an_image_with_an_older_pytest_gets_ours_in_front(
    engine: Engine, owner: Owner, cache_dir: Path
) -> None:
    image = built(
        engine,
        owner,
        "bookworm",
        "COPY pytest.py py.py /usr/lib/python3/dist-packages/\n"
        "COPY METADATA /usr/lib/python3/dist-packages/pytest-6.2.5.dist-info/METADATA",
        pytest__py="__version__ = '6.2.5'\n",
        py__py="mine = True\nclass path:\n    class local: pass\n",
        METADATA="Metadata-Version: 2.1\nName: pytest\nVersion: 6.2.5\n",
    )
    found, made = ready(engine, owner, image, cache_dir)
    assert found.pytest_version == "6.2.5"
    assert made.mode == "inject"
    assert made.first == ROOT / "first"
    code = "import sys; sys.path.insert(0, sys.argv[1]); sys.path.append(sys.argv[2]); import pytest, py; "
    code += "print(pytest.__version__, pytest.__file__, py.mine)"
    result = run(engine, owner, image, found, made, code, str(made.first), str(made.site))
    assert result.stdout, result.stderr.decode()
    assert result.stdout.decode().split() == [
        made.pytest_version,
        "/.envpar/agent/first/pytest/__init__.py",
        "True",
    ]


def test_an_image_with_its_own_pytest_gets_only_the_agent(
    engine: Engine, owner: Owner, cache_dir: Path
) -> None:
    image = built(
        engine,
        owner,
        "bookworm",
        "COPY pytest.py /usr/lib/python3/dist-packages/",
        pytest__py="__version__ = '8.1'\n",
    )
    found, made = ready(engine, owner, image, cache_dir)
    assert (made.mode, made.pytest_version, made.site) == ("image", "8.1", None)
    result = run(engine, owner, image, found, made, "import os; print(sorted(os.listdir('/.envpar/agent')))")
    assert result.stdout == b"['_envpar_agent', 'complete.json']\n"


def test_many_at_once_fill_one_volume_once(engine: Engine, owner: Owner, tmp_path: Path) -> None:
    image = base(engine, "bookworm")
    found = probe(engine, image, Stage("qa"), PROJECT, tmp_path, owner=owner)
    told: list[str] = []
    made: list[Payload] = []

    def work() -> None:
        made.append(ensure(engine, image, found, "inject", tmp_path, told.append, owner=owner))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(str, made))) == 1
    assert len(made) == 4
    assert told == [f"preparing pytest {made[0].pytest_version} for Python 3.11 (once)"]


def test_several_caches_fill_one_volume(
    engine: Engine, owner: Owner, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = base(engine, "bookworm")
    found, _ = ready(engine, owner, image, cache_dir)
    monkeypatch.setattr(payload, "VOLUME_PREFIX", f"pytest-envpar-agent-{secrets.token_hex(4)}-")
    begin = threading.Barrier(3)
    made: list[Payload] = []

    def work(number: int) -> None:
        # Each knows how to make the content and nothing of a volume, as a user's second cache folder does.
        shutil.copytree(cache_dir / "trees", tmp_path / str(number) / "trees")
        begin.wait()
        made.append(ensure(engine, image, found, "inject", tmp_path / str(number), owner=owner))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len({each.volume for each in made}) == 1
    bad, entries = json.loads(run(engine, owner, image, found, made[0], CHECK_TREE).stdout)
    assert (bad, entries) == ([], ["_envpar_agent", "complete.json", "first", "site"])


def test_probe_of_a_virtual_environment_and_a_user(engine: Engine, owner: Owner, cache_dir: Path) -> None:
    image = built(
        engine,
        owner,
        "bookworm",
        "RUN python3 -m venv --without-pip /srv/venv && mkdir -p /data/some/project/sub /secret/in"
        " && chmod 700 /secret && useradd --uid 4321 --create-home app\n"
        'ENV VIRTUAL_ENV=/srv/venv\nUSER app\nENTRYPOINT ["/bin/false"]',
    )
    found, made = ready(engine, owner, image, cache_dir)
    assert found.python == PurePosixPath("/srv/venv/bin/python")
    assert found.prefix == PurePosixPath("/srv/venv")
    assert (found.uid, found.home) == (4321, PurePosixPath("/home/app"))
    assert (found.project_path_state, found.project_reachable) == ("nonempty", True)
    hidden = probe(engine, image, Stage("qa"), Path("/secret/in/project"), cache_dir, owner=owner)
    assert not hidden.project_reachable
    as_root = probe(engine, image, Stage("qa", user="0"), Path("/secret/in"), cache_dir, owner=owner)
    assert (as_root.uid, as_root.project_path_state, as_root.project_reachable) == (0, "empty", True)
    result = run(engine, owner, image, found, made, RUN_SUITE, SUITE)
    assert b"1 failed" in result.stdout


def test_probe_of_an_image_whose_python_is_too_old(engine: Engine, owner: Owner, cache_dir: Path) -> None:
    # A real interpreter that gives its age as 3.7: base images have none that old.
    older = (
        "import sys; text = sys.argv[2]; sys.argv = sys.argv[2:]; sys.version_info = (3, 7, 1); exec(text)"
    )
    image = built(
        engine,
        owner,
        "bookworm",
        "COPY old /usr/local/bin/python3.7\nRUN ln -sf /usr/local/bin/python3.7 /usr/bin/python3",
        old=f"#!/bin/sh\nexec /usr/bin/python3.11 -c '{older}' \"$@\"\n",
    )
    with pytest.raises(StageError, match=r"Python of image sha256:\w+ is 3\.7\.1"):
        probe(engine, image, Stage("qa"), PROJECT, cache_dir, owner=owner)


def test_probe_of_an_image_without_python(engine: Engine, owner: Owner, cache_dir: Path) -> None:
    image = built(engine, owner, "bookworm", "RUN rm -f /usr/bin/python3* /usr/local/bin/python*")
    with pytest.raises(StageError) as caught:
        probe(engine, image, Stage("qa"), PROJECT, cache_dir, owner=owner)
    assert "has no usable Python" in caught.value.message
    assert "python3: not found" in caught.value.detail
    assert "/opt/conda/bin/python: not found" in caught.value.detail


def test_probe_with_a_configured_python_that_is_not_there(
    engine: Engine, owner: Owner, cache_dir: Path
) -> None:
    with pytest.raises(StageError, match=r'stages\.qa\] python = "/nowhere/python" is not usable'):
        probe(
            engine,
            base(engine, "trixie"),
            Stage("qa", python="/nowhere/python"),
            PROJECT,
            cache_dir,
            owner=owner,
        )
