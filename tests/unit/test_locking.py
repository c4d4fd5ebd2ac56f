"""What a stage resolves to, given the lock file and the mode, and what is told."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.config.model import Build, Settings, Stage
from pytest_envpar.errors import ImageError, LockError
from pytest_envpar.images import lockentry, locking
from pytest_envpar.images.build import input_hash
from pytest_envpar.images.lockentry import changes_of, edits_of
from pytest_envpar.images.lockfile import Entry, Lock, read, write
from pytest_envpar.images.locking import Locked, Mode, decide, mode_of, resolve_stage, settle
from pytest_envpar.images.pinned import PinnedImage
from pytest_envpar.images.tags import INPUT

from .shelf import Shelf, info, sha

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine

MODES: tuple[Mode, ...] = ("local", "ci", "frozen", "update")


ONE = info("1", "a", "b", tags=("app:1",), digests=(f"app@{sha('d')}",))
TWO = info("2", "a", "c", tags=("app:1",), digests=(f"app@{sha('e')}",))
LOCAL = info("7", "a", "b", tags=("app:1",))
QA = Stage("qa", image="app:1")
PINNED = Entry("app:1", None, sha("d"), sha("1"), "linux/amd64", layers=(sha("a"), sha("b")))
BY_ID = dataclasses.replace(PINNED, digest=None, image_id=sha("7"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def go(shelf: Shelf, root: Path, mode: Mode = "local", stage: Stage = QA) -> Locked:
    settings = Settings(root, root / "envpar.toml", {stage.name: stage})
    return resolve_stage(cast("Engine", shelf), stage, settings, mode, setup=lambda _, image: image)


def locked(root: Path, **entries: Entry) -> Path:
    path = root / "envpar.lock"
    write(path, Lock(entries))
    return path


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "edited", "expected"),
    [
        (False, False, {"local": "lock", "ci": "refuse", "frozen": "refuse", "update": "lock"}),
        (True, False, {"local": "use", "ci": "use", "frozen": "use", "update": "lock"}),
        (True, True, {"local": "lock", "ci": "refuse", "frozen": "refuse", "update": "lock"}),
    ],
)
def test_what_is_done(entry: bool, edited: bool, expected: dict[str, str]) -> None:
    edits = ("reference edited",) if edited else ()
    assert {mode: decide(PINNED if entry else None, edits, mode) for mode in MODES} == expected


@pytest.mark.parametrize(
    ("environ", "options", "mode"),
    [
        ({}, {}, "local"),
        ({"CI": ""}, {}, "local"),
        ({"CI": "false"}, {}, "local"),
        ({"CI": "0"}, {}, "local"),
        ({"CI": "true"}, {}, "ci"),
        ({"CI": "1"}, {}, "ci"),
        ({"CI": "woodpecker"}, {}, "ci"),
        ({"CI": "true"}, {"update": True}, "update"),
        ({"CI": "true"}, {"frozen": True}, "frozen"),
        ({}, {"frozen": True}, "frozen"),
    ],
)
def test_the_mode(environ: dict[str, str], options: dict[str, bool], mode: str) -> None:
    assert mode_of(environ, **options) == mode


BUILD = Build(Path("/p"), Path("/p/docker/qa.Dockerfile"))
BUILT = Entry(None, "docker/qa.Dockerfile", None, sha("1"), "linux/amd64", inputs=sha("9"))


@pytest.mark.parametrize(
    ("entry", "stage", "said"),
    [
        (PINNED, QA, ()),
        (PINNED, Stage("qa", image="app:2"), ("reference edited: app:1 -> app:2",)),
        (PINNED, Stage("qa", image="app:1", platform="linux/amd64"), ()),
        (PINNED, Stage("qa", image="app:1", platform="amd64"), ()),
        (
            PINNED,
            Stage("qa", image="app:1", platform="linux/arm64"),
            ("platform edited: linux/amd64 -> linux/arm64",),
        ),
        (PINNED, Stage("qa", image="app:1", setup=("true",)), ("setup steps added",)),
        (dataclasses.replace(PINNED, setup=sha("5")), QA, ("setup steps removed",)),
        (PINNED, Stage("qa", build=BUILD), ("image replaced by a build: app:1 -> docker/qa.Dockerfile",)),
        (BUILT, Stage("qa", build=BUILD), ()),
        (BUILT, QA, ("build replaced by an image: docker/qa.Dockerfile -> app:1",)),
        (
            BUILT,
            Stage("qa", build=Build(Path("/p"), Path("/other/Dockerfile"))),
            ("Dockerfile replaced: docker/qa.Dockerfile -> ../other/Dockerfile",),
        ),
    ],
)
def test_what_the_user_edited(entry: Entry, stage: Stage, said: tuple[str, ...]) -> None:
    assert edits_of(entry, stage, Path("/p")) == said


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({}, ()),
        ({"image_id": sha("2"), "layers": (sha("c"),)}, ()),
        ({"inputs": sha("8")}, ("Dockerfile, context or arguments of the build changed",)),
        ({"setup": sha("6")}, ("setup steps changed, or the files they name",)),
        (
            {"base": {"debian:12": sha("b")}},
            ("base image changed: debian:12 sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb",),
        ),
        (
            {"base": {"debian:12": f"local {sha('b')}"}},
            ("base image changed: debian:12 sha256:aaaaaaaaaaaa -> local sha256:bbbbbbbbbbbb",),
        ),
        # Another FROM is another Dockerfile; a base that is not there any more was not needed.
        ({"base": {"debian:13": sha("b")}}, ()),
        ({"base": {}}, ()),
    ],
)
def test_what_changed_in_what_an_image_is_made_from(new: dict[str, object], said: tuple[str, ...]) -> None:
    old = dataclasses.replace(BUILT, setup=sha("5"), base={"debian:12": sha("a")})
    assert changes_of(old, dataclasses.replace(old, **new)) == said  # type: ignore[arg-type]


# --- images ------------------------------------------------------------------------------------------------------


def test_first_use_locks_and_says_so(shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)
    found = go(shelf, root)
    assert not (root / "envpar.lock").exists()  # it may yet turn out to be no run at all
    assert settle(found) == ("locked stage qa to app:1@sha256:dddddddddddd in envpar.lock",)
    assert read(root / "envpar.lock") == Lock({"qa": PINNED})


def written(path: Path) -> tuple[int, int]:
    """Another one once the file has been written; reading it only moves the time of its last reading."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


