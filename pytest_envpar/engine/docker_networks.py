"""The verbs of networks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_envpar.engine.calls import Calls, label_filter
from pytest_envpar.engine.parse.listings import listed_named
from pytest_envpar.engine.parse.shapes import rows, table
from pytest_envpar.engine.paths import at
from pytest_envpar.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.engine.values.engine import Listed


class DockerNetworks(Calls):
    """See :class:`~pytest_envpar.engine.api.Engine`."""

    def create_network(self, name: str, *, labels: Mapping[str, str], internal: bool = False) -> str:
        body = {
            "Name": name,
            "Driver": "bridge",
            "Internal": internal,
            "Labels": dict(labels),
            # Docker would make a second network of a name that is taken.
            "CheckDuplicate": True,
        }
        answer = self._json("POST", "/networks/create", f"network {name}", body=body)
        return str(table(answer).get("Id") or "")

    def connect_network(self, network: str, container: str, *, aliases: Sequence[str] = ()) -> None:
        body = {"Container": container, "EndpointConfig": {"Aliases": list(aliases)}}
        doing = f"network {network[:40]}: connect container {container[:12]}"
        self._done("POST", at("networks", network, "connect"), doing, body=body)

    def list_networks(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/networks", "networks", query=label_filter(labels))
        return tuple(listed_named(item) for item in rows(answer))

    def remove_network(self, network: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", at("networks", network), f"network {network}")
