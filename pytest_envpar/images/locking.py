"""What a stage resolves to, given the lock file and how strictly it binds, and what is told of it.

A stage with an entry that matches its configuration resolves to the locked bytes and nothing else; the tag is not
asked. Without one, or where the user edited the stage, the mode decides: see :data:`Mode` and :func:`decide`. What
only the resolved image can tell (the hash of a build's inputs) is looked at after it, with the same rules.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_envpar.errors import ImageError, LockError
from pytest_envpar.images import lockfile
from pytest_envpar.images.fetch import pull_reference
from pytest_envpar.images.lockentry import (
    INPUTS_CHANGED,
    bases_now,
    changes_of,
    difference,
    edits_of,
    entry_of,
    input_changes_of,
    layers_that_differ,
    renewed,
    short,
)
from pytest_envpar.images.lockfile import Entry, Lock
from pytest_envpar.images.pinned import parse_reference, pin, repository, same_platform
from pytest_envpar.images.resolve import resolve
from pytest_envpar.images.services import pins_of, references, resolve_services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.images.pinned import PinnedImage

Mode = Literal["local", "ci", "frozen", "update"]
"""How strictly the lock binds: ``local`` locks what is missing or was edited and says so, ``ci`` (the variable ``CI``)
and ``frozen`` (``--env-frozen``) refuse it, ``update`` (``--env-update``) locks the stage anew."""

Action = Literal["use", "lock", "refuse"]

_FALSE = ("", "0", "false", "no", "off")


def mode_of(environ: Mapping[str, str], *, frozen: bool = False, update: bool = False) -> Mode:
    """The mode of a run: the options first, then whether the environment is that of CI."""
    if frozen:
        return "frozen"
    if update:
        return "update"
    return "ci" if environ.get("CI", "").strip().lower() not in _FALSE else "local"


def lock_path(settings: Settings) -> Path:
    """The project's lock file (host, absolute)."""
    return settings.lockfile or settings.root / lockfile.NAME


def written_by_runs(settings: Settings) -> tuple[Path, ...]:
    """What a run writes into the project (host): a build that took it in would be another one after every run."""
    return lock_path(settings), settings.root / ".pytest_cache"


def decide(entry: Entry | None, edits: Sequence[str], mode: Mode) -> Action:
    """What to do with a stage.

    Args:
        entry: What is locked; ``None`` if nothing is.
        edits: How the configuration differs from it; see :func:`edits_of`.
        mode: How strictly the lock binds.
    """
    if mode == "update":
        return "lock"
    if entry is not None and not edits:
        return "use"
    return "lock" if mode == "local" else "refuse"


def fetch(engine: Engine, stage: Stage, progress: Progress | None = None) -> None:
    """Pull what the stage's tag, or the tags its Dockerfile starts from, and those of its services mean today.

    An image that the engine has from no registry is what its tag means; that it cannot be pulled is only told.

    Raises:
        ImageError: An image cannot be pulled.
        EngineError: The engine failed.
    """
    wanted: tuple[str, ...] = ()
    if stage.image is not None:
        wanted = (stage.image,)
    elif stage.build is not None:
        from pytest_envpar.images.build import bases_of

        wanted = bases_of(stage.build)
    for reference in dict.fromkeys((*wanted, *sorted(references(stage)))):
        try:
            pull_reference(engine, stage, reference, progress)
        except ImageError:
            info = engine.inspect_image(reference)
            if info is None or info.digests:
                raise
            if progress is not None:
                progress(f"{reference} came from no registry: taking what the engine has")


@dataclasses.dataclass(frozen=True)
class Locked:
    """A stage resolved by the rules of the lock. Nothing is written yet: :func:`settle` does that.

    Args:
        image: The image, present on the engine.
        old: The entry that was read; ``None`` if there was none.
        entry: The entry that pins ``image``.
        why: What was found to have changed since ``old``, each for what it is.
        told: Lines that the user must see: a tag that moved.
        remarks: Lines for the header: what is as it has to be and yet worth knowing.
        services: The image of each service, present on the engine.
    """

    stage: Stage
    mode: Mode
    path: Path
    root: Path
    image: PinnedImage
    old: Entry | None
    entry: Entry
    why: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    services: Mapping[str, PinnedImage] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def pending(self) -> bool:
        """Whether the file has to be changed."""
        return self.old != self.entry


