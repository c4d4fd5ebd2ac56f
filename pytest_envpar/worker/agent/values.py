"""What a container's handle gives inside: plain values with the names and fields of the host's own types."""

import dataclasses
from typing import Any, Mapping, NamedTuple, Optional, Tuple


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return "[%s]:%d" % self if ":" in self.host else "%s:%d" % self


@dataclasses.dataclass(frozen=True)
class ExecResult:
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


@dataclasses.dataclass(frozen=True)
class Stats:
    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    name: str
    reference: str
    image_id: str
    parent_id: str
    stage: Optional[str]


@dataclasses.dataclass(frozen=True)
class Image:
    """``pytest_envpar.images.pinned.PinnedImage`` without all that the engine tells of it."""

    reference: str
    digest: Optional[str]
    image_id: str
    layers: Tuple[str, ...]
    platform: str
    _short: str = dataclasses.field(repr=False)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Image":
        return cls(
            str(told["reference"]),
            told["digest"],
            str(told["image_id"]),
            tuple(told["layers"]),
            str(told["platform"]),
            str(told["short"]),
        )

    @property
    def local(self) -> bool:
        return self.digest is None

    def short(self) -> str:
        return self._short
