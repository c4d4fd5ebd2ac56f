"""The fixtures that give containers to tests, the same on the host and inside a stage.

Where a container comes from differs: on the host it is started right there, inside a stage the host is asked for it. A
*provider* is that difference.
"""

import types
from typing import Any, Callable, Dict, Generator, Iterable, Optional

import pytest

ALWAYS = ("dev", "qa", "integration")
"""Stages that have fixtures whether they are configured or not; a test that uses one that is not is skipped."""

SCOPES = ("function", "module", "session")


class Demand:
    """How many tests are still going to ask for a container of their own. It changes with each that does."""

    def __init__(self) -> None:
        self._counts: Optional[Dict[str, int]] = None

    def left(self, request: pytest.FixtureRequest, name: str) -> int:
        """How many tests behind this one ask for the fixture; only of function scope each gets its own."""
        if request.scope != "function":
            return 0
        if self._counts is None:
            counts = self._counts = {}
            for item in request.session.items:
                for each in set(getattr(item, "fixturenames", ())):
                    counts[each] = counts.get(each, 0) + 1
        self._counts[name] = self._counts.get(name, 0) - 1
        return self._counts[name]


def names(stage: Optional[str]) -> Dict[str, str]:
    """The names of a stage's fixtures by scope; None is the active or default stage."""
    base = "%s_container" % (stage or "envpar")
    return {scope: base if scope == "function" else "%s_%s" % (base, scope) for scope in SCOPES}


def module(provider: Any, stages: Iterable[str]) -> types.ModuleType:
    """A plugin that offers the fixtures.

    Args:
        provider: Has ``facts()``, ``take(request, stage, name)``, ``give_back(container, name)``, ``factory(name)`` and
            ``close_factory(factory, name)``, where ``name`` is the fixture's.
        stages: The configured stages.
    """
    made = types.ModuleType("pytest_envpar.fixtures")

    def add(name: str, scope: str, doc: str, work: Callable[..., Any]) -> None:
        work.__doc__ = doc
        work.__name__ = name
        work.__module__ = made.__name__  # `--fixtures` groups by it: the same on both sides
        setattr(made, name, pytest.fixture(scope=scope, name=name)(work))  # type: ignore[call-overload]

    def stage_facts() -> Any:
        return provider.facts()

    add(
        "envpar_stage",
        "session",
        "The stage that this test runs in: ``name``, ``image`` and ``engine``; None outside of any stage.",
        stage_facts,
    )
    for stage in (None, *dict.fromkeys((*ALWAYS, *stages))):
        what = "stage %r" % stage if stage else "the active stage, or of the default one outside of any"
        for scope, name in names(stage).items():
            life = {"function": "for this test", "module": "for this module", "session": "for this session"}[
                scope
            ]
            doc = "A fresh container of %s, %s (see docs/fixtures.md)." % (what, life)
            add(name, scope, doc, _container(provider, stage, name))
    for scope in SCOPES:
        name = "envpar_containers" if scope == "function" else "envpar_containers_%s" % scope
        doc = (
            "Starts containers of any stage or image, any number at the same time; removes them after the %s."
            % ("test" if scope == "function" else scope)
        )
        add(name, scope, doc, _containers(provider, name))
    return made


def _container(provider: Any, stage: Optional[str], name: str) -> Callable[..., Any]:
    def fixture(request: pytest.FixtureRequest) -> Generator[Any, None, None]:
        container = provider.take(request, stage, name)
        yield container
        provider.give_back(container, name)

    return fixture


def _containers(provider: Any, name: str) -> Callable[..., Any]:
    def fixture() -> Generator[Any, None, None]:
        factory = provider.factory(name)
        yield factory
        provider.close_factory(factory, name)

    return fixture
