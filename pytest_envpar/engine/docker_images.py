"""What an engine does with images: pull, build, tag, list, remove."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tempfile
import threading
import time
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from pytest_envpar.engine import layers, registry_auth
from pytest_envpar.engine.calls import Calls, label_filter
from pytest_envpar.engine.parse.images import image_info
from pytest_envpar.engine.parse.listings import listed_image
from pytest_envpar.engine.parse.shapes import image_id, labels, rows, table, texts
from pytest_envpar.engine.paths import at
from pytest_envpar.engine.retry import Backoff, may_pass
from pytest_envpar.engine.translate import translated
from pytest_envpar.engine.values.engine import Listed
from pytest_envpar.errors import ConnectionLostError, EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Progress
    from pytest_envpar.engine.connection import TlsFiles
    from pytest_envpar.engine.values.create import ContainerSpec
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.engine.values.origins import HistoryEntry, RemoteImage

_SPOOL_BYTES = 8 << 20
# The first is the classic builder's word for a Dockerfile that is not for it.
_OTHER_BUILDER = re.compile(
    r"requires BuildKit|buildkit (is|was) .{0,30}(supported|enabled|available)|invalid version",
    re.IGNORECASE,
)
_LIBPOD = "/v4.0.0/libpod"
_JSON: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
_NOTHING: Mapping[str, str] = MappingProxyType({})


class DockerImages(Calls):
    """The image verbs of :class:`~pytest_envpar.engine.api.Engine`.

    Args:
        docker_config: The user's Docker configuration folder with the registry credentials; by default
            ``DOCKER_CONFIG`` or ``~/.docker``.
        backoff: How often a pull is tried that a registry or the network breaks off.
    """

    def __init__(
        self, url: str, tls: TlsFiles | None, docker_config: Path | None, backoff: Backoff | None = None
    ) -> None:
        super().__init__(url, tls)
        self._docker_config = docker_config
        self._backoff = backoff or Backoff()
        self._cancelled = threading.Event()

    def inspect_image(self, reference: str) -> ImageInfo | None:
        try:
            return image_info(self._json("GET", at("images", reference, "json"), f"image {reference}"))
        except NotFoundError:
            return None

    def image_history(self, image: str) -> tuple[HistoryEntry, ...]:
        from pytest_envpar.engine.parse.origins import image_history

        return image_history(self._json("GET", at("images", image, "history"), f"image {image}"))

    def pull(self, reference: str, *, platform: str | None = None, progress: Progress | None = None) -> None:
        attempt = 0
        while True:
            try:
                return self._pull(reference, platform, progress)
            except ConnectionLostError:
                raise
            except EngineError as error:
                said = "\n".join((error.message, *error.detail)).replace(reference, "")
                delay_s = self._backoff.delay_s(attempt) if may_pass(said) else None
                if delay_s is None:
                    raise
                if progress is not None:
                    progress(f"{error.message}: trying again in {delay_s:.0f} s")
                if self._cancelled.wait(delay_s):
                    raise
            attempt += 1

    def remote_image(self, reference: str) -> RemoteImage | None:
        if self._info.kind == "podman":
            return None
        from pytest_envpar.engine.parse.origins import remote_image

        headers = self._credentials(reference)
        with translated(f"image {reference}", self._url):
            answer = self._request("GET", at("distribution", reference, "json"), headers=headers).json()
        return remote_image(reference, answer)

    def build(
        self,
        context: Iterable[bytes],
        *,
        dockerfile: str,
        tag: str | None,
        target: str | None = None,
        args: Mapping[str, str] = _NOTHING,
        labels: Mapping[str, str] = _NOTHING,
        platform: str | None = None,
        buildkit: bool = True,
        progress: Progress | None = None,
    ) -> str:
        query = {
            "dockerfile": dockerfile,
            "rm": "1",
            "forcerm": "1",
            "buildargs": json.dumps(dict(args)),
            "labels": json.dumps(dict(labels)),
        }
        if args and self.info.kind == "podman":
            # Buildah's layer cache (seen with Podman 4.3) does not look at arguments: another value of one gave
            # the image of the first.
            query["nocache"] = "1"
        named = {"t": tag, "target": target, "platform": platform}
        query |= {key: value for key, value in named.items() if value}
        headers = {"Content-Type": "application/x-tar"}
        with translated(f"build of {dockerfile}: credentials", self._url):
            auth = registry_auth.header_for_all(self._docker_config)
        if auth:
            headers["X-Registry-Config"] = auth
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            pieces = _copied(context, spool)
            newer = query | {"version": "2"}
            try:
                first = newer if buildkit and self._info.kind == "docker" else query
                found = self._build(dockerfile, first, headers, pieces, progress)
            except EngineError as error:
                said = "\n".join((error.message, *error.detail)).replace(dockerfile, "")
                if self._info.kind != "docker" or not _OTHER_BUILDER.search(said):
                    raise
                # The engine has no BuildKit; or a Dockerfile that BuildKit was not to have needs it.
                again = query if buildkit else newer
                found = self._build(
                    dockerfile, again, headers, itertools.chain(_replayed(spool), pieces), progress
                )
        # What the build says of its id is cut short on some engines; the image itself says all of it.
        image = self.inspect_image(tag or found or "")
        if image is None:
            raise EngineError(f"build of {dockerfile}: the engine ended without an image")
        return image.id

    def create_layer(self, image: ImageInfo, spec: ContainerSpec) -> str:
        doing = f"container of image {spec.image}"
        query = {"name": spec.name} if spec.name else {}
        if self._info.kind == "podman":
            # Through its Docker API its own variables would get into the container's, and with them into the image.
            with translated(doing, self._url):
                answer: Any = self._http.request(
                    "POST",
                    f"{_LIBPOD}/containers/create",
                    headers=_JSON,
                    body=json.dumps(layers.podman_body(image, spec)).encode(),
                ).json()
        else:
            if spec.platform:
                query["platform"] = spec.platform
            body = layers.docker_body(image, spec)
            answer = self._json("POST", "/containers/create", doing, query=query, body=body)
        return str(table(answer).get("Id") or "")

    def commit_layer(self, container: str, image: ImageInfo, *, tag: str, labels: Mapping[str, str]) -> None:
        from pytest_envpar.engine.parse.containers import container_info

        doing = f"image {tag}"
        had = container_info(self._json("GET", at("containers", container, "json"), doing)).labels
        # What says whose the container is would get into the image, and cannot be taken out again.
        labels = {**{key: "" for key in had if key not in image.labels}, **labels}
        repository, _, version = tag.rpartition(":")
        query = {"container": container, "repo": repository, "tag": version}
        body: Mapping[str, Any] = {}
        if self._info.kind == "podman":
            query["changes"] = layers.podman_changes(image, labels, self._info.version)
        else:
            body = layers.docker_config(image, labels)
        self._json("POST", "/commit", doing, query=query, body=body)

    def tag_image(self, image: str, tag: str) -> None:
        name, _, version = tag.rpartition(":")
        self._done(
            "POST",
            at("images", image, "tag"),
            f"image {image}",
            query={"repo": name or tag, "tag": version if name else "latest"},
        )

    def remove_image(self, image: str, *, force: bool = False) -> None:
        query = {"force": "1"} if force else None
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", at("images", image), f"image {image}", query=query)

    def list_images(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/images/json", "images", query=label_filter(labels))
        return tuple(listed_image(item) for item in rows(answer))

    def list_tagged(self, repository: str) -> tuple[Listed, ...]:
        # Podman has names with their registry, also those without one: its own, or that of Docker for an image that
        # was tagged over this API.
        pattern = f"*{repository}:*" if self._info.kind == "podman" else f"{repository}:*"
        query = {"filters": json.dumps({"reference": [pattern]})}
        found = (table(item) for item in rows(self._listing("/images/json", "images", query=query)))
        return tuple(
            Listed(image_id(item.get("Id")), tag, labels(item.get("Labels")))
            for item in found
            for tag in texts(item.get("RepoTags"))
            if tag.removeprefix("localhost/").removeprefix("docker.io/").startswith(f"{repository}:")
        )

    def save_image(self, image: str) -> Iterator[bytes]:
        with translated(f"image {image}: save", self._url):
            yield from self._request("GET", at("images", image, "get"), timeout_s=None).chunks()

    def load_image(self, tar: Iterable[bytes]) -> None:
        from pytest_envpar.engine.progress import follow_load

        headers = {"Content-Type": "application/x-tar"}
        with translated("image: load", self._url):
            response = self._request(
                "POST", "/images/load", query={"quiet": "1"}, headers=headers, body=tar, timeout_s=None
            )
            with contextlib.closing(response):
                follow_load(response.chunks())

    def _credentials(self, reference: str) -> dict[str, str]:
        with translated(f"image {reference}: credentials", self._url):
            auth = registry_auth.header_for(reference, self._docker_config)
        return {"X-Registry-Auth": auth} if auth else {}

    def _pull(self, reference: str, platform: str | None, progress: Progress | None) -> None:
        doing = f"image {reference}"
        query = {"fromImage": reference}
        # A name without a tag would pull every tag there is.
        name, digest = reference.rpartition("@")[::2]
        if name:
            query = {"fromImage": name, "tag": digest}
        else:
            name, tag = reference.rpartition(":")[::2]
            query = {"fromImage": name, "tag": tag} if name and "/" not in tag else query | {"tag": "latest"}
        if platform:
            query["platform"] = platform
        from pytest_envpar.engine.progress import follow_pull

        headers = self._credentials(reference)
        began = time.monotonic()
        with translated(doing, self._url):
            response = self._request("POST", "/images/create", query=query, headers=headers, timeout_s=None)
            # An error in the middle leaves the rest unread: nobody else would close the connection.
            with contextlib.closing(response):
                pull = follow_pull(response.chunks(), progress)
        if progress is not None:
            what = pull.summary()
            progress(f"pulled {reference}{f' ({what})' if what else ''} in {time.monotonic() - began:.1f} s")

    def _build(
        self,
        dockerfile: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        context: Iterable[bytes],
        progress: Progress | None,
    ) -> str | None:
        from pytest_envpar.engine.progress import follow_build

        with translated(f"build of {dockerfile}", self._url):
            response = self._request(
                "POST", "/build", query=query, headers=headers, body=context, timeout_s=None
            )
            with contextlib.closing(response):
                return follow_build(response.chunks(), dockerfile, progress)


def _copied(pieces: Iterable[bytes], spool: IO[bytes]) -> Iterator[bytes]:
    """``pieces``, which are kept in ``spool`` on their way."""
    for piece in pieces:
        spool.write(piece)
        yield piece


def _replayed(spool: IO[bytes]) -> Iterator[bytes]:
    """What was kept in ``spool`` so far; what is copied to it later goes behind it."""
    at, end = 0, spool.tell()
    while at < end:
        spool.seek(at)
        piece = spool.read(min(_SPOOL_BYTES, end - at))
        at += len(piece)
        yield piece
    spool.seek(0, os.SEEK_END)