def resolve_stage(
    engine: Engine,
    stage: Stage,
    settings: Settings,
    mode: Mode,
    *,
    progress: Progress | None = None,
    owner_labels: Mapping[str, str] = MappingProxyType({}),
    lock: Lock | None = None,
    setup: Callable[[Stage, PinnedImage], PinnedImage] | None = None,
) -> Locked:
    """The images of ``stage`` and its services by the rules of the lock, present on the engine.

    Args:
        settings: The configuration; it names the lock file.
        mode: How strictly the lock binds.
        progress: Told each line of a pull or a build.
        owner_labels: The labels of the run, for what is built.
        lock: What the lock file holds; ``None`` reads it.
        setup: Makes the layer of the ``setup`` steps; needed for a stage that has some.

    Raises:
        LockError: The lock is broken, or refuses the stage.
        ImageError: The image cannot be had, or is not the locked one.
        EngineError: The engine failed.
    """
    locked = _resolve_own(engine, stage, settings, mode, progress, owner_labels, lock, setup)
    if not stage.services:
        return locked
    pins = {} if locked.old is None or mode == "update" else locked.old.services
    images = resolve_services(engine, stage, locked.root, pins, progress)
    entry = dataclasses.replace(locked.entry, services=pins_of(images))
    return dataclasses.replace(locked, entry=entry, services=images)


def _resolve_own(
    engine: Engine,
    stage: Stage,
    settings: Settings,
    mode: Mode,
    progress: Progress | None,
    owner_labels: Mapping[str, str],
    lock: Lock | None,
    setup: Callable[[Stage, PinnedImage], PinnedImage] | None,
) -> Locked:
    path, root = lock_path(settings), settings.root
    lock = lock or lockfile.read(path) or Lock()
    old = lock.stages.get(stage.name)
    why = () if old is None else edits_of(old, stage, root)
    if old is not None and not why and mode in ("ci", "frozen"):
        # What will be refused need not be built first.
        why = input_changes_of(old, stage, root, written_by_runs(settings))
    action = decide(old, why, mode)
    if action == "refuse":
        raise refusal(stage, path, root, old, why, mode)
    if action == "use" and old is not None and stage.image is not None and not stage.setup:
        image = _exact(engine, stage, stage.image, path, root, old, progress)
        _check_content(stage, path, old, image)
        moved = _moved(engine, stage, (old.digest, old.image_id), image)
        return Locked(stage, mode, path, root, image, old, old, told=moved)
    bases = old.base if action == "use" and old is not None and stage.image is not None else None
    if bases is not None and old is not None:
        _check_base(engine, stage, path, root, old)
    named = stage if bases is None else _on_locked_base(stage, bases)
    leave_out = written_by_runs(settings)
    image = resolve(
        engine,
        named,
        root,
        progress=progress,
        owner_labels=owner_labels,
        leave_out=leave_out,
        locked_bases=old.base if action == "use" and old is not None else {},
    )
    told: tuple[str, ...] = ()
    if stage.setup:
        assert setup is not None, "a stage with setup steps needs what runs them"
        if bases is not None and stage.image is not None and stage.image in bases:
            told = _moved(engine, stage, _pinned_base(bases[stage.image]), image)
        image = setup(stage, image)
    new = renewed(old, entry_of(stage, root, image, bases_now(engine, stage) if bases is None else bases))
    if action == "use" and old is not None:
        why = changes_of(old, new)
        action = decide(old, why, mode)
        if action == "refuse":
            raise refusal(stage, path, root, old, why, mode)
        if action == "use":
            remarks = _rebuilt(stage, path, root, old, new)
            return Locked(stage, mode, path, root, image, old, old, told=told, remarks=remarks)
    return Locked(stage, mode, path, root, image, old, new, why)


