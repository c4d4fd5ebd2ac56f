"""The fixtures that give containers to tests, the same on the host and inside a stage.

Where a container comes from differs: on the host it is started right there, inside a stage the host is asked for it. A
*provider* is that difference.
"""

import types
from typing import Any, Callable, Dict, Generator, Iterable, Optional, Tuple

import pytest

ALWAYS = ("dev", "qa", "integration")
"""Stages that have fixtures whether they are configured or not; a test that uses one that is not is skipped."""

SCOPES = ("function", "module", "session")


class Demand:
    """How often a fixture is still going to be set up. It changes with each time that it is."""

    def __init__(self) -> None:
        self._counts: Dict[str, Dict[str, int]] = {}
        self._number = 0

    def left(self, request: pytest.FixtureRequest, name: str) -> int:
        """How often the fixture is set up after this time: for each test or module that asks for it, by its scope."""
        if request.scope not in ("function", "module"):
            return 0
        if not self._counts:
            self._counts = {"function": {}, "module": {}}
            places = set()
            for item in request.session.items:
                module = item.nodeid.partition("::")[0]
                for each in set(getattr(item, "fixturenames", ())):
                    self._count("function", each)
                    if (module, each) not in places:
                        places.add((module, each))
                        self._count("module", each)
        return self._count(request.scope, name, -1)

    def turn(self, request: pytest.FixtureRequest, name: str) -> Tuple[int, int]:
        """A number that tells this time from all others, and how often it is still going to be set up."""
        self._number += 1
        return self._number, self.left(request, name)

    def _count(self, scope: str, name: str, step: int = 1) -> int:
        counts = self._counts[scope]
        counts[name] = counts.get(name, 0) + step
        return counts[name]


def names(stage: Optional[str]) -> Dict[str, str]:
    """The names of a stage's fixtures by scope; None is the active or default stage."""
    base = "%s_container" % (stage or "envpar")
    return {scope: base if scope == "function" else "%s_%s" % (base, scope) for scope in SCOPES}


def module(provider: Any, stages: Iterable[str]) -> types.ModuleType:
    """A plugin that offers the fixtures.

    Args:
        provider: Has ``facts()``, ``take(request, stage, name)``, ``give_back(container, name)``,
            ``factory(request, name)`` and ``close_factory(factory, name)``, where ``name`` is the fixture's.
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
    def fixture(request: pytest.FixtureRequest) -> Generator[Any, None, None]:
        factory = provider.factory(request, name)
        yield factory
        provider.close_factory(factory, name)

    return fixture
