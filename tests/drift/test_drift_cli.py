"""``envpar diff`` on real images: what it says, how it ends, and what it can be asked to compare."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest
from rig.engines import DOCKER
from rig.needs import missing

from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.sides import image_side
from pytest_envpar.reports import drift_json

from .projects import Project, deb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def images(build: Callable[..., str]) -> dict[str, str]:
    """``dev`` and ``qa`` differ by the version of a package, a configuration file, a variable and a folder; ``bad`` is
    dev with a file of the package patched."""
    dev = [deb("greet", "1.0", a="one", b="same"), "ENV APP_ENV=dev"]
    return {
        "dev": build("dev", *dev),
        "qa": build(
            "qa",
            deb("greet", "1.1", a="two", b="same", c="new"),
            "ENV APP_ENV=qa",
            "RUN echo 'level = 2' > /etc/greet.conf && mkdir -p /opt/data && touch /opt/data/x /opt/data/y",
        ),
        "bad": build("bad", *dev, "RUN printf patched > /usr/lib/greet/a"),
    }


@pytest.fixture(scope="module")
def podman_base(environ: dict[str, str]) -> tuple[str, str]:
    """Two base images that Podman has."""
    found = (
        subprocess.run(
            ["podman", "images", "--format", "{{.Repository}}:{{.Tag}}"],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        ).stdout.split()
        if shutil.which("podman")
        else []
    )
    names = [f"envpar-base:py3.{minor}" for minor in (13, 11)]
    if not all(any(each.endswith(f"/{name}") for each in found) for name in names):
        missing("Podman does not have the base images; run fixtures/setup_engine.py --podman")
    return names[0], names[1]


@pytest.fixture
def stages(project: Project, images: dict[str, str]) -> Project:
    """A project with these images as stages."""
    project.stages(**images)
    return project


def test_a_package_is_one_line(stages: Project) -> None:
    done = stages.envpar("diff", "dev", "qa").exits(1)
    lines = done.out.splitlines()
    assert lines[0].startswith("dev -> qa: 6 findings: 1 package, 2 config, 3 file; ")
    assert "  package  greet 1.0 -> 1.1 (dpkg, 4 files)" in lines
    assert '  config   env.APP_ENV: "dev" -> "qa"' in lines
    step = "from RUN echo 'level = 2' > /etc/greet.conf && mkdir -p /opt/dat…"
    assert f"  config   + /etc/greet.conf, {step}" in lines
    assert f"  file     + /opt/data/ (2 entries), {step}" in lines


def test_the_instruction_that_a_path_is_from(stages: Project) -> None:
    told: dict[str, Any] = json.loads(stages.envpar("diff", "dev", "qa", "--format", "json").exits(1).out)
    made_by = {each["path"]: each["instruction"] for each in told["changes"]}
    assert made_by["/opt/data/x"].startswith("RUN echo 'level = 2' > /etc/greet.conf")
    assert made_by["/usr/lib/greet/a"] is None


def test_details_on_demand(stages: Project) -> None:
    done = stages.envpar("diff", "dev", "qa", "-v", "--show-hidden", "--explain").exits(1, "  route: layers")
    assert "           ~ /usr/lib/greet/a (content)" in done.out
    assert "           /var/log/dpkg.log" in done.out


def test_json_is_as_published(stages: Project) -> None:
    try:
        import jsonschema
    except ImportError:
        missing("jsonschema is not installed")
        raise
    told: dict[str, Any] = json.loads(stages.envpar("diff", "dev", "qa", "--format", "json").exits(1).out)
    jsonschema.validate(told, drift_json.schema())
    assert [(each["name"], each["before"], each["after"], each["files"]) for each in told["packages"]] == [
        ("greet", "1.0", "1.1", 4)
    ]
    owners = {each["path"]: each["package"] for each in told["changes"]}
    assert owners["/usr/lib/greet/c"] == "dpkg:greet"
    assert owners["/opt/data/x"] is None


@pytest.mark.parametrize(("level", "code"), [("runtime", 0), ("package", 1), ("none", 0), ("any", 1)])
def test_fail_on_decides_the_exit_code(stages: Project, level: str, code: int) -> None:
    stages.envpar("diff", "dev", "qa", "--fail-on", level).exits(code)


def test_a_patched_file_is_named(stages: Project) -> None:
    done = stages.envpar("diff", "dev", "bad").exits(1)
    assert "greet 1.0 (dpkg, 1 file), not as the package shipped it: /usr/lib/greet/a" in done.out


def test_reports_go_to_a_file(stages: Project) -> None:
    done = stages.envpar("diff", "dev", "qa", "--format", "markdown", "--output", "drift.md").exits(1)
    assert done.out == ""
    assert (stages.root / "drift.md").read_text().startswith("### Drift: dev → qa\n")
    stages.envpar("diff", "dev", "qa", "--format", "sarif", "--output", "drift.sarif").exits(1)
    assert json.loads((stages.root / "drift.sarif").read_text())["version"] == "2.1.0"
    stages.envpar("diff", "dev", "qa", "--output", "no/such/folder").exits(2, "cannot be written")


def test_a_limit(stages: Project) -> None:
    stages.envpar("diff", "dev", "qa", "--limit", "1").exits(1, "… and 3 more; --limit shows them")


def test_the_same_image_is_equal(stages: Project, images: dict[str, str]) -> None:
    done = stages.envpar("diff", "dev", f"image:{images['dev']}", "--explain").exits(0, "no differences")
    assert "route: same-image" in done.out


def test_ignored_and_allowed_drift(stages: Project, images: dict[str, str]) -> None:
    stages.stages(
        """
        [drift]
        ignore = [{ path = "/opt/**", reason = "data" }, { path = "/etc/greet.conf", reason = "theirs" }]
        allow  = [{ package = "greet", reason = "rolled out", until = 2999-01-01 }]
        """,
        **images,
    )
    done = stages.envpar("diff", "dev", "qa").exits(1, "1 finding: 1 config")
    assert "hidden: 1, allowed: rolled out" in done.out
    assert "ignored: data" in done.out


def test_an_expired_allowance(stages: Project, images: dict[str, str]) -> None:
    stages.stages('[drift]\nallow = [{ package = "greet", reason = "old", until = 2020-01-01 }]', **images)
    stages.envpar("diff", "dev", "qa").exits(
        1, "greet 1.0 -> 1.1", "allowance for greet (old) ended on 2020-01-01"
    )


NOISY = (
    deb("greet", "1.0", a="one"),
    "RUN useradd -m worker && ldconfig && python3 -m compileall -q /usr/lib/python3.11/json",
    "RUN date +%s%N > /var/log/apt/x.log 2>/dev/null || (mkdir -p /var/log/apt && date +%s%N > /var/log/apt/x.log)",
    "RUN cat /proc/sys/kernel/random/uuid > /etc/machine-id && date +%s%N > /var/cache/apt/pkgcache.bin",
    "RUN printf '#!/bin/sh\\n' > /usr/local/bin/hello && chmod 755 /usr/local/bin/hello",
)


def test_two_builds_of_one_dockerfile(project: Project, build: Callable[..., str], engine: Engine) -> None:
    one, two = build("one", *NOISY), build("two", *NOISY)
    project.stages(one=one, two=two)
    project.envpar("diff", "one", "two").exits(0, "one -> two: no differences; ")
    done = project.envpar("diff", "one", "two", "--no-presets", "--format", "json").exits(1)
    told: dict[str, Any] = json.loads(done.out)
    paths = {each["path"] for each in told["changes"]}
    assert {
        "/etc/machine-id",
        "/var/log/apt/x.log",
        "/var/cache/apt/pkgcache.bin",
        "/usr/local/bin/hello",
    } <= paths
    assert told["hidden"] == []
    # Whatever differs, times as well.
    whole = compare_sides(image_side(engine, one), image_side(engine, two), mtime=True)
    assert paths == {change.path for change in whole.changes}
    only = project.envpar("diff", "one", "two", "--no-presets=machine-id").exits(1)
    assert "config   ~ /etc/machine-id" in only.out


def test_containers_files_and_locked_stages(stages: Project, images: dict[str, str], tmp_path: Path) -> None:
    docker = ["docker", "-H", DOCKER]
    name = f"envpar-drift-cli-{tmp_path.parent.name}-{tmp_path.name}"[:60].replace("_", "-")
    run = [
        *docker,
        "run",
        "--name",
        name,
        "--network",
        "none",
        images["dev"],
        "sh",
        "-c",
        "echo x > /etc/left",
    ]
    subprocess.run(run, check=True, capture_output=True)
    try:
        stages.envpar("diff", "dev", f"container:{name}").exits(1, "  config   + /etc/left")
        export = tmp_path / "export.tar"
        subprocess.run([*docker, "export", "-o", str(export), name], check=True, capture_output=True)
    finally:
        subprocess.run([*docker, "rm", "-f", name], check=False, capture_output=True)
    save = tmp_path / "save.tar"
    subprocess.run([*docker, "save", "-o", str(save), images["qa"]], check=True, capture_output=True)
    done = stages.envpar("diff", "dev", str(save)).exits(1, "greet 1.0 -> 1.1 (dpkg, 4 files)")
    assert "+ /etc/greet.conf" in done.out
    stages.envpar("diff", str(export), "qa").exits(1, "greet 1.0 -> 1.1 (dpkg, 4 files)")
    stages.envpar("diff", "lock:qa", "qa").exits(2, "stage qa is not in", "[lock]")
    stages.envpar("lock").exits(0)
    stages.envpar("diff", "lock:qa", "qa").exits(0, "no differences")


class Blind:
    """An engine whose layers are no folders of this machine, as one elsewhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        if name in ("layer_folders", "image_folders"):
            return lambda _: None
        return getattr(self._engine, name)