def _on_locked_base(stage: Stage, bases: Mapping[str, str]) -> Stage:
    """``stage`` with the image under its ``setup`` steps by digest or id, whatever its tag means by now."""
    base = bases.get(stage.image or "")
    if base is None:
        return stage
    exact = base.removeprefix(lockfile.LOCAL)
    image = exact if base.startswith(lockfile.LOCAL) else f"{repository(stage.image or '')}@{exact}"
    return dataclasses.replace(stage, image=image)


def _check_base(engine: Engine, stage: Stage, path: Path, root: Path, entry: Entry) -> None:
    """Raise ImageError if the image below the ``setup`` steps is a local one that is gone."""
    base = entry.base.get(stage.image or "", "")
    if base.startswith(lockfile.LOCAL):
        image_id = base.removeprefix(lockfile.LOCAL)
        if engine.inspect_image(image_id) is None:
            raise _gone(engine, stage, path, root, dataclasses.replace(entry, image_id=image_id))


def _pinned_base(text: str) -> tuple[str | None, str | None]:
    """Digest and image id of a base as an entry has it."""
    exact = text.removeprefix(lockfile.LOCAL)
    return (None, exact) if text.startswith(lockfile.LOCAL) else (exact, None)


def _exact(
    engine: Engine,
    stage: Stage,
    reference: str,
    path: Path,
    root: Path,
    entry: Entry,
    progress: Progress | None,
) -> PinnedImage:
    """The locked image: by its id, which names its content, and only where the engine lacks it by its digest."""
    info = engine.inspect_image(entry.image_id)
    if info is not None:
        return dataclasses.replace(pin(reference, info), digest=entry.digest)
    if entry.digest is None:
        raise _gone(engine, stage, path, root, entry)
    named = dataclasses.replace(stage, image=f"{repository(reference)}@{entry.digest}")
    image = resolve(engine, named, root, progress=progress)
    return dataclasses.replace(image, reference=reference, digest=entry.digest)


def settle(locked: Locked, *, must: bool = True, anew: bool = False) -> tuple[str, ...]:
    """Write what :func:`resolve_stage` found, where it has to be written; returns the lines to tell.

    Args:
        must: Whether a file that cannot be written is an error. A plain local run asked for no lock, and is not worth
            losing over a full disk or a read-only tree: there it is told.
        anew: Whether a broken file is replaced.

    Raises:
        LockError: The file cannot be written.
    """
    if not locked.pending:
        return locked.told
    stage, path = locked.stage, locked.path
    where = shown_path(path, locked.root)
    try:
        if locked.mode == "update":
            record(path, {stage.name: locked.entry}, anew=anew)
        else:
            meanwhile = record(path, {stage.name: locked.entry}, expected={stage.name: locked.old}, anew=anew)
            if meanwhile is not None:
                if meanwhile == locked.entry:
                    return locked.told
                other = difference(meanwhile, locked.entry)
                return (
                    *locked.told,
                    f"another run has locked stage {stage.name} in {where}; this one has: {other}",
                )
    except LockError as error:
        if must:
            raise
        return (*locked.told, f"stage {stage.name} is not locked: {error.message}")
    if locked.old is None:
        return (*locked.told, f"locked stage {stage.name} to {locked.image.short()} in {where}")
    why = "; ".join(locked.why) or difference(locked.old, locked.entry)
    return (*locked.told, f"locked stage {stage.name} anew in {where}: {why}; now {locked.image.short()}")


def record(
    path: Path,
    entries: Mapping[str, Entry | None],
    *,
    expected: Mapping[str, Entry | None] | None = None,
    anew: bool = False,
) -> Entry | None:
    """Put ``entries`` into the lock file; what other runs wrote of other stages stays.

    Args:
        entries: By stage; ``None`` removes one.
        expected: What was read before the work began, by stage.
        anew: Whether a file that cannot be read is replaced, which loses the entries of other stages.

    Returns:
        ``None`` if the file holds the entries now; the first entry that somebody else has put there since
        ``expected`` was read, and then nothing is written.
    """
    with lockfile.exclusive(path):
        try:
            lock = lockfile.read(path) or Lock()
        except lockfile.BrokenLockError:
            if not anew:
                raise
            lock = Lock()
        for name, before in (expected or {}).items():
            now = lock.stages.get(name)
            if now is not None and now != before:
                return now
        merged: dict[str, Entry | None] = {**lock.stages, **entries}
        kept = {name: entry for name, entry in merged.items() if entry is not None}
        lockfile.write(path, Lock(MappingProxyType(kept)))
    return None


