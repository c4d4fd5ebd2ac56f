"""Pulls from a real registry: tags and digests, progress, policies, platforms."""

from __future__ import annotations

import io
import re
import secrets
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.bars import Teller
from pytest_envpar.errors import ImageError
from pytest_envpar.images.registry import remote_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.engine.docker_api import DockerEngine

    from .cases import Case
    from .servers import Answer, Ask, Front, Registry

pytestmark = pytest.mark.engine


BAR = r"^  [0-9a-f]{12}  (downloading|extracting) +\[[#-]{24}\] [\d.]+ [kM]?B / 9\.0 MB$"


class Terminal(io.StringIO):
    """A terminal that says when it shows a layer's bar."""

    def __init__(self) -> None:
        super().__init__()
        self.shows_bar = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if re.search(BAR, text, re.MULTILINE):
            self.shows_bar.set()
        return super().write(text)


def test_a_tag_becomes_a_digest(case: Case) -> None:
    pushed = case.push()
    told: list[str] = []
    pinned = case.resolve(progress=told.append)
    assert (pinned.digest, pinned.image_id, pinned.local) == (pushed.digest, pushed.image_id, False)
    assert pinned.platform == "linux/amd64"
    assert pinned.short() == f"{case.reference()}@{pushed.digest[:19]}"
    assert told[0] == f"pulling {case.reference()}"
    assert re.fullmatch(rf"pulled {re.escape(case.reference())} \(1 layer.*\) in \d+\.\d s", told[1])
    assert len(told) == 2
    found = remote_digest(case.engine, case.reference())
    assert (found.digest, found.platforms) == (pushed.digest, ("linux/amd64",))


def test_a_digest_is_pulled_whatever_its_tag_means(fronted: Case, front: Front) -> None:
    old = fronted.push()
    new = fronted.push()
    told: list[str] = []
    pinned = fronted.resolve(digest=old.digest, progress=told.append)
    assert (pinned.digest, pinned.image_id) == (old.digest, old.image_id)
    assert pinned.reference == fronted.reference()
    assert told[0] == f"pulling {fronted.reference(digest=old.digest)}"
    assert fronted.engine.inspect_image(fronted.reference()) is None
    assert not [ask for ask in front.asked if ask.path.endswith("/manifests/1")]
    # It is there: nobody is asked, not even by a policy that asks always.
    front.asked.clear()
    for policy in ("missing", "always", "never"):
        again = fronted.resolve(fronted.stage(pull=policy), digest=old.digest, progress=told.append)
        assert again == pinned
    assert fronted.resolve(fronted.stage(), image_id=old.image_id).image_id == old.image_id
    assert front.asked == []
    assert len(told) == 2
    # And the tag itself is still the new one.
    assert fronted.resolve().digest == new.digest


def test_a_digest_that_is_not_there_is_not_replaced_by_the_tag(case: Case) -> None:
    case.push()
    digest = "sha256:" + secrets.token_hex(32)
    with pytest.raises(ImageError, match=f"image {case.reference(digest=digest)} was not found"):
        case.resolve(digest=digest)
    with pytest.raises(ImageError, match=r"local image .*, which this engine lacks"):
        case.resolve(image_id=digest)
    assert case.engine.inspect_image(case.reference()) is None


