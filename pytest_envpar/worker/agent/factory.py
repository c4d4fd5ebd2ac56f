"""The fixture ``envpar_containers`` inside a stage; see ``pytest_envpar.session.shelf``."""

import dataclasses
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from .calls import Caller
from .handles import Container
from .values import Checkpoint

if TYPE_CHECKING:
    from pytest_envpar import errors
else:
    from . import errors


class ContainerFactory:
    def __init__(self, caller: Caller, give_up: Callable[[Exception], Any]) -> None:
        self._caller = caller
        self._give_up = give_up
        self._turn = (0, 0)
        self.started: List[Container] = []

    def start(
        self,
        stage: Optional[str] = None,
        *,
        image: Optional[str] = None,
        command: Union[Sequence[str], str, None] = None,
        env: Optional[Mapping[str, str]] = None,
        ports: Sequence[Union[int, str]] = (),
    ) -> Container:
        return self.start_many(1, stage, image=image, command=command, env=env, ports=ports)[0]

    def start_many(
        self,
        count: int,
        stage: Optional[str] = None,
        *,
        image: Optional[str] = None,
        command: Union[Sequence[str], str, None] = None,
        env: Optional[Mapping[str, str]] = None,
        ports: Sequence[Union[int, str]] = (),
    ) -> List[Container]:
        fields: Dict[str, Any] = {
            "count": count,
            "stage": stage,
            "image": image,
            "command": command if command is None or isinstance(command, str) else list(command),
            "env": dict(env or {}),
            "ports": list(ports),
            "asker": self._turn[0],
            "more": self._turn[1],
        }
        try:
            told, _ = self._caller.call("start", **fields)
        except errors.EnvparError as error:
            if getattr(error, "skip", False):
                self._give_up(error)
            raise
        made = [Container(self._caller, each) for each in told["containers"]]
        self.started += made
        return made

    def _take(self, stage: Optional[str], name: str, more: int) -> Container:
        """A container for the fixture ``name``, of which ``more`` tests are going to ask for one."""
        try:
            told, _ = self._caller.call("take", stage=stage, name=name, more=more)
        except errors.EnvparError as error:
            self._give_up(error)
            raise
        return Container(self._caller, told)

    def checkpoint(self, name: str) -> Optional[Checkpoint]:
        told, _ = self._caller.call("find_checkpoint", name=name)
        return Checkpoint(**told) if told else None

    def restore(self, checkpoint: Union[Checkpoint, str], like: Optional[Container] = None) -> Container:
        named = checkpoint if isinstance(checkpoint, str) else dataclasses.asdict(checkpoint)
        told, _ = self._caller.call(
            "restore_any",
            checkpoint=named,
            like=like._key if like is not None else "",
            asker=self._turn[0],
            more=self._turn[1],
        )
        made = Container(self._caller, told)
        self.started.append(made)
        return made