def refusal(
    stage: Stage, path: Path, root: Path, entry: Entry | None, edits: Sequence[str], mode: Mode
) -> LockError:
    """Why a stage may not run, with the command that mends it."""
    why = "--env-frozen" if mode == "frozen" else "CI is set"
    name = shown_path(path, root)
    if entry is None:
        what = f"is not in {name}" if path.exists() else f"is not locked: there is no {name}"
    else:
        what = f"is not as {name} has it: {'; '.join(edits)}"
    return LockError(
        f"stage {stage.name!r} {what} ({why}: only what is locked may run)",
        hint=f"run `envpar lock` or `pytest --env={stage.name} --env-update`, and commit {name}"
        # The usual reason why a build is another one in every checkout.
        + (
            "; name in .dockerignore what no two checkouts share, such as .git"
            if INPUTS_CHANGED in edits
            else ""
        ),
    )


def shown_path(path: Path, root: Path) -> str:
    """The lock file for a message: relative to the project root where it lies below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _gone(engine: Engine, stage: Stage, path: Path, root: Path, entry: Entry) -> ImageError:
    """No registry has the image, so that only who has it can say what else would do."""
    has = engine.inspect_image(stage.image or "")
    now = (
        "the engine has no image of that name, either"
        if has is None
        else f"the tag now means {short(has.id)}"
    )
    return ImageError(
        f"stage {stage.name!r}: {shown_path(path, root)} pins {stage.image} to the local image "
        f"{short(entry.image_id)}, which this engine does not have; {now}",
        hint=f"provide that image, or lock what the tag means here: pytest --env={stage.name} --env-update",
    )


def _check_content(stage: Stage, path: Path, entry: Entry, image: PinnedImage) -> None:
    """A digest may name an index of several platforms: only the layers tell that this is the image that was locked."""
    if entry.layers == image.layers:
        return
    if not same_platform(entry.platform, image.platform):
        raise ImageError(
            f"stage {stage.name!r}: {path.name} has it for {entry.platform}, this engine for {image.platform}",
            hint=f'set platform = "{entry.platform}" in [tool.envpar.stages.{stage.name}], or lock it for this one: '
            f"pytest --env={stage.name} --env-update",
        )
    raise ImageError(
        f"stage {stage.name!r}: the image {image.short()} is not the locked one: "
        + layers_that_differ(entry.layers, image.layers),
        hint=f"if that is right: pytest --env={stage.name} --env-update",
    )


def _moved(
    engine: Engine, stage: Stage, locked: tuple[str | None, str | None], image: PinnedImage
) -> tuple[str, ...]:
    """Told if the tag means other bytes on this engine by now. Costs an inspect only where it may.

    Args:
        locked: Digest and image id, of which one may be unknown.
        image: The locked image.
    """
    reference = stage.image
    assert reference is not None
    asked = parse_reference(reference)
    if asked.digest is not None or any(_same_name(tag, reference) for tag in image.info.tags):
        return ()
    info = engine.inspect_image(reference)
    if info is None or info.id == image.info.id:
        return ()
    now = pin(reference, info)
    digest, image_id = locked
    if digest is not None and now.digest == digest:
        return ()
    kept = short(digest or image_id)
    return (f"tag {reference} now means {short(now.digest or now.image_id)}; using the locked {kept}",)


def _same_name(left: str, right: str) -> bool:
    try:
        return parse_reference(left) == parse_reference(right)
    except ValueError:
        return False


def _rebuilt(stage: Stage, path: Path, root: Path, old: Entry, new: Entry) -> tuple[str, ...]:
    if not same_platform(old.platform, new.platform):
        what = f"built for {new.platform}, while {shown_path(path, root)} has it for {old.platform}"
        return (f"stage {stage.name} {what}",)
    if old.layers == new.layers:
        return ()
    what = "rebuilt: same inputs, other content: " + layers_that_differ(old.layers, new.layers)
    return (f"stage {stage.name} {what} from {shown_path(path, root)}",)