def test_every_way_to_look_gives_the_same_answer(engine: Engine, images: dict[str, str]) -> None:
    from pytest_envpar.drift import fingerprint, looking
    from pytest_envpar.drift.assess import assess
    from pytest_envpar.drift.packages import own_formats
    from pytest_envpar.drift.policy import Policy
    from pytest_envpar.drift.produce import MemoryStore

    sides = [image_side(engine, images[name], name=name) for name in ("qa", "bad")]
    compared = compare_sides(sides[0], sides[1])
    policy = Policy(dt.date(2026, 1, 1))

    def is_record(path: str) -> object | None:
        return next((name for each in own_formats() if (name := each.records(path)) is not None), None)

    wanted = looking.kept_of((change.path for change in compared.changes), is_record)
    answers = []
    for looked_by in (engine, Blind(engine)):
        with contextlib.ExitStack() as resources:
            trees = [
                looking.tree_of(
                    dataclasses.replace(side, engine=cast("Engine", looked_by)), wanted, resources, {}
                )
                for side in sides
            ]
            answers.append(assess(compared, trees[0], trees[1], policy))
    marks = {
        fingerprint.of_side(sides[0], MemoryStore(), {}, force=way) for way in ("layers", "scan", "export")
    }
    assert len(marks) == 1
    assert marks != {None, fingerprint.of_side(sides[1], MemoryStore(), {})}
    assert answers[0].packages[0].change.tampered == ("/usr/lib/greet/a",)
    assert answers[0] == answers[1]