def test_a_locked_image_costs_one_inspect_and_no_registry(shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)
    path = locked(root, qa=PINNED)
    before = written(path)
    for mode in ("local", "ci", "frozen"):
        shelf.asked.clear()
        found = go(shelf, root, mode)
        assert settle(found) == ()
        assert (found.image.image_id, found.image.digest, found.image.reference) == (
            sha("1"),
            sha("d"),
            "app:1",
        )
        assert shelf.asked == [sha("1")]
    assert shelf.pulled == []
    assert written(path) == before


def test_a_locked_image_that_came_without_its_registry_serves(shelf: Shelf, root: Path) -> None:
    locked(root, qa=PINNED)
    shelf.put(dataclasses.replace(ONE, digests=()))
    assert go(shelf, root, "ci").image.digest == sha("d")
    assert shelf.pulled == []


def test_a_locked_image_is_pulled_by_its_digest(shelf: Shelf, root: Path) -> None:
    locked(root, qa=PINNED)
    shelf.registry = {"app:1": TWO, f"app@{sha('d')}": dataclasses.replace(ONE, tags=())}
    found = go(shelf, root, "ci")
    assert (found.image.image_id, shelf.pulled) == (sha("1"), [f"app@{sha('d')}"])
    assert settle(found) == ()


@pytest.mark.parametrize("mode", ["local", "ci", "frozen"])
def test_a_tag_that_moved_is_told_and_not_used(mode: Mode, shelf: Shelf, root: Path) -> None:
    path = locked(root, qa=PINNED)
    before = path.read_bytes()
    shelf.put(dataclasses.replace(ONE, tags=()))
    shelf.put(TWO)
    found = go(shelf, root, mode)
    assert found.image.image_id == sha("1")
    assert settle(found) == ("tag app:1 now means sha256:eeeeeeeeeeee; using the locked sha256:dddddddddddd",)
    assert path.read_bytes() == before


