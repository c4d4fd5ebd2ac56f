"""``setup`` steps: run once in a container of the stage's image, and kept as an image with one more layer.

The container is configured as its image is and does nothing but wait; each step runs in it as the stage's user, with
the stage's variables, in the project's folder, which is there read-only. So nothing of what runs the steps gets into
the image's configuration, and nothing of the project into its files.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import re
import secrets
from typing import TYPE_CHECKING

from pytest_envpar.containers.lifecycle import container_name, create_owned
from pytest_envpar.containers.source import PathFacts, SourcePlan, fill_source, open_source, plan_source
from pytest_envpar.engine.bars import clean
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError, StageError
from pytest_envpar.images.locking import written_by_runs
from pytest_envpar.images.pinned import PinnedImage, pin
from pytest_envpar.images.setup import setup_hash
from pytest_envpar.images.tags import CACHE, KIND, PROJECT, SETUP, STAGE, USER, build_repository
from pytest_envpar.images.turns import one_at_a_time
from pytest_envpar.worker.probe import path_facts, probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.engine.api import Engine, Progress, Stream
    from pytest_envpar.engine.values.create import Mount

_SHELL = "/bin/sh"
_WAIT = "read -r _"
"""Ends when the host lets go of its input, however that happens."""
_STEP = '/bin/sh -c "$1" </dev/null 2>&1; printf "\\n%s %s\\n" "$2" "$?"'
"""The end of a step is told in its output: a process that it leaves behind may keep that open."""
_TAIL_LINES = 20
_LONGEST_LINE = 1 << 16
_LOOK_S = 1.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHORTEST_SECRET = 4


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the steps of a stage need; calling it gives the image with their layer.

    Args:
        cache_dir: Where answers of images are kept (host).
        environ: The host's environment, from which ``pass-env`` is taken.
        progress: Told each step and what it prints.
    """

    engine: Engine
    settings: Settings
    owner: Owner
    cache_dir: Path
    environ: Mapping[str, str]
    progress: Progress | None = None

    def __call__(self, stage: Stage, base: PinnedImage) -> PinnedImage:
        """``base`` with what the steps of ``stage`` make of it: from the engine, if nothing changed since.

        Raises:
            ImageError: A step failed, or a file that it names cannot be read.
            StageError: The image has no shell, or a key of the stage makes the container impossible.
            EngineError: The engine failed.
        """
        inputs = self._inputs(stage)
        root = self.settings.root
        # What is made may hold the project's own path (an editable install), so that it serves this checkout alone.
        key = json.dumps([inputs, base.image_id, str(root)])
        name = f"{build_repository(root.name, stage.name)}-setup"
        tag = f"{name}:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
        info = self.engine.inspect_image(tag)
        if info is None:
            with one_at_a_time(self.engine, tag, self.progress):
                info = self.engine.inspect_image(tag)
                if info is None:
                    self._make(stage, base, tag, inputs)
                    info = self.engine.inspect_image(tag)
        if info is None:
            raise ImageError(f"stage {stage.name!r}: {tag} was made, yet the engine does not know it")
        return pin(tag, info)

    def _inputs(self, stage: Stage) -> str:
        return setup_hash(stage, self.settings.root, written_by_runs(self.settings))

    def _make(self, stage: Stage, base: PinnedImage, tag: str, inputs: str) -> None:
        engine = self.engine
        with contextlib.ExitStack() as stack:
            container, plan = self._container(stage, base, stack)
            runner = _Steps(engine, container, stage, base, plan, self.environ, self.progress)
            # Attached to before the start: its input holds it.
            stream = engine.attach(container)
            stack.callback(stream.close)
            try:
                engine.start(container)
            except ConnectionLostError:
                raise
            except EngineError as error:
                raise _no_shell(stage, base, error) from error
            for number, command in enumerate(stage.setup, 1):
                runner.run(number, command)
            if self._inputs(stage) != inputs:
                raise ImageError(
                    f"stage {stage.name!r}: a file that its setup steps name changed while they ran",
                    hint="run this again",
                )
            stream.close()
            with contextlib.suppress(TimeoutError):
                engine.wait(container, timeout_s=10.0)
            engine.commit_layer(container, base.info, tag=tag, labels=self._labels(stage, inputs))
        if self.progress is not None:
            self.progress(f"setup of stage {stage.name} is kept as {tag}")

    def _labels(self, stage: Stage, inputs: str) -> dict[str, str]:
        owner = self.owner.labels("cache", stage.name)
        return {KIND: CACHE, STAGE: stage.name, PROJECT: owner[PROJECT], USER: owner[USER], SETUP: inputs}

    def _container(
        self, stage: Stage, base: PinnedImage, stack: contextlib.ExitStack
    ) -> tuple[str, SourcePlan]:
        """A container that waits, and how the project is in it."""
        engine, owner = self.engine, self.owner
        plan = self._plan(stage, base)
        name = container_name(owner, stage.name)
        labels = owner.labels("source", stage.name)
        mounts = self._read_only(plan, base, open_source(engine, plan, name, labels, stack), labels)
        spec = ContainerSpec(
            image=base.image_id,
            command=(),
            entrypoint=(_SHELL, "-c", _WAIT),
            labels=owner.labels("build", stage.name),
            name=name,
            # Steps fetch things; what a suite may not reach is another question.
            network=None if stage.network == "none" else stage.network,
            mounts=mounts,
            platform=stage.platform,
            runtime=stage.runtime,
            stdin=True,
        )
        container = create_owned(
            engine, spec, name, stack, create=lambda: engine.create_layer(base.info, spec)
        )
        return container, plan

    def _read_only(
        self, plan: SourcePlan, base: PinnedImage, mounts: tuple[Mount, ...], labels: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """The project's mounts. A copy gets into its volume by a container that is never started: nothing can be put
        into a read-only one."""
        if plan.mode == "copy":
            helper = self.engine.create_container(
                ContainerSpec(base.image_id, ("true",), labels, mounts=mounts)
            )
            try:
                fill_source(self.engine, plan, helper, mounts, image=base.image_id, labels=labels)
            finally:
                self.engine.remove_container(helper)
        return tuple(dataclasses.replace(mount, read_only=True) for mount in mounts)

    def _plan(self, stage: Stage, base: PinnedImage) -> SourcePlan:
        """The project at the place where the suite will find it, read-only where it is the host's own."""
        root = self.settings.root
        try:
            facts = path_facts(probe(self.engine, base.info, stage, root, self.cache_dir, owner=self.owner))
        except StageError:
            # An image that gets its Python by these very steps.
            facts = PathFacts()
        plan = plan_source(self.engine.info, facts, self.settings.source, root, workdir=stage.workdir)
        return plan if plan.mode == "copy" else dataclasses.replace(plan, mode="mount", owner=None)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Runs steps in a container that waits."""

    engine: Engine
    container: str
    stage: Stage
    base: PinnedImage
    plan: SourcePlan
    environ: Mapping[str, str]
    progress: Progress | None

    def run(self, number: int, command: str) -> None:
        """Run one step to its end. Raises ImageError if it fails."""
        stage = self.stage
        told = f"setup of stage {stage.name}, step {number} of {len(stage.setup)}: {self._shown(command)}"
        if self.progress is not None:
            self.progress(told)
        mark = secrets.token_hex(8)
        taken = {name: self.environ[name] for name in stage.pass_env if name in self.environ}
        # Podman's container has no PATH of its own, see engine/layers.py.
        path = {} if "PATH" in self.base.info.env else {"PATH": _PATH}
        stream = self.engine.exec_stream(
            self.container,
            (_SHELL, "-c", _STEP, "sh", command, mark),
            env={**path, **stage.env, **taken},
            user=stage.user,
            workdir=self.plan.container_root,
        )
        tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        code: int | None = None
        try:
            for line in self._lines(stream):
                found = re.fullmatch(rf"{mark} (\d+)", line)
                if found is not None:
                    code = int(found[1])
                    break
                shown = self._shown(line).rstrip()
                if shown:
                    tail.append(shown)
                    if self.progress is not None:
                        self.progress(shown)
        finally:
            stream.close()
        if code != 0:
            how = "the container ended in the middle of it" if code is None else f"exit code {code}"
            user = stage.user or self.base.info.user or "root"
            raise ImageError(
                f"stage {stage.name!r}: setup step {number} of {len(stage.setup)} failed: {how}",
                detail=(f"$ {self._shown(command)}", *tail),
                hint=f"steps run as {user} in {self.base.short()}, with the project read-only at "
                f"{self.plan.container_root}; nothing of them was kept",
            )

    def _lines(self, stream: Stream) -> Iterator[str]:
        """The lines of a step's output; ends with it, or with the container."""
        pending = b""
        while True:
            piece = stream.read(_LOOK_S)
            if piece is None:
                # Raises if the engine is not to be asked any more: the run was interrupted.
                if not self.engine.inspect_container(self.container).running:
                    break
                continue
            if piece[0] == 0:
                break
            *lines, pending = re.split(rb"[\r\n]+", pending + piece[1])
            for line in lines:
                yield line.decode("utf-8", "replace")
            if len(pending) > _LONGEST_LINE:
                yield pending.decode("utf-8", "replace")
                pending = b""
        if pending:
            yield pending.decode("utf-8", "replace")

    def _shown(self, text: str) -> str:
        """Fit for a terminal, and without what ``pass-env`` took over: that is how secrets get in."""
        for name in self.stage.pass_env:
            value = self.environ.get(name, "")
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(value, f"${name}")
        return clean(text)


def _no_shell(stage: Stage, base: PinnedImage, error: EngineError) -> StageError:
    return StageError(
        f"stage {stage.name!r}: setup steps cannot be run in {base.short()}",
        hint=f"they need {_SHELL} in the image; without one build the image by a Dockerfile",
        detail=(*error.message.splitlines(), *error.detail),
    )