def test_folders_that_the_engine_makes_are_in_no_fingerprint(
    engine: Engine, build: Callable[..., str]
) -> None:
    from pytest_envpar.drift import fingerprint
    from pytest_envpar.drift.produce import MemoryStore

    # Without /etc, which Docker makes in every container: also in the one that is exported.
    side = image_side(
        engine, build("bare", "FROM scratch", "COPY --from=0 /etc/debian_version /app/f"), name="bare"
    )
    by_layers, by_export = (
        fingerprint.of_side(side, MemoryStore(), {}, force=way) for way in ("layers", "export")
    )
    assert by_layers == by_export
    assert by_layers is not None


def test_podman(project: Project, podman_base: tuple[str, str]) -> None:
    one, other = podman_base
    done = project.envpar("diff", one, other, "--engine", "podman", "--format", "json").exits(1)
    told: dict[str, Any] = json.loads(done.out)
    names = {each["name"]: each for each in told["packages"]}
    assert names["libc6"]["level"] == "runtime"
    assert names["libc6"]["files"] > 10


def test_files_of_podman(project: Project, environ: dict[str, str], tmp_path: Path) -> None:
    if not shutil.which("podman"):
        missing("podman is not installed")

    def podman(*args: str) -> str:
        done = subprocess.run(["podman", *args], capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    names = [f"localhost/envpar-drift-test-{tmp_path.name.lower()}:{number}" for number in (1, 2)]
    folder = tmp_path / "context"
    folder.mkdir()
    made: list[str] = []
    try:
        for number, name in enumerate(names):
            (folder / "file").write_text(f"{number}\n")
            (folder / "Dockerfile").write_text(f"FROM scratch\nCOPY file /etc/file\nENV NUMBER={number}\n")
            podman("build", "-q", "--no-cache", "-t", name, str(folder))
            made.append(name)
            for form in ("oci-archive", "oci-dir", "docker-archive"):
                podman("save", "-q", "--format", form, "-o", str(project.root / f"{form}-{number}"), name)
            container = podman("create", name, "true")
            podman("export", "-o", str(project.root / f"export-{number}"), container)
            podman("rm", container)
    finally:
        for name in made:
            podman("rmi", "-f", name)
    for one, other in (
        ("oci-archive", "oci-archive"),
        ("oci-dir", "docker-archive"),
        ("export", "export"),
        ("docker-archive", "export"),
    ):
        done = project.envpar("diff", f"file:{one}-0", f"{other}-1", "--explain").exits(1, "route: archive")
        assert "  config   ~ /etc/file (content)" in done.out
        assert ('env.NUMBER: "0" -> "1"' in done.out) is ("export" not in (one, other))
    project.envpar("diff", "oci-archive-0", "docker-archive-0").exits(0, "no differences")


_PIP = """
import base64, glob, hashlib, os, subprocess, sys, zipfile
def wheel(path, name, version, files):
    info = f"{name}-{version}.dist-info"
    files = {**files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    def digest(text):
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    rows = [f"{each},sha256={digest(text)},{len(text)}" for each, text in files.items()]
    with zipfile.ZipFile(path, "w") as made:
        for each, text in files.items():
            made.writestr(each, text)
        made.writestr(f"{info}/RECORD", "\\n".join([*rows, f"{info}/RECORD,,", ""]))
"""
_BACKEND = """
def get_requires_for_build_editable(settings=None):
    return []
def build_editable(folder, settings=None, metadata=None):
    name = "mine-2.0-py3-none-any.whl"
    wheel(folder + "/" + name, "mine", "2.0", {"mine.pth": "/src\\n"})
    return name
"""
_INSTALL = """
wheel("/tmp/tool-1.0-py3-none-any.whl", "tool", "1.0", {"tool/__init__.py": "A = 1\\n", "tool/b.py": "B = 1\\n"})
[pip] = glob.glob("/usr/share/python-wheels/pip-*.whl")
os.environ["PYTHONPATH"] = pip
line = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--break-system-packages"]
subprocess.run([*line, "--no-build-isolation", "/tmp/tool-1.0-py3-none-any.whl", "-e", "/src"], check=True)
"""


def _encoded(text: str) -> str:
    return base64.b64encode(text.replace("\\\\", "\\").encode()).decode()


@pytest.mark.slow
def test_packages_of_pip(project: Project, build: Callable[..., str]) -> None:
    toml = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    steps = [
        "RUN mkdir /src && echo " + f"{_encoded(toml)} | base64 -d > /src/pyproject.toml",
        f"RUN echo {_encoded(_PIP + _BACKEND)} | base64 -d > /src/backend.py",
        f"RUN echo {_encoded(_PIP + _INSTALL)} | base64 -d > /tmp/install.py && python3 /tmp/install.py",
    ]
    good = build("pip-good", *steps)
    bad = build("pip-bad", *steps, "RUN echo 'A = 2' > $(find / -path '*/tool/__init__.py' -xdev)")
    project.stages(none=build("pip-none"), good=good, bad=bad)
    done = project.envpar("diff", "none", "good").exits(1)
    assert "  package  tool 1.0 added (pip, " in done.out
    assert "  package  mine 2.0 (editable) added (pip, " in done.out
    done = project.envpar("diff", "good", "bad").exits(1)
    assert "tool 1.0 (pip, 1 file), not as the package shipped it: /usr/local/lib/python3.11/" in done.out
    assert "/tool/__init__.py" in done.out


@pytest.mark.slow
def test_secrets_stay_where_they_are(project: Project, build: Callable[..., str]) -> None:
    project.stages(
        one=build("secret-one", "ENV API_TOKEN=hunter2"),
        two=build(
            "secret-two",
            "ENV API_TOKEN=hunter3",
            "RUN printf 'a:hunt%s:1:0:99999:7:::\\n' er4 >> /etc/shadow",
        ),
    )
    for form in ("text", "json", "markdown", "sarif"):
        assert "hunter" not in project.envpar("diff", "one", "two", "--format", form, "-v").exits(1).text


def test_host_is_compared_by_its_interpreter(stages: Project) -> None:
    done = stages.envpar("diff", "host", "dev", "--explain").exits(1, "route: inventory")
    assert "pytest " in done.out
    assert "/usr/" not in done.out
    stages.envpar("diff", "host", "host").exits(2)


def test_what_means_nothing(stages: Project) -> None:
    stages.envpar("diff", "dev", "qq").exits(2, "'qq' is no stage, no file", "the stages are: ", "[image]")
    stages.envpar("diff", "dev", "stage:qq").exits(2, "there is no stage 'qq'")
    stages.envpar("diff", "dev", "file:nothing.tar").exits(2, "there is no file or folder")
    for name in ("", "../x", "container:no\x1bthing"):
        assert "\x1b" not in stages.envpar("diff", "dev", name).exits(2, "envpar: ").text
    stages.envpar("diff", "dev", "container:nothing").exits(2, "docker has no container 'nothing'", "[usage]")
    stages.write("broken.tar", "this is no tar")
    stages.envpar("diff", "dev", "broken.tar").exits(2, "broken.tar: ")
    stages.envpar("diff", "dev", "qa", "--no-presets=bytecod").exits(2, "bytecode")
    stages.envpar("diff", "dev").exits(2, "usage: envpar diff")
    stages.envpar("diff", "dev", "qa", "--engine", "unix:///no/such.sock").exits(2, "[no-engine]")


def test_a_locked_image_that_is_gone(project: Project, build: Callable[..., str], engine: Engine) -> None:
    old, new = build("old", deb("greet", "1.0", a="one")), build("new", deb("greet", "1.1", a="two"))
    ledger = project.root / "ledger.sqlite3"
    project.environ["ENVPAR_LEDGER"] = str(ledger)
    project.stages(qa=old)
    project.envpar("lock").exits(0)
    text = (project.root / "envpar.lock").read_text()
    assert '\npackages = "sha256:' in text
    assert '\nmanifest = "sha256:' in text
    engine.remove_image(old, force=True)
    project.stages(qa=new)
    # The ledger has seen the layers and the packages when they were locked.
    done = project.envpar("diff", "lock:qa", f"image:{new}", "--explain").exits(
        1, "greet 1.0 -> 1.1 (dpkg, 1 file)"
    )
    assert "route: layers" in done.out
    with contextlib.closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("DELETE FROM manifest WHERE kind LIKE 'entries-%'")
    # Layers are the first to go when room is made.
    done = project.envpar("diff", "lock:qa", f"image:{new}", "--explain").exits(1, "greet 1.0 -> 1.1 (dpkg)")
    assert "not compared: / (an image is gone" in done.out
    # Without it the lock file alone says that they are others.
    project.environ["ENVPAR_LEDGER"] = str(project.root / "empty.sqlite3")
    project.envpar("diff", "lock:qa", f"image:{new}").exits(1, "config   packages: ", "config   layers: ")