def test_a_local_tag_that_moved_is_told_by_image_id(shelf: Shelf, root: Path) -> None:
    locked(root, qa=BY_ID)
    shelf.put(dataclasses.replace(LOCAL, tags=()))
    shelf.put(info("8", tags=("app:1",)))
    found = go(shelf, root)
    assert found.image.image_id == sha("7")
    assert settle(found) == ("tag app:1 now means sha256:888888888888; using the locked sha256:777777777777",)


@pytest.mark.parametrize("mode", ["local", "ci"])
def test_a_local_image_that_is_gone_is_not_replaced(mode: Mode, shelf: Shelf, root: Path) -> None:
    path = locked(root, qa=BY_ID)
    before = path.read_bytes()
    shelf.put(info("8", tags=("app:1",)))
    with pytest.raises(ImageError) as caught:
        go(shelf, root, mode)
    assert caught.value.message == (
        "stage 'qa': envpar.lock pins app:1 to the local image sha256:777777777777, which this engine does not have; "
        "the tag now means sha256:888888888888"
    )
    assert "pytest --env=qa --env-update" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_a_digest_that_gives_other_content_is_refused(shelf: Shelf, root: Path) -> None:
    locked(root, qa=PINNED)
    shelf.registry = {f"app@{sha('d')}": TWO}
    with pytest.raises(ImageError, match="is not the locked one: 1 of 2 layers differ"):
        go(shelf, root)


def test_an_index_that_gives_another_platform_is_refused(shelf: Shelf, root: Path) -> None:
    locked(root, qa=PINNED)
    shelf.put(info("3", "x", tags=("app:1",), digests=(f"app@{sha('d')}",), arch="arm64"))
    with pytest.raises(ImageError, match="has it for linux/amd64, this engine for linux/arm64") as caught:
        go(shelf, root)
    assert 'set platform = "linux/amd64" in [tool.envpar.stages.qa]' in str(caught.value.hint)


def test_an_edited_reference_is_locked_anew_and_named(shelf: Shelf, root: Path) -> None:
    path = locked(root, qa=PINNED, other=BY_ID)
    shelf.put(dataclasses.replace(TWO, tags=("app:2",)))
    told = settle(go(shelf, root, stage=Stage("qa", image="app:2")))
    assert told == (
        "locked stage qa anew in envpar.lock: reference edited: app:1 -> app:2; now app:2@sha256:eeeeeeeeeeee",
    )
    after = read(path)
    assert after is not None
    assert after.stages["other"] == BY_ID
    assert after.stages["qa"].image_id == sha("2")


def test_update_takes_what_the_tag_means_now(shelf: Shelf, root: Path) -> None:
    path = locked(root, qa=PINNED)
    shelf.put(TWO)
    told = settle(go(shelf, root, "update"))
    changed = "digest sha256:dddddddddddd -> sha256:eeeeeeeeeeee, 1 of 2 layers differ"
    assert told == (f"locked stage qa anew in envpar.lock: {changed}; now app:1@sha256:eeeeeeeeeeee",)
    assert settle(go(shelf, root, "update")) == ()
    after = read(path)
    assert after is not None
    assert after.stages["qa"].digest == sha("e")


