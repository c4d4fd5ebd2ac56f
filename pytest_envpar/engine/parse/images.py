"""Images, in an engine's answers and in an image's own JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.parse.shapes import image_id, labels, table, texts
from pytest_envpar.engine.values.images import ImageInfo, RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def image_info(answer: Any) -> ImageInfo:
    """``GET /images/{name}/json``."""
    data = table(answer)
    told = dict(table(data.get("Config") or data.get("ContainerConfig")))
    # Podman has it beside the configuration.
    told["Healthcheck"] = table(told.get("Healthcheck") or data.get("HealthCheck"))
    config = run_config(told)
    return ImageInfo(
        id=image_id(data.get("Id")),
        tags=tuple(tag for tag in texts(data.get("RepoTags")) if tag != "<none>:<none>"),
        digests=tuple(digest for digest in texts(data.get("RepoDigests")) if not digest.startswith("<none>")),
        layers=texts(table(data.get("RootFS")).get("Layers")),
        os=str(data.get("Os") or ""),
        architecture=str(data.get("Architecture") or ""),
        variant=str(data.get("Variant") or ""),
        env=config.env,
        user=config.user,
        workdir=config.workdir,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes,
        labels=config.labels,
        config=config,
        created=str(data.get("Created") or ""),
        size_bytes=data["Size"] if isinstance(data.get("Size"), int) else None,
        ports=config.ports,
        health_check=_health_check(told["Healthcheck"]),
    )


def run_config(answer: Any) -> RunConfig:
    """``Config`` of an image or a container, in an engine's answer or in an image's own JSON
    (https://github.com/opencontainers/image-spec/blob/main/config.md)."""
    data = table(answer)
    env: dict[str, str] = {}
    for entry in texts(data.get("Env")):
        name, _, value = entry.partition("=")
        env[name] = value
    check = {
        str(name): " ".join(texts(value)) if isinstance(value, list) else str(value)
        for name, value in table(data.get("Healthcheck")).items()
    }
    return RunConfig(
        env=env,
        user=str(data.get("User") or ""),
        workdir=str(data.get("WorkingDir") or ""),
        entrypoint=texts(data.get("Entrypoint")),
        cmd=texts(data.get("Cmd")),
        volumes=tuple(sorted(table(data.get("Volumes")))),
        labels=labels(data.get("Labels")),
        ports=tuple(sorted(table(data.get("ExposedPorts")))),
        healthcheck=check,
        stop_signal=str(data.get("StopSignal") or ""),
        shell=texts(data.get("Shell")),
        on_build=texts(data.get("OnBuild")),
    )


def _health_check(data: Mapping[str, Any]) -> tuple[str, ...]:
    test = texts(data.get("Test"))
    return () if test[:1] in ((), ("NONE",)) else test


def platforms(described: Iterable[Any]) -> tuple[str, ...]:
    """``os/arch[/variant]`` of each; ``unknown`` ones are attestations and no images."""
    found = []
    for each in map(table, described):
        parts = [str(each.get(key) or "") for key in ("os", "architecture", "variant")]
        if parts[0] and parts[1] and "unknown" not in parts[:2]:
            found.append("/".join(part for part in parts if part))
    return tuple(dict.fromkeys(found))
