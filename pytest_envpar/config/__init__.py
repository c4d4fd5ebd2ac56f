"""Stages, settings and the file they come from.

:func:`find_config` and :func:`load_settings` give frozen :class:`Settings`; :func:`check_stage` is asked when a stage
is about to be used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_envpar.config.find import find_config
    from pytest_envpar.config.load import (
        check_stage,
        get_stage,
        load_settings,
        parse_engine,
    )
    from pytest_envpar.config.model import (
        Agent,
        Allow,
        Build,
        DriftPolicy,
        Ignore,
        Ready,
        Service,
        Settings,
        Source,
        Stage,
    )
    from pytest_envpar.config.values import split_volume

__all__ = [
    "Agent",
    "Allow",
    "Build",
    "DriftPolicy",
    "Ignore",
    "Ready",
    "Service",
    "Settings",
    "Source",
    "Stage",
    "check_stage",
    "find_config",
    "get_stage",
    "load_settings",
    "parse_engine",
    "split_volume",
]

_HOMES = {
    "find_config": "find",
    "check_stage": "load",
    "get_stage": "load",
    "load_settings": "load",
    "parse_engine": "load",
    "split_volume": "values",
}


def __getattr__(name: str) -> Any:
    # The schema and the model take longer to import than a run without a stage may cost; most such runs only
    # want to know whether there is a configuration at all.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'model')}")
    value = globals()[name] = getattr(module, name)
    return value