@pytest.mark.parametrize(
    ("mode", "why"),
    [("ci", "CI is set: only what is locked may run"), ("frozen", "--env-frozen: only what is")],
)
def test_refused_with_the_command_that_mends_it(mode: Mode, why: str, shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)

    def refused(stage: Stage = QA) -> LockError:
        with pytest.raises(LockError) as caught:
            go(shelf, root, mode, stage)
        assert why in caught.value.message
        assert caught.value.hint == (
            "run `envpar lock` or `pytest --env=qa --env-update`, and commit envpar.lock"
        )
        return caught.value

    assert "stage 'qa' is not locked: there is no envpar.lock" in refused().message
    locked(root, other=PINNED)
    assert "stage 'qa' is not in envpar.lock" in refused().message
    locked(root, qa=PINNED)
    error = refused(Stage("qa", image="app:2"))
    assert "stage 'qa' is not as envpar.lock has it: reference edited: app:1 -> app:2" in error.message
    assert shelf.asked == shelf.pulled == []


def test_fingerprints_stay_with_their_image(shelf: Shelf, root: Path) -> None:
    known = dataclasses.replace(PINNED, manifest=sha("3"), packages=sha("4"))
    path = locked(root, qa=known)
    shelf.put(ONE)
    assert settle(go(shelf, root, "update")) == ()
    shelf.put(TWO)
    settle(go(shelf, root, "update"))
    after = read(path)
    assert after is not None
    assert (after.stages["qa"].manifest, after.stages["qa"].packages) == (None, None)


def test_the_lock_file_may_lie_elsewhere(shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)
    stage, path = QA, root / "locks" / "pins.lock"
    settings = Settings(root, root / "envpar.toml", {"qa": stage}, lockfile=path)
    found = resolve_stage(cast("Engine", shelf), stage, settings, "local")
    assert settle(found) == ("locked stage qa to app:1@sha256:dddddddddddd in locks/pins.lock",)
    assert read(path) == Lock({"qa": PINNED})


# --- builds ------------------------------------------------------------------------------------------------------

MADE = PinnedImage(
    "pytest-envpar/p-qa:0123", None, sha("1"), (sha("a"), sha("b")), "linux/amd64", info("1", "a", "b")
)


