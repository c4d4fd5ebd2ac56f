"""Image configuration, field by field, and facts of a running environment that tests can feel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import ConfigChange
from pytest_envpar.images.tags import LABEL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.values.images import RunConfig

_ENGINE_ENV = frozenset({"HOME", "HOSTNAME", "TERM", "container"})
"""What Podman adds to the environment of every container."""
_OWN_NAME = re.compile(r"[0-9a-f]{12}")
"""The name that a container has by itself: the beginning of its id."""
_ENGINE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What both engines set where an image has no PATH."""


def facts(config: RunConfig) -> dict[str, str]:
    """The fields as text: ``env.NAME``, ``labels.NAME``, ``healthcheck.KEY``, ``user``, ``entrypoint``, ``cmd``,
    ``workdir``, ``ports``, ``volumes``, ``stop_signal``, ``shell``. One that is not set is not there; nor are labels
    that our own builds put on an image."""
    found: dict[str, str] = {}
    found |= {f"env.{name}": value for name, value in config.env.items()}
    found |= {f"healthcheck.{name.lower()}": value for name, value in config.healthcheck.items()}
    found |= {
        f"labels.{name}": value for name, value in config.labels.items() if not name.startswith(LABEL_PREFIX)
    }
    found |= {f"ports.{port}": "exposed" for port in config.ports}
    found |= {f"volumes.{path}": "declared" for path in config.volumes}
    lists = {"cmd": config.cmd, "entrypoint": config.entrypoint, "shell": config.shell}
    found |= {name: _argv(value) for name, value in lists.items() if value}
    single = {
        "user": config.user,
        "workdir": config.workdir if config.workdir != "/" else "",
        "stop_signal": config.stop_signal,
    }
    found |= {name: value for name, value in single.items() if value}
    return found


def compare_config(
    left: RunConfig, right: RunConfig, *, containers: bool = False
) -> tuple[ConfigChange, ...]:
    """The fields that differ, sorted.

    Args:
        containers: Whether one side is a container: what engines add to every one of them, and what says how it was
            started rather than what it is started from (labels, command), is left out.
    """
    one, two = facts(left), facts(right)
    if containers:
        one, two = _of_image(one, two), _of_image(two, one)
    return compare_facts(one, two)


def compare_facts(left: Mapping[str, str], right: Mapping[str, str]) -> tuple[ConfigChange, ...]:
    """The names whose values differ, sorted."""
    return tuple(_changes(left, right))


def _changes(left: Mapping[str, str], right: Mapping[str, str]) -> Iterator[ConfigChange]:
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            yield ConfigChange(name, left.get(name), right.get(name))


def _of_image(found: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    kept = {}
    for field, value in found.items():
        name = field.partition(".")[2]
        if field.startswith("env."):
            if field not in other and (name in _ENGINE_ENV or (name == "PATH" and value == _ENGINE_PATH)):
                continue
            if name == "HOSTNAME" and _OWN_NAME.fullmatch(value):
                continue
        elif field.startswith("labels.") or field in ("cmd", "entrypoint", "stop_signal"):
            continue
        kept[field] = value
    return kept


def _argv(words: tuple[str, ...]) -> str:
    """As a Dockerfile's exec form has it."""
    import json

    return json.dumps(list(words), ensure_ascii=False)
