"""What is there of ``pytest_envpar`` inside a stage: the fixtures, and on import the names that tests write down."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any, Dict, Generator, List, Optional

import pytest

from . import fixtures as shared
from .channel import Channel

NAME = "pytest_envpar"

ERRORS = (
    "CommandError",
    "CommandTimeoutError",
    "ConflictError",
    "EngineError",
    "EnvparError",
    "NotFoundError",
    "UsageError",
)
HOMES = {
    "Address": "values",
    "Changes": "comparisons",
    "Checkpoint": "values",
    "Comparison": "comparisons",
    "Container": "handles",
    "ContainerFactory": "factory",
    "ExecResult": "values",
    "Manifest": "comparisons",
    "Process": "processes",
    "Stats": "values",
}
"""The public types by the module that has them."""


def fixtures(channel: Channel, options: Dict[str, Any]) -> types.ModuleType:
    """The plugin with the fixtures; makes ``import pytest_envpar`` find what is here, too."""
    sys.meta_path.insert(0, _Finder())
    provider = Provider(channel, options.get("facts") or {})
    made = shared.module(provider, options.get("stages") or [])
    made.__dict__["pytest_runtest_makereport"] = provider.makereport
    return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves the package's name, also where the image has the package: what is inside is no host."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in (NAME, NAME + ".errors"):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname == NAME)

    def create_module(self, spec: Any) -> Optional[types.ModuleType]:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        package = __name__.rpartition(".")[0]
        errors = importlib.import_module(package + ".errors")
        for value in vars(errors).values():
            if isinstance(value, type) and value.__module__ == errors.__name__:
                value.__module__ = NAME + ".errors"  # what a traceback shows is what a test can import
        if module.__name__ == NAME + ".errors":
            module.__dict__.update({name: value for name, value in vars(errors).items() if name[:1] != "_"})
            return
        module.__dict__.update({name: getattr(errors, name) for name in ERRORS})
        for name, home in HOMES.items():
            module.__dict__[name] = getattr(importlib.import_module(package + "." + home), name)
        module.__dict__["__all__"] = sorted((*ERRORS, *HOMES))
        module.__doc__ = "pytest-envpar inside a stage: containers come from the host."


class Stage:
    """The fixture ``envpar_stage``: ``name``, ``image`` (digest or id) and ``engine`` of the stage around the test."""

    def __init__(self, facts: Dict[str, str]) -> None:
        self.name = facts.get("name", "")
        self.image = facts.get("image", "")
        self.engine = facts.get("engine", "")

    def __repr__(self) -> str:
        return "<Stage %s>" % self.name


class Provider:
    """Asks the host for containers. It changes: it counts what is still going to be asked for."""

    def __init__(self, channel: Channel, facts: Dict[str, str]) -> None:
        self._channel = channel
        self._facts = facts
        self._caller: Any = None
        self._demand = shared.Demand()
        self._users: Dict[str, List[Any]] = {}

    def facts(self) -> Stage:
        return Stage(self._facts)

    def take(self, request: Any, stage: Optional[str], name: str) -> Any:
        container = self._factory()._take(stage, name, self._demand.left(request, name))
        self._users.setdefault(name, []).append(container)
        return container

    def give_back(self, container: Any, name: str) -> None:
        self._users[name].remove(container)
        container._drop()

    def factory(self, request: Any, name: str) -> Any:
        factory = self._factory()
        factory._turn = self._demand.turn(request, name)
        self._users[name] = factory.started
        return factory

    def close_factory(self, factory: Any, name: str) -> None:
        started, factory.started[:] = list(factory.started), []
        for container in started:
            container._drop()

    @pytest.hookimpl(hookwrapper=True)
    def makereport(self, item: Any) -> Generator[None, Any, None]:
        """The logs of a failed test's containers are sections of its report."""
        outcome = yield
        report = outcome.get_result()
        if not report.failed:
            return
        for name in getattr(item, "fixturenames", ()):
            for container in self._users.get(name, ()):
                log = _log(container)
                if log:
                    report.sections.append(("envpar: log of %s (%s)" % (container.name, name), log))

    def _factory(self) -> Any:
        from .calls import Caller
        from .factory import ContainerFactory

        if self._caller is None:
            self._caller = Caller(self._channel)
        return ContainerFactory(self._caller, give_up)


def _log(container: Any) -> str:
    try:
        text = container.logs(tail=200)
    except Exception:  # noqa: BLE001 - it is gone; the failure itself says more
        return ""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text).rstrip()


def give_up(error: Exception) -> None:
    """A stage that is not configured skips the test, as on the host; all else fails it with our words only."""
    lines: List[str] = error.lines() if hasattr(error, "lines") else [str(error)]
    if getattr(error, "skip", False):
        pytest.skip("; ".join(line.strip() for line in lines))
    # Not pytest.fail(): the same words would be shown once more as what came before.
    raise pytest.fail.Exception("\n".join(lines), pytrace=False) from None
