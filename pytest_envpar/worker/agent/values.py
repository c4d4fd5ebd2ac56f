"""What calls of a container's handle give back: the names and fields of the host's own types, as plain values."""

from pathlib import PurePosixPath
from typing import NamedTuple, Optional


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return "[%s]:%d" % self if ":" in self.host else "%s:%d" % self


class ExecResult(NamedTuple):
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Stats(NamedTuple):
    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


class Checkpoint(NamedTuple):
    name: str
    reference: str
    image_id: str
    parent_id: str
    stage: Optional[str]


class Image(NamedTuple):
    """The facts of an image that are told inside; ``digest`` is None for one that no registry gave."""

    reference: str
    digest: Optional[str]
    image_id: str
    platform: str


class Change(NamedTuple):
    path: PurePosixPath
    kind: str
