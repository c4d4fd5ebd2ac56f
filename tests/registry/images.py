"""Tiny images, made and pushed without an engine: a registry stores manifests and blobs, no more."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import ssl
import tarfile
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urljoin, urlsplit

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def sha256(data: bytes) -> str:
    """The digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a registry now has."""

    digest: str
    size: int
    image_id: str = ""
    platform: str = ""


@dataclasses.dataclass(frozen=True)
class Pusher:
    """Puts images into the registry at ``base`` (``http[s]://host:port``).

    Args:
        authorization: The header to show.
        cafile: Whose certificate to believe.
    """

    base: str
    authorization: str | None = None
    cafile: str | None = None

    def image(self, name: str, tag: str, *layers: bytes, platform: str = "linux/amd64") -> Pushed:
        """Push an image with one file of this content in each layer."""
        tars = [_tar(f"file{number}", content) for number, content in enumerate(layers)]
        packed = [gzip.compress(tar, compresslevel=1, mtime=0) for tar in tars]
        os_name, architecture = platform.split("/")
        config = _json(
            {
                "architecture": architecture,
                "os": os_name,
                "config": {"Cmd": ["/file0"]},
                "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
                "history": [{"created_by": f"made {sha256(tar)}"} for tar in tars],
            }
        )
        for blob in (config, *packed):
            self._blob(name, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(CONFIG, config),
            "layers": [_described(LAYER, blob) for blob in packed],
        }
        made = self._manifest(name, tag, MANIFEST, manifest)
        return dataclasses.replace(made, image_id=sha256(config), platform=platform)

    def index(self, name: str, tag: str, *images: Pushed) -> Pushed:
        """Push an index of images that are there."""
        manifests = []
        for image in images:
            os_name, architecture = image.platform.split("/")
            manifests.append(
                {
                    "mediaType": MANIFEST,
                    "digest": image.digest,
                    "size": image.size,
                    "platform": {"os": os_name, "architecture": architecture},
                }
            )
        return self._manifest(
            name, tag, LIST, {"schemaVersion": 2, "mediaType": LIST, "manifests": manifests}
        )

    def _manifest(self, name: str, tag: str, kind: str, content: dict[str, Any]) -> Pushed:
        body = _json(content)
        self._ask("PUT", f"{self.base}/v2/{name}/manifests/{tag}", body, kind)
        return Pushed(sha256(body), len(body))

    def _blob(self, name: str, data: bytes) -> None:
        where = self._ask("POST", f"{self.base}/v2/{name}/blobs/uploads/", b"", CONFIG)
        sign = "&" if urlsplit(where).query else "?"
        self._ask("PUT", f"{where}{sign}digest={sha256(data)}", data, "application/octet-stream")

    def _ask(self, method: str, url: str, body: bytes, kind: str) -> str:
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
        if self.authorization:
            request.add_header("Authorization", self.authorization)
        context = ssl.create_default_context(cafile=self.cafile) if self.cafile else None
        # A registry of this machine is asked without the machine's proxy.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=30) as answer:
                return urljoin(url, str(answer.headers.get("Location") or ""))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {url}: {error.code} {error.read()[:500]!r}") from None


def _tar(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o755
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _described(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(data), "digest": sha256(data)}
