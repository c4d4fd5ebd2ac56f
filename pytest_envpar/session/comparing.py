"""From two names to an answer: find the sides, compare them, look into them, judge. For the command and the gate."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar import userfiles
from pytest_envpar.containers.labels import Owner
from pytest_envpar.drift import baseline, content, looking, secret
from pytest_envpar.drift.assess import assess
from pytest_envpar.drift.model import Comparison, ConfigChange, NotCompared
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.sides import archive_side, container_side, image_side, lock_side, of_image
from pytest_envpar.drift.tar import TarError
from pytest_envpar.errors import LockError, NoEngineError, UsageError
from pytest_envpar.images import lineage, locking
from pytest_envpar.images.lockentry import layers_that_differ
from pytest_envpar.images.lockfile import Lock, read
from pytest_envpar.session import sides as names
from pytest_envpar.session.baselines import is_record, packages_of
from pytest_envpar.session.interpreters import Inventory, host_inventory, python_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.config.model import Settings
    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Change, Level, Package
    from pytest_envpar.drift.packages.base import PackageFormat
    from pytest_envpar.drift.policy import Policy
    from pytest_envpar.drift.sides import Side
    from pytest_envpar.drift.tree import Tree
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.images.lockfile import Entry as LockEntry
    from pytest_envpar.ledger import Ledger

MAX_DIFFS = 50
"""Files whose contents are shown."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a comparison says.

    Args:
        diffs: Lines of unified diffs by path, for texts that differ.
    """

    drift: Drift
    diffs: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


class Comparer:
    """Answers questions about environments. Owns the connection to the engine and the ledger; close it.

    Args:
        settings: The project's configuration, if there is one.
        here: The folder that paths are relative to (host).
        engine: The engine's URL if the command line named one.
        formats: Package formats.
        mode: How strictly the lock file binds a stage.
        progress: Told lines of pulls and builds.
        classify: See :func:`~pytest_envpar.drift.assess.assess`.
    """

    def __init__(
        self,
        settings: Settings | None,
        here: Path,
        *,
        engine: str | None,
        formats: Sequence[PackageFormat],
        mode: locking.Mode,
        progress: Progress | None = None,
        classify: Callable[[Change, Level], Level | None] | None = None,
    ) -> None:
        self._settings = settings
        self._here = here
        self._url = engine
        self._formats = formats
        self._mode = mode
        self._progress = progress
        self._classify = classify
        self._resources = contextlib.ExitStack()
        self._engine: Engine | None = None
        self._ledger: Ledger | None = None
        self._images: dict[str, ImageInfo] = {}

    def close(self) -> None:
        """Let go of engine and ledger. Safe to repeat."""
        self._resources.close()

    def answer(self, left: str, right: str, policy: Policy, *, diffs: bool = True) -> Answer:
        """Compare what is named ``left`` and ``right``.

        Args:
            diffs: Whether contents of texts are compared, too.

        Raises:
            UsageError: A name means nothing, or there is no way to compare them.
            EngineError: The engine failed.
        """
        one, two = (names.parse(text, self._settings, self._here, self._connect) for text in (left, right))
        if names.HOST in (one.kind, two.kind):
            return self._with_host(one, two, policy)
        try:
            return self._of_sides(one, two, policy, diffs)
        except TarError as error:
            files = ", ".join(named.name for named in (one, two) if named.kind == "file")
            if not files:
                raise
            raise UsageError(f"{files}: {error.message}", hint=error.hint) from error

    def _of_sides(self, one: names.Named, two: names.Named, policy: Policy, diffs: bool) -> Answer:
        first, second = self._side(one), self._side(two)
        try:
            compared = compare_sides(
                first,
                second,
                self._open_ledger().manifests,
                mtime=not policy.has("mtime"),
                labels=self._owner().labels("probe"),
            )
        except UsageError:
            if "lock" not in (one.kind, two.kind):
                raise
            answer = self._by_fingerprints((one, first), (two, second), policy)
            if answer is None:
                raise
            return answer
        with contextlib.ExitStack() as resources:
            trees: tuple[Tree | None, Tree | None] = (None, None)
            if compared.changes:
                differing = [change.path for change in compared.changes]
                trees = (self._tree(first, differing, resources), self._tree(second, differing, resources))
            hints = [change.path for change in compared.changes]
            known = [
                self._packages(side, tree, hints) for side, tree in zip((first, second), trees, strict=True)
            ]
            steps = (self._steps(first, trees[0]), self._steps(second, trees[1]))
            drift = assess(
                compared,
                *trees,
                policy,
                formats=self._formats,
                inventories=_both(known),
                instruction_of=lambda change: steps[change.after is not None](change.path),
                classify=self._classify,
            )
            shown = _diffs(drift, *trees) if diffs else {}
        return Answer(drift, shown)

    # --- sides -------------------------------------------------------------------------------------------------------

    def _side(self, named: names.Named) -> Side:
        if named.kind == "file":
            return archive_side(self._here / named.name, name=named.text)
        if named.kind == "lock":
            return self._locked(named)
        engine = self._connect()
        if named.kind == "container":
            return container_side(engine, named.name, name=named.text)
        if named.kind == "stage":
            return of_image(engine, self._image_of(named.name), named.text)
        return image_side(engine, named.name, name=named.text)

    def _steps(self, side: Side, tree: Tree | None) -> Callable[[str], str | None]:
        """Which instruction made the layer that a path is from. The engine is asked at the first question."""
        told: list[tuple[str, ...]] = []

        def step(path: str) -> str | None:
            # Of an image with one layer it would be said of everything.
            if not isinstance(tree, looking.LayersTree) or side.engine is None or len(side.diff_ids) < 2:
                return None
            if not told:
                info = side.engine.inspect_image(side.image_id)
                record = (
                    lineage.remember(self._open_ledger(), side.engine, info) if info is not None else None
                )
                told.append(tuple(layer.instruction for layer in record.layers) if record is not None else ())
            number = tree.layer_of(path)
            return told[0][number] if number is not None and 0 < number < len(told[0]) else None

        return step

    def _locked(self, named: names.Named) -> Side:
        entry = self._entry(named.name)
        try:
            engine = self._connect()
        except NoEngineError:
            return lock_side(entry, named.text, None)
        return lock_side(entry, named.text, engine)

    def _entry(self, name: str) -> LockEntry:
        """What the lock file has of a stage."""
        assert self._settings is not None
        path = locking.lock_path(self._settings)
        entry = (read(path) or Lock()).stages.get(name)
        if entry is None:
            raise LockError(f"stage {name} is not in {path}", hint="envpar lock")
        return entry

    def _image_of(self, name: str) -> ImageInfo:
        """The image of a stage by the rules of the lock, which is not written to."""
        known = self._images.get(name)
        if known is not None:
            return known
        from pytest_envpar.config import check_stage
        from pytest_envpar.worker.setup import Setup

        settings = self._settings
        assert settings is not None
        stage = settings.stages[name]
        check_stage(stage)
        engine, owner = self._connect(), self._owner()
        locked = locking.resolve_stage(
            engine,
            stage,
            settings,
            self._mode,
            progress=self._progress,
            owner_labels=owner.labels("cache", name),
            setup=Setup(engine, settings, owner, userfiles.cache_dir(), os.environ, self._progress),
        )
        self._images[name] = locked.image.info
        return locked.image.info

    # --- baselines ---------------------------------------------------------------------------------------------------

    def _packages(self, side: Side, tree: Tree | None, hints: Sequence[str]) -> tuple[Package, ...] | None:
        return packages_of(side, tree, self._formats, hints, self._open_ledger())

    def _tree(self, side: Side, differing: Iterable[str], resources: contextlib.ExitStack) -> Tree | None:
        wanted = looking.kept_of(differing, is_record(self._formats))
        return looking.tree_of(side, wanted, resources, self._owner().labels("probe"))

    def _by_fingerprints(
        self, left: tuple[names.Named, Side], right: tuple[names.Named, Side], policy: Policy
    ) -> Answer | None:
        """What the lock file and the ledger know of images that are gone: that something differs, and which packages.

        None if they know nothing.
        """
        marks: list[str | None] = []
        known: list[tuple[Package, ...] | None] = []
        with contextlib.ExitStack() as resources:
            for named, side in (left, right):
                found = self._packages(side, self._tree(side, (), resources), ())
                known.append(found)
                locked = self._entry(named.name).packages if named.kind == "lock" else None
                marks.append(locked if found is None else baseline.fingerprint(found))
        if None in marks:
            return None
        layers = (left[1].diff_ids, right[1].diff_ids)
        config = []
        if layers[0] != layers[1]:
            config.append(ConfigChange("layers", "", layers_that_differ(*layers)))
        inventories = _both(known)
        if inventories is None and marks[0] != marks[1]:
            config.append(ConfigChange("packages", marks[0], marks[1]))
        compared = Comparison(
            left[0].text,
            right[0].text,
            "inventory",
            config=tuple(config),
            not_compared=(NotCompared("/", "an image is gone, and its layers were never compared here"),),
            why=("of an image that is gone the lock file and the ledger know the packages",),
        )
        return Answer(assess(compared, None, None, policy, formats=self._formats, inventories=inventories))

    # --- host --------------------------------------------------------------------------------------------------------

    def _with_host(self, one: names.Named, two: names.Named, policy: Policy) -> Answer:
        """Interpreter and Python packages: of the rest of a machine nobody expects that it is like a container."""
        if one.kind == two.kind:
            raise UsageError("host compared with host: there is one only")
        left, right = self._inventory(one), self._inventory(two)
        fields = dict.fromkeys((*left.facts, *right.facts))
        config = [ConfigChange(field, left.facts.get(field), right.facts.get(field)) for field in fields]
        compared = Comparison(
            one.text,
            two.text,
            "inventory",
            config=tuple(change for change in config if change.before != change.after),
            why=("host is compared by its interpreter and Python packages",),
        )
        inventories = (left.packages, right.packages)
        return Answer(assess(compared, None, None, policy, formats=self._formats, inventories=inventories))

    def _inventory(self, named: names.Named) -> Inventory:
        if named.kind == names.HOST:
            return host_inventory()
        if named.kind not in ("stage", "image"):
            raise UsageError(
                f"{named.text!r} cannot be compared with host", hint="compare host with a stage or an image"
            )
        from pytest_envpar.config.model import Stage
        from pytest_envpar.worker.probe import probe

        engine = self._connect()
        stage = Stage("drift", image=named.name)
        if named.kind == "stage":
            assert self._settings is not None
            stage, info = self._settings.stages[named.name], self._image_of(named.name)
            side = of_image(engine, info, named.text)
        else:
            side = image_side(engine, named.name, name=named.text)
            found = engine.inspect_image(named.name)
            assert found is not None
            info = found
        root = self._settings.root if self._settings is not None else self._here
        asked = probe(engine, info, stage, root, userfiles.cache_dir(), owner=self._owner())
        facts = {
            "python.version": ".".join(map(str, asked.version)),
            "python.implementation": asked.implementation,
            "architecture": asked.machine,
        }
        with contextlib.ExitStack() as resources:
            tree = self._tree(side, (), resources)
            packages = python_packages(tree, self._formats, str(asked.prefix))
        return Inventory(facts, packages)

    # --- what is owned -----------------------------------------------------------------------------------------------

    def _connect(self) -> Engine:
        if self._engine is None:
            self._engine = engine_of(self._settings, self._url)
            self._resources.callback(self._engine.close)
        return self._engine

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = self._resources.enter_context(userfiles.open_ledger())
        return self._ledger

    def _owner(self) -> Owner:
        return Owner.current(self._settings.root if self._settings is not None else self._here)


def engine_of(settings: Settings | None, url: str | None) -> Engine:
    """Connect to the engine that a comparison uses; whoever asks closes it.

    Args:
        url: What the command line named, if it named one.

    Raises:
        NoEngineError: None answers.
    """
    from pytest_envpar.engine.select import select_engine

    configured = settings.engines if settings is not None else ("auto",)
    return select_engine((url,) if url else configured, os.environ)


def _both(
    known: Sequence[tuple[Package, ...] | None],
) -> tuple[tuple[Package, ...], tuple[Package, ...]] | None:
    left, right = known
    return None if left is None or right is None else (left, right)


def _diffs(drift: Drift, left: Tree | None, right: Tree | None) -> Mapping[str, Sequence[str]]:
    """What is shown of texts: of configuration first, because that is read."""
    if left is None or right is None:
        return {}
    found: dict[str, Sequence[str]] = {}
    files = [file for file in drift.files if file.reported and "content" in file.change.attributes]
    for file in sorted(files, key=lambda file: file.level != "config")[:MAX_DIFFS]:
        entries = (file.change.before, file.change.after)
        if any(entry is None or entry.size > content.MAX_TEXT for entry in entries):
            continue
        one, two = (tree.read(file.change.path, content.MAX_TEXT) for tree in (left, right))
        if one is None or two is None:
            continue
        if secret.is_secret_file(file.change.path, one, two):
            found[file.change.path] = [secret.NOT_SHOWN]
            continue
        lines = content.text_diff(one, two)
        found[file.change.path] = lines if lines is not None else ["binary contents differ"]
    return found
