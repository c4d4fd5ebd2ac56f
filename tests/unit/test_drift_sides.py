"""What is left out of a comparison, image configuration, and images in files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.drift.config import compare_config
from pytest_envpar.drift.model import Change, Entry, NotCompared
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.produce import MemoryStore
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.sides import Side, archive_side
from pytest_envpar.drift.tar import TarError
from pytest_envpar.engine.values.images import RunConfig
from pytest_envpar.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


def added(path: str, mode: int | None = None, **fields: Any) -> Change:
    entry = Entry(path, "file", 0o644) if mode is None else Entry(path, "directory", mode)
    return Change(path, "added", after=dataclasses.replace(entry, **fields))


def left(outside: Outside, *changes: Change) -> list[str]:
    return [change.path for change in outside.left(changes)]


def test_what_engines_and_we_put_into_containers_is_left_out() -> None:
    paths = [
        "/",
        "/.dockerenv",
        "/.envpar",
        "/.envpar/x",
        "/dev/null",
        "/etc/hosts",
        "/run/secrets/a",
        "/suite/x",
    ]
    outside = Outside(["/suite"])
    assert left(outside, *map(added, paths)) == []
    assert left(outside, added("/etc/hostsfile"), added("/suites")) == ["/etc/hostsfile", "/suites"]
    assert outside.not_compared() == ()


def test_what_is_mounted_is_not_compared_and_said() -> None:
    outside = Outside((), {"/data": "volume", "/tmp": "tmpfs", "/dev/shm": "tmpfs", "/etc/hosts": "bind"})
    assert left(outside, added("/data/x"), added("/tmp"), added("/tmp2")) == ["/tmp2"]
    outside.note("/f", "it was written to while it was read")
    outside.note("/data/y", "no matter")
    assert outside.not_compared() == (
        NotCompared("/data", "a volume is mounted there"),
        NotCompared("/f", "it was written to while it was read"),
        NotCompared("/tmp", "a tmpfs is mounted there"),
    )


def test_folders_that_only_lead_to_a_mount_are_left_out() -> None:
    outside = Outside((), {"/srv/app/data": "volume"})
    assert left(
        outside, added("/run", 0o755), added("/srv", 0o755), added("/srv/app", 0o755), added("/x")
    ) == ["/x"]
    assert left(outside, added("/srv", 0o755), added("/srv/app", 0o755), added("/srv/app/own")) == [
        *("/srv", "/srv/app", "/srv/app/own")
    ]
    assert left(outside, added("/srv", 0o700)) == ["/srv"]


def test_many_paths_that_were_not_compared_are_counted() -> None:
    outside = Outside()
    for number in range(1500):
        outside.note(f"/{number:05}", "gone")
    listed = outside.not_compared()
    assert len(listed) == 1001
    assert listed[-1] == NotCompared("/", "and at least 1 more")


CONFIG = RunConfig(
    env={"PATH": "/bin", "A": "1"},
    user="1000",
    workdir="/src",
    entrypoint=("tini", "--"),
    cmd=("a b",),
    volumes=("/data",),
    labels={"v": "1"},
    ports=("80/tcp",),
    healthcheck={"Test": "CMD true"},
    stop_signal="SIGTERM",
    shell=("/bin/bash", "-c"),
)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (
            "env",
            {"PATH": "/bin:/x", "B": "2"},
            [("env.A", "1", None), ("env.B", None, "2"), ("env.PATH", "/bin", "/bin:/x")],
        ),
        ("user", "", [("user", "1000", None)]),
        ("workdir", "/", [("workdir", "/src", None)]),
        ("entrypoint", (), [("entrypoint", '["tini", "--"]', None)]),
        ("cmd", ("a", "b"), [("cmd", '["a b"]', '["a", "b"]')]),
        ("volumes", ("/x",), [("volumes./data", "declared", None), ("volumes./x", None, "declared")]),
        ("labels", {"v": "2"}, [("labels.v", "1", "2")]),
        ("labels", {"v": "1", "pytest-envpar.stage": "qa"}, []),
        ("ports", (), [("ports.80/tcp", "exposed", None)]),
        ("healthcheck", {"Test": "NONE"}, [("healthcheck.test", "CMD true", "NONE")]),
        ("stop_signal", "SIGINT", [("stop_signal", "SIGTERM", "SIGINT")]),
        ("shell", (), [("shell", '["/bin/bash", "-c"]', None)]),
    ],
)
def test_each_field_of_the_configuration(
    field: str, value: Any, told: list[tuple[str, str | None, str | None]]
) -> None:
    other = dataclasses.replace(CONFIG, **{field: value})
    assert [(each.field, each.before, each.after) for each in compare_config(CONFIG, other)] == told
    assert compare_config(CONFIG, CONFIG) == ()


def test_what_engines_add_to_a_container_is_no_difference() -> None:
    image = RunConfig(env={"A": "1"}, cmd=("python3",))
    default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env = {
        "A": "1",
        "PATH": default,
        "TERM": "xterm",
        "HOME": "/root",
        "HOSTNAME": "x",
        "container": "podman",
    }
    container = RunConfig(env=env, cmd=("sleep",), labels={"x": "y"}, stop_signal="15", workdir="/")
    assert compare_config(image, container, containers=True) == ()
    # Podman lists the name of each among the variables.
    one, two = (RunConfig(env={"HOSTNAME": name}) for name in ("7c775d59a0de", "dd4d9d2847ec"))
    assert compare_config(one, two, containers=True) == ()
    named = compare_config(one, RunConfig(env={"HOSTNAME": "db"}), containers=True)
    assert [(each.field, each.after) for each in named] == [("env.HOSTNAME", "db")]
    changed = dataclasses.replace(container, env={**env, "PATH": "/opt/bin"}, user="5")
    assert [each.field for each in compare_config(image, changed, containers=True)] == ["env.PATH", "user"]


def layer(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


LAYERS = (layer({"etc/a": b"1", "etc/b": b"1"}), layer({"etc/.wh.b": b"", "etc/a": b"2"}))
OTHER = (LAYERS[0], layer({"etc/c": b"3"}))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config_of(layers: tuple[bytes, ...]) -> bytes:
    diff_ids = [f"sha256:{sha(each)}" for each in layers]
    return json.dumps({"config": {"User": "7"}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def docker_save(layers: tuple[bytes, ...]) -> bytes:
    config = config_of(layers)
    names = [f"{sha(each)}/layer.tar" for each in layers]
    manifest = [{"Config": f"{sha(config)}.json", "RepoTags": ["x:1"], "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    return layer({**files, f"{sha(config)}.json": config, "manifest.json": json.dumps(manifest).encode()})


def oci_files(layers: tuple[bytes, ...]) -> dict[str, bytes]:
    blobs = {}

    def blob(data: bytes) -> dict[str, object]:
        blobs[f"blobs/sha256/{sha(data)}"] = data
        return {"digest": f"sha256:{sha(data)}", "size": len(data)}

    packed = [blob(gzip.compress(each)) for each in layers]
    manifest = blob(json.dumps({"config": blob(config_of(layers)), "layers": packed}).encode())
    index = {"manifests": [{**manifest, "annotations": {"org.opencontainers.image.ref.name": "x:1"}}]}
    return {"oci-layout": b"{}", "index.json": json.dumps(index).encode(), **blobs}


def put(path: Path, data: bytes) -> Side:
    path.write_bytes(data)
    return archive_side(path)


def oci_folder(path: Path, layers: tuple[bytes, ...]) -> Side:
    for name, data in oci_files(layers).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return archive_side(path)


@pytest.mark.parametrize("form", ["docker", "docker.gz", "oci", "oci.tar"])
def test_images_in_files(tmp_path: Path, form: str) -> None:
    def side(name: str, layers: tuple[bytes, ...]) -> Side:
        if form == "oci":
            return oci_folder(tmp_path / name, layers)
        data = docker_save(layers) if form.startswith("docker") else layer(oci_files(layers))
        return put(tmp_path / name, gzip.compress(data) if form.endswith(".gz") else data)

    one, two = side("left", LAYERS), side("right", OTHER)
    assert one.archive is not None
    assert one.archive.tags == ("x:1",)
    assert one.config is not None
    assert one.config.user == "7"
    store = MemoryStore()
    for _ in range(2):
        found = compare_sides(one, two, store)
        assert found.route == "archive"
        assert [(change.path, change.kind, change.attributes) for change in found.changes] == [
            ("/etc/a", "modified", ("content",)),
            ("/etc/b", "added", ()),
            ("/etc/c", "added", ()),
        ]
    assert compare_sides(one, side("again", LAYERS), store).route == "same-image"


def test_what_a_lock_entry_pins_is_compared_if_its_layers_are_known(tmp_path: Path) -> None:
    store = MemoryStore()
    image = put(tmp_path / "x.tar", docker_save(LAYERS))
    locked = Side("lock", None, "sha256:" + "0" * 64, image.diff_ids)
    with pytest.raises(UsageError, match="lock cannot be looked at"):
        compare_sides(locked, put(tmp_path / "y.tar", docker_save(OTHER)), store)
    compare_sides(image, put(tmp_path / "y.tar", docker_save(OTHER)), store)
    found = compare_sides(locked, put(tmp_path / "y.tar", docker_save(OTHER)), store)
    assert [change.path for change in found.changes] == ["/etc/a", "/etc/b", "/etc/c"]
    assert any("no configuration" in line for line in found.why)


def test_a_layer_that_is_not_what_it_is_called_is_refused_and_not_kept(tmp_path: Path) -> None:
    data = docker_save(LAYERS).replace(b"1" + bytes(511), b"9" + bytes(511))
    store = MemoryStore()
    with pytest.raises(TarError, match="not what its diff ID"):
        compare_sides(put(tmp_path / "x.tar", data), put(tmp_path / "y.tar", docker_save(OTHER)), store)
    assert not any(sha(LAYERS[0]) in key[0] for key in store.kept)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"manifest.json": b"[]"}, "has 0 images"),
        ({"manifest.json": b"{"}, "not JSON"),
        ({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}, "is missing"),
        ({"oci-layout": b"{}", "index.json": b'{"manifests": [{"digest": "sha256:../x"}]}'}, "not a digest"),
        ({"oci-layout": b"{}", "index.json": b'{"manifests": []}'}, "has 0 images"),
    ],
)
def test_broken_images_in_files(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises((TarError, UsageError), match=message):
        put(tmp_path / "x.tar", layer(files))


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        archive_side(tmp_path / "absent.tar")
    with pytest.raises(UsageError, match="no OCI layout"):
        archive_side(tmp_path)
    with pytest.raises(TarError, match="not a tar archive"):
        put(tmp_path / "x", b"x" * 5000)
    with pytest.raises(UsageError, match="empty"):
        put(tmp_path / "y", bytes(10240))


class Shifted:
    """An engine whose folders have the owners of a user namespace, and no other way to look."""

    def __init__(self, root: Path, *, rootless: bool) -> None:
        self.info = SimpleNamespace(rootless=rootless, kind="docker")
        self._root = root

    def image_folders(self, _: str) -> tuple[Path, ...]:
        return (self._root,)

    def create_container(self, _: object) -> str:
        raise EngineError("not here")


@pytest.mark.parametrize("rootless", [True, False])
def test_folders_in_which_owners_are_shifted_are_not_read(tmp_path: Path, rootless: bool) -> None:
    root = tmp_path / ("plain" if rootless else "100000.100000/overlay2/x/diff")
    root.mkdir(parents=True)
    engine = cast("Engine", Shifted(root, rootless=rootless))
    one, two = (Side(name, CONFIG, f"sha256:{name}", (f"sha256:{name}",), engine) for name in "ab")
    with pytest.raises(UsageError) as caught:
        compare_sides(one, two, force="layers", labels={})
    assert "shifted by a user namespace" in "".join(caught.value.detail)


def test_root_file_systems_in_files(tmp_path: Path) -> None:
    one = put(tmp_path / "x.tar", layer({"etc/a": b"1", "manifest.d": b""}))
    two = put(tmp_path / "y.tar.gz", gzip.compress(layer({"etc/a": b"2", "manifest.d": b""})))
    found = compare_sides(one, two)
    assert [change.path for change in found.changes] == ["/etc/a"]
    assert found.config == ()
