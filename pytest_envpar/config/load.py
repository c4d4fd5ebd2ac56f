"""From a configuration file to :class:`~pytest_envpar.config.model.Settings`."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_envpar.config import schema, values
from pytest_envpar.config.extends import apply_extends
from pytest_envpar.config.find import PYPROJECT, has_table, parse
from pytest_envpar.config.kinds import BadValue
from pytest_envpar.config.model import Allow, Build, DriftPolicy, Ignore, Ready, Service, Settings, Stage
from pytest_envpar.config.suggest import did_you_mean, found, quoted
from pytest_envpar.config.validate import Problems, read
from pytest_envpar.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_settings(file: Path) -> Settings:
    """Read and check a configuration file.

    What only matters when a stage is used (files a build needs) is not looked at here: see :func:`check_stage`.

    Args:
        file: An ``envpar.toml``, or a ``pyproject.toml`` with ``[tool.envpar]``.

    Returns:
        The settings, with ``extends`` applied and paths made absolute.

    Raises:
        ConfigError: The file cannot be read or parsed, or something in it is wrong; all is told at once.
    """
    file = Path(os.path.abspath(file))  # noqa: PTH100
    data = parse(file)
    if file.name == PYPROJECT:
        tool = data.get("tool")
        if not has_table(data) or not isinstance(tool, dict):
            raise ConfigError(f"{file}: has no [tool.envpar] table", hint="`envpar init` writes one")
        return settings_from(tool["envpar"], file)
    return settings_from(data, file)


def settings_from(raw: object, file: Path) -> Settings:
    """The settings that a parsed table describes.

    Args:
        raw: What ``[tool.envpar]`` or the top of ``envpar.toml`` holds.
        file: Where it was read, absolute; relative paths are relative to its folder.

    Raises:
        ConfigError: Something in it is wrong.
    """
    problems = Problems(file, ("tool", "envpar") if file.name == PYPROJECT else ())
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: envpar: expected a table, found {found(raw)}", hint="write [tool.envpar]")
    top = read(schema.ROOT, raw, (), problems, complete=True)
    raw_stages = raw.get("stages")
    stages: dict[str, Any] = raw_stages if isinstance(raw_stages, dict) else {}
    merged = apply_extends(stages, problems)
    _check_pairs(top.get("drift", {}).get("compare", ()), stages, problems)
    problems.raise_if_any()

    complete = {
        name: read(schema.STAGE, table, ("stages", name), problems, complete=True)
        for name, table in merged.items()
    }
    problems.raise_if_any()
    root = file.parent
    top["stages"] = MappingProxyType({name: _stage(name, fields, root) for name, fields in complete.items()})
    top["drift"] = _drift(top.get("drift", {}))
    if "lockfile" in top:
        top["lockfile"] = _host_path(root, top["lockfile"])
    return Settings(root=root, file=file, **top)


def get_stage(settings: Settings, name: str) -> Stage:
    """The stage of this name.

    Raises:
        UsageError: There is none; the hint has the nearest one.
    """
    stage = settings.stages.get(name)
    if stage is None:
        raise UsageError(
            f"{settings.file}: there is no stage {quoted(name)}",
            hint=did_you_mean(name, settings.stages, what="stages"),
        )
    return stage


def parse_engine(text: str) -> str:
    """Check an engine that was not named in the file, for example on the command line.

    Raises:
        ConfigError: It is neither a known name nor a URL we can use.
    """
    try:
        return values.parse_engine(text)
    except BadValue as bad:
        raise ConfigError(f"engine: {bad.message}", hint=bad.fix) from None


def check_stage(stage: Stage) -> None:
    """Check what a stage needs from the host.

    Called when the stage is used, so that a broken one that is not used stops nothing.

    Raises:
        ConfigError: The build context or the Dockerfile is missing.
    """
    if stage.build is None:
        return
    where = f"stage {quoted(stage.name)}: build"
    context, dockerfile = stage.build.context, stage.build.dockerfile
    try:
        if not context.is_dir():
            state = "is not a folder" if context.exists() else "does not exist"
            raise ConfigError(f"{where}: the context {context} {state}", hint="name a folder with context")
        if not dockerfile.is_file():
            state = "is not a file" if dockerfile.exists() else "does not exist"
            hint = "dockerfile is relative to the configuration file, not to the context"
            raise ConfigError(f"{where}: the Dockerfile {dockerfile} {state}", hint=hint)
    except OSError as error:
        raise ConfigError(f"{where}: {error.filename}: {error.strerror}") from error


def _check_pairs(pairs: tuple[tuple[str, str], ...], stages: Mapping[str, Any], problems: Problems) -> None:
    for index, pair in enumerate(pairs):
        for name in pair:
            if name not in stages and name != "host":
                hint = did_you_mean(name, [*stages, "host"], what="stages")
                problems.add(("drift",), f"compare[{index}]", f"there is no stage {quoted(name)}", hint)


def _host_path(root: Path, text: str) -> Path:
    return Path(os.path.normpath(root / text))


def _stage(name: str, fields: dict[str, Any], root: Path) -> Stage:
    if "build" in fields:
        build = fields["build"]
        context = _host_path(root, build.pop("context", "."))
        dockerfile = build.pop("dockerfile", None)
        build["dockerfile"] = context / "Dockerfile" if dockerfile is None else _host_path(root, dockerfile)
        fields["build"] = Build(context=context, **build)
    fields["volumes"] = tuple(_volume(root, text) for text in fields.get("volumes", ()))
    services = fields.get("services", {})
    fields["services"] = MappingProxyType(
        {label: _service(label, entry) for label, entry in services.items()}
    )
    return Stage(name=name, **fields)


def _volume(root: Path, text: str) -> str:
    source, target, read_only = values.split_volume(text)
    if source is not None and ("/" in source or source in (".", "..")):
        source = str(_host_path(root, source))
    return f"{source + ':' if source else ''}{target}{':ro' if read_only else ''}"


def _service(name: str, fields: dict[str, Any]) -> Service:
    if "ready" in fields:
        fields["ready"] = Ready(**fields["ready"])
    return Service(name=name, **fields)


def _drift(fields: dict[str, Any]) -> DriftPolicy:
    if "ignore" in fields:
        fields["ignore"] = tuple(Ignore(**entry) for entry in fields["ignore"])
    if "allow" in fields:
        fields["allow"] = tuple(Allow(**entry) for entry in fields["allow"])
    return DriftPolicy(**fields)
