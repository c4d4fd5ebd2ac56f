"""The fixture that tells tests where the services of their stage are: data only, the same on the host and inside."""

import types
from typing import Any, Dict, Mapping, Optional

import pytest


class Service:
    """Where a service is found from the stage's container.

    Args:
        name: As it is configured.
        host: Its name on the network of the run.
        port: The port that its ``ready`` names, or the only one that its image exposes; None if that is not known.
    """

    def __init__(self, name: str, host: str, port: Optional[int]) -> None:
        self.name = name
        self.host = host
        self.port = port

    @property
    def address(self) -> str:
        """``host:port``, or the host alone where no port is known."""
        return self.host if self.port is None else "%s:%d" % (self.host, self.port)

    def __repr__(self) -> str:
        return "Service(name=%r, host=%r, port=%r)" % (self.name, self.host, self.port)


def module(facts: Optional[Mapping[str, Dict[str, Any]]]) -> types.ModuleType:
    """A plugin with the fixture ``envpar_services``.

    Args:
        facts: ``host`` and ``port`` of each service; None outside of any stage.
    """
    made = types.ModuleType("envpar_services")
    services = (
        None
        if facts is None
        else types.MappingProxyType({name: Service(name, **each) for name, each in facts.items()})
    )

    def envpar_services() -> Mapping[str, Service]:
        """The services of the stage that this test runs in, by name: ``host``, ``port`` and ``address``."""
        if services is None:
            pytest.skip("services belong to a stage: run with --env=STAGE")
        return services

    envpar_services.__module__ = "pytest_envpar.fixtures"  # `--fixtures` groups by it: the same on both sides
    setattr(made, "envpar_services", pytest.fixture(scope="session")(envpar_services))  # noqa: B010 - a module
    return made