def test_bars_of_a_pull(fronted: Case, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()

    def paced(ask: Ask, answer: Answer) -> Answer:
        # Layers come slowly enough for the engine to tell of them, and no slower than is needed.
        answer.pause = lambda: out.shows_bar.wait(2)
        return answer

    front.after = paced
    fronted.push(secrets.token_bytes(9_000_000), secrets.token_bytes(9_000_000))
    fronted.resolve(progress=Teller(out, columns=100))
    shown = out.getvalue()
    assert re.search(BAR, shown, re.MULTILINE)
    assert re.search(r"^  \d of 2 layers done, [\d.]+ [kM]?B of [\d.]+ MB known$", shown, re.MULTILINE)
    last = shown.rpartition("\x1b[J")[2]
    assert re.fullmatch(r"envpar: pulled \S+ \(2 layers, 18\.0 MB\) in [\d.]+ s\n", last)


def test_the_policy_never(case: Case, front: Front) -> None:
    case.push()
    with pytest.raises(ImageError, match=r'does not have .*, and pull = "never"') as caught:
        case.resolve(case.stage(pull="never"))
    assert (
        caught.value.hint == f"docker pull {case.reference()}; or remove 'pull' from [tool.envpar.stages.qa]"
    )
    case.resolve()
    assert case.resolve(case.stage(pull="never")).digest


def test_the_policy_always_takes_what_the_tag_means_now(case: Case) -> None:
    old = case.push()
    case.resolve()
    new = case.push()
    assert case.resolve().digest == old.digest
    assert case.resolve(case.stage(pull="always")).digest == new.digest
    case.reference(digest=old.digest)


def test_the_policy_always_needs_the_registry(fronted: Case, front: Front) -> None:
    fronted.push()
    fronted.resolve()
    front.close()
    assert fronted.resolve().digest
    with pytest.raises(ImageError, match="cannot be reached"):
        fronted.resolve(fronted.stage(pull="always"))


@pytest.fixture
def several(case: Case) -> tuple[str, str, str]:
    """An index of two platforms under the tag 1: its digest, then those of its images."""
    here = case.push(b"amd64", tag="amd64")
    there = case.push(b"arm64", tag="arm64", platform="linux/arm64")
    return case.pusher.index(case.name, "1", here, there).digest, here.digest, there.digest


def test_an_index_of_several_platforms(case: Case, several: tuple[str, str, str]) -> None:
    index, here, there = several
    found = remote_digest(case.engine, case.reference(), "linux/arm64")
    assert (found.digest, found.platforms) == (index, ("linux/amd64", "linux/arm64"))
    with pytest.raises(ImageError, match="does not exist for the platform linux/s390x") as caught:
        remote_digest(case.engine, case.reference(), "linux/s390x")
    assert "linux/amd64, linux/arm64" in (caught.value.hint or "")
    # The index is pinned, whichever platform was taken from it.
    ours = case.resolve()
    assert (ours.digest, ours.platform) == (index, "linux/amd64")
    # Pinned by the index, which is there for another platform. Docker 20.10 cannot have both.
    with pytest.raises(ImageError, match="on the engine for another platform than linux/arm64") as caught:
        case.resolve(case.stage(platform="linux/arm64"), digest=index)
    assert f"docker image rm {case.reference(digest=index)};" in (caught.value.hint or "")
    for reference in (case.reference(), case.reference(digest=index)):
        case.engine.remove_image(reference)
    theirs = case.resolve(case.stage(platform="linux/arm64"), digest=index)
    assert (theirs.digest, theirs.platform) == (index, "linux/arm64")
    assert theirs.image_id != ours.image_id
    # Pinned by a platform's own manifest.
    own = case.resolve(case.stage(platform="linux/arm64"), digest=there)
    assert (own.digest, own.image_id) == (there, theirs.image_id)
    assert case.resolve(digest=here).image_id == ours.image_id
    with pytest.raises(ImageError, match="another platform than linux/amd64"):
        case.resolve(case.stage(platform="linux/amd64"), digest=index)


def test_a_platform_that_an_index_does_not_have(case: Case, several: tuple[str, str, str]) -> None:
    with pytest.raises(ImageError, match="does not exist for the platform linux/s390x") as caught:
        case.resolve(case.stage(platform="linux/s390x"))
    assert "'platform' of the stage" in (caught.value.hint or "")
    with pytest.raises(ImageError, match="linux/amd64"):
        case.resolve(case.stage(platform="linux/arm64"), digest=several[1])


def test_an_image_of_one_other_platform(case: Case) -> None:
    case.push(platform="linux/arm64")
    with pytest.raises(ImageError, match=r"linux/amd64"):
        case.resolve(case.stage(platform="linux/amd64"))


def test_podman_pulls_by_digest(
    podman: DockerEngine, plain: Registry, make_case: Callable[..., Case]
) -> None:
    case = make_case(podman, plain)
    old, new = case.push(), case.push()
    told: list[str] = []
    pinned = case.resolve(digest=old.digest, progress=told.append)
    assert (pinned.digest, pinned.image_id) == (old.digest, old.image_id)
    assert told[0].startswith("pulling ")
    assert told[1].startswith("pulled ")
    assert len(told) == 2
    assert case.resolve().digest == new.digest
    # Podman cannot ask: this process does.
    assert remote_digest(podman, case.reference()).digest == new.digest