class Builder:
    """What the build gives, instead of an engine's work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.image = MADE
        self.entry: dict[str, object] = {"inputs": sha("9"), "base": {"debian:12": sha("b")}}
        monkeypatch.setattr(locking, "resolve", lambda *_, **__: self.image)
        real = lockentry.entry_of
        monkeypatch.setattr(locking, "input_changes_of", lambda *_: ())
        monkeypatch.setattr(
            locking,
            "entry_of",
            lambda *given: dataclasses.replace(real(*given), **self.entry),  # type: ignore[arg-type]
        )


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(monkeypatch)


@pytest.fixture
def built(root: Path) -> Stage:
    (root / "Dockerfile").write_text("FROM debian:12\n", encoding="utf-8")
    return Stage("qa", build=Build(root, root / "Dockerfile"))


def test_a_build_is_pinned_by_its_inputs(builder: Builder, built: Stage, shelf: Shelf, root: Path) -> None:
    assert settle(go(shelf, root, stage=built)) == (
        "locked stage qa to pytest-envpar/p-qa:0123 (local sha256:111111111111) in envpar.lock",
    )
    before = (root / "envpar.lock").read_bytes()
    assert b'build = "Dockerfile"' in before
    assert str(root).encode() not in before
    for mode in ("local", "ci", "frozen"):
        assert settle(go(shelf, root, mode, built)) == ()
    assert (root / "envpar.lock").read_bytes() == before


@pytest.mark.parametrize("mode", ["local", "ci", "frozen"])
def test_a_rebuild_with_other_content_is_named(
    mode: Mode, builder: Builder, built: Stage, shelf: Shelf, root: Path
) -> None:
    settle(go(shelf, root, stage=built))
    before = (root / "envpar.lock").read_bytes()
    builder.image = dataclasses.replace(MADE, image_id=sha("2"), layers=(sha("a"), sha("c")))
    found = go(shelf, root, mode, built)
    assert found.remarks == (
        "stage qa rebuilt: same inputs, other content: 1 of 2 layers differ from envpar.lock",
    )
    assert settle(found) == ()
    assert (root / "envpar.lock").read_bytes() == before
    builder.image = dataclasses.replace(MADE, platform="linux/arm64")
    assert go(shelf, root, mode, built).remarks == (
        "stage qa built for linux/arm64, while envpar.lock has it for linux/amd64",
    )


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"inputs": sha("8")}, "Dockerfile, context or arguments of the build changed"),
        (
            {"base": {"debian:12": sha("c")}},
            "base image changed: debian:12 sha256:bbbbbbbbbbbb -> sha256:cccccccccccc",
        ),
    ],
)
def test_other_inputs_lock_anew_or_are_refused(
    new: dict[str, object], said: str, builder: Builder, built: Stage, shelf: Shelf, root: Path
) -> None:
    settle(go(shelf, root, stage=built))
    builder.entry.update(new)
    for mode in ("ci", "frozen"):
        with pytest.raises(LockError, match=f"stage 'qa' is not as envpar.lock has it: {said}"):
            go(shelf, root, mode, built)
    (told,) = settle(go(shelf, root, stage=built))
    assert told.startswith(f"locked stage qa anew in envpar.lock: {said}; now ")


def test_what_is_refused_is_not_built(
    built: Stage, shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(root, qa=dataclasses.replace(BUILT, build="Dockerfile"))
    monkeypatch.setattr(locking, "resolve", None)
    for mode in ("ci", "frozen"):
        with pytest.raises(
            LockError, match="Dockerfile, context or arguments of the build changed"
        ) as caught:
            go(shelf, root, mode, built)
        assert "; name in .dockerignore what no two checkouts share, such as .git" in str(caught.value.hint)
    assert shelf.asked == []


def test_an_image_made_from_a_built_one_has_no_inputs(shelf: Shelf, root: Path) -> None:
    shelf.put(dataclasses.replace(ONE, labels={INPUT: "9" * 64}))
    assert go(shelf, root).entry == PINNED


@pytest.mark.parametrize(
    ("base", "exact"),
    [(sha("d"), f"app@{sha('d')}"), (f"local {sha('7')}", sha("7"))],
    ids=["registry", "local"],
)
def test_setup_steps_run_on_the_locked_image(
    base: str, exact: str, builder: Builder, shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.entry = {"setup": sha("5")}
    stage = Stage("qa", image="app:1", setup=("true",))
    shelf.put(ONE if exact.startswith("app") else LOCAL)
    settle(go(shelf, root, stage=stage))
    before = read(root / "envpar.lock")
    assert before is not None
    assert before.stages["qa"].base == {"app:1": base}
    shelf.put(TWO)
    asked: list[Stage] = []

    def ask(_: object, given: Stage, *__: object, **___: object) -> PinnedImage:
        asked.append(given)
        return MADE

    monkeypatch.setattr(locking, "resolve", ask)
    kept = base.removeprefix("local ")[:19]
    assert settle(go(shelf, root, "ci", stage)) == (
        f"tag app:1 now means sha256:eeeeeeeeeeee; using the locked {kept}",
    )
    assert [each.image for each in asked] == [exact]
    builder.entry = {"setup": sha("6")}
    with pytest.raises(LockError, match="setup steps changed, or the files they name"):
        go(shelf, root, "ci", stage)
    assert "base image changed: app:1 " in settle(go(shelf, root, "update", stage))[0]
    assert asked[-1].image == "app:1"


# --- writing -----------------------------------------------------------------------------------------------------


def test_the_first_of_two_runs_wins(shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)
    mine, theirs = go(shelf, root), go(shelf, root)
    other = dataclasses.replace(theirs, entry=dataclasses.replace(PINNED, digest=sha("e")))
    settle(other)
    differs = "digest sha256:eeeeeeeeeeee -> sha256:dddddddddddd"
    assert settle(mine) == (f"another run has locked stage qa in envpar.lock; this one has: {differs}",)
    assert read(root / "envpar.lock") == Lock({"qa": other.entry})
    assert settle(other) == ()


def test_a_lock_that_cannot_be_written(shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(ONE)
    found = go(shelf, root)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LockError, match="No space left on device"):
        settle(found)
    (told,) = settle(found, must=False)
    assert told.startswith("stage qa is not locked: ")
    assert "No space left on device" in told
    assert list(root.iterdir()) == []


def test_a_broken_lock_stops_every_mode(shelf: Shelf, root: Path) -> None:
    shelf.put(ONE)
    (root / "envpar.lock").write_text("<<<<<<< HEAD\n", encoding="utf-8")
    for mode in MODES:
        with pytest.raises(LockError, match=r"envpar.lock:1: unresolved merge conflict"):
            go(shelf, root, mode)
    assert shelf.asked == []


# --- without a run -------------------------------------------------------------------------------------------------


def test_upgrading_pulls_what_the_tag_means_today(shelf: Shelf, root: Path) -> None:
    path = locked(root, qa=PINNED)
    shelf.put(ONE)
    shelf.registry = {"app:1": TWO}
    locking.fetch(cast("Engine", shelf), QA)
    settle(go(shelf, root, "update"))
    after = read(path)
    assert after is not None
    assert (after.stages["qa"].digest, shelf.pulled) == (sha("e"), ["app:1"])


def test_upgrading_what_no_registry_has(shelf: Shelf) -> None:
    engine = cast("Engine", shelf)
    with pytest.raises(ImageError, match="was not found"):
        locking.fetch(engine, QA)
    shelf.put(ONE)
    with pytest.raises(ImageError, match="was not found"):
        locking.fetch(engine, QA)
    shelf.has.clear()
    shelf.put(LOCAL)
    lines: list[str] = []
    locking.fetch(engine, QA, lines.append)
    assert lines[-1] == "app:1 came from no registry: taking what the engine has"


def test_upgrading_a_build_pulls_its_bases(shelf: Shelf, root: Path) -> None:
    (root / "Dockerfile").write_text(
        "FROM debian:12 AS a\nFROM app:1\nCOPY --from=a /x /x\n", encoding="utf-8"
    )
    shelf.put(LOCAL)
    shelf.registry = {"debian:12": dataclasses.replace(ONE, tags=())}
    locking.fetch(cast("Engine", shelf), Stage("qa", build=Build(root, root / "Dockerfile")))
    assert sorted(shelf.pulled) == ["app:1", "debian:12"]


def test_bases_are_what_the_engine_has(shelf: Shelf, root: Path) -> None:
    (root / "Dockerfile").write_text(
        "FROM app:1 AS a\nFROM made:here AS b\nFROM not:here AS c\nFROM a\nCOPY --from=b /x /\nCOPY --from=c /y /\n",
        encoding="utf-8",
    )
    shelf.put(ONE)
    shelf.put(info("7", tags=("made:here",)))
    stage = Stage("qa", build=Build(root, root / "Dockerfile"))
    assert lockentry.bases_now(cast("Engine", shelf), stage) == {
        "app:1": sha("d"),
        "made:here": f"local {sha('7')}",
    }
    assert lockentry.bases_now(cast("Engine", shelf), QA) == {}


def test_the_files_of_a_build_are_looked_at_without_an_engine(root: Path) -> None:
    (root / "Dockerfile").write_text("FROM debian:12\n", encoding="utf-8")
    stage = Stage("qa", build=Build(root, root / "Dockerfile"))
    lock = root / "envpar.lock"
    assert stage.build is not None
    entry = dataclasses.replace(BUILT, inputs=f"sha256:{input_hash(stage, stage.build)}")
    lock.write_text("", encoding="utf-8")
    assert lockentry.input_changes_of(entry, stage, root, (lock,)) == ()
    assert lockentry.input_changes_of(entry, QA, root, (lock,)) == ()
    (root / "new").touch()
    assert lockentry.input_changes_of(entry, stage, root, (lock,)) == (
        "Dockerfile, context or arguments of the build changed",
    )
