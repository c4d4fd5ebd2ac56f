"""Which of an engine's builders is asked, and what the second one is sent if the first one is not it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.docker_images import DockerImages
from pytest_envpar.engine.values.engine import EngineInfo
from pytest_envpar.errors import EngineError

from .shelf import info

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Literal

    from pytest_envpar.engine.api import Progress
    from pytest_envpar.engine.values.images import ImageInfo

PIECE = b"x" * 3_000_000


class Builders(DockerImages):
    """An engine whose builders say what a test wants, after they have read so many pieces."""

    def __init__(
        self, folder: Path, kind: Literal["docker", "podman"], refusals: dict[str, str], read: int = 1
    ) -> None:
        super().__init__("unix:///nowhere", None, folder)
        self._info = EngineInfo(kind, "1", "1.41", "unix:///e", True, False, True, 1, "linux", "amd64", "id")
        self._refusals = refusals
        self._pieces = read
        self.asked: list[str] = []
        self.sent = b""

    def inspect_image(self, reference: str) -> ImageInfo | None:
        assert reference == "t:1"
        return info("1")

    def _build(
        self,
        dockerfile: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        context: Iterable[bytes],
        progress: Progress | None,
    ) -> str | None:
        assert (query["dockerfile"], progress) == (dockerfile, None)
        assert headers["Content-Type"] == "application/x-tar"
        builder = "buildkit" if query.get("version") == "2" else "classic"
        self.asked.append(builder)
        if builder in self._refusals:
            pieces = iter(context)
            for _ in range(self._pieces):
                next(pieces)
            raise EngineError("build failed", detail=(self._refusals[builder],))
        self.sent = b"".join(context)
        return "id"


def pieces() -> Iterator[bytes]:
    for sign in (b"1", b"2", b"3", b"4", b"5"):
        yield sign + PIECE


NONE = "buildkit is not supported by daemon"
WANTED = "the --mount option requires BuildKit"


@pytest.mark.parametrize(
    ("kind", "refusals", "buildkit", "asked"),
    [
        ("docker", {}, True, ["buildkit"]),
        ("docker", {}, False, ["classic"]),
        ("docker", {"buildkit": NONE}, True, ["buildkit", "classic"]),
        ("docker", {"classic": WANTED}, False, ["classic", "buildkit"]),
        ("podman", {}, True, ["classic"]),
    ],
)
@pytest.mark.parametrize("read", [0, 1, 4])
def test_which_builder(
    kind: Literal["docker", "podman"],
    refusals: dict[str, str],
    buildkit: bool,
    asked: list[str],
    read: int,
    tmp_path: Path,
) -> None:
    """Whoever builds in the end gets the whole context, however much of it the first one has read."""
    engine = Builders(tmp_path, kind, refusals, read)
    engine.build(pieces(), dockerfile="D", tag="t:1", buildkit=buildkit)
    assert engine.asked == asked
    assert engine.sent == b"".join(pieces())


@pytest.mark.parametrize("name", ["D", "buildkit is not supported"])
def test_a_failed_build_is_not_repeated(name: str, tmp_path: Path) -> None:
    engine = Builders(tmp_path, "docker", {"buildkit": f"{name}: RUN exited with 1"})
    with pytest.raises(EngineError, match="build failed"):
        engine.build(pieces(), dockerfile=name, tag="t:1")
    assert engine.asked == ["buildkit"]


def test_podman_does_not_know_another_builder(tmp_path: Path) -> None:
    engine = Builders(tmp_path, "podman", {"classic": WANTED})
    with pytest.raises(EngineError):
        engine.build(pieces(), dockerfile="D", tag="t:1")
    assert engine.asked == ["classic"]
