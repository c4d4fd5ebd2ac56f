"""Why an image cannot be had from its registry: one error for each cause, each with what to do about it.

Engines pass on what registries, and Go's network library, say; there are no codes. The words are those of
containerd, distribution, Docker and Podman.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Literal

from pytest_envpar.errors import EngineError, ImageError, NotFoundError
from pytest_envpar.images.pinned import parse_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.engine.api import Engine

Cause = Literal[
    "occupied",
    "platform",
    "mismatch",
    "limited",
    "certificate",
    "denied",
    "missing",
    "unreachable",
    "unreliable",
    "other",
]
"""Why: on the engine for another platform under that digest, not for the platform, other bytes than the digest, rate
limited, a certificate that is not trusted, no right to it, not there, a registry that does not answer, one that answers
with errors of its own, none of these."""

# In this order: Docker Hub answers "pull access denied ... repository does not exist" to both, and a refused
# certificate is told in the words of a failed connection.
_SIGNS: Mapping[Cause, re.Pattern[str]] = {
    "occupied": re.compile("cannot overwrite digest"),
    "platform": re.compile(
        "no matching manifest|no image found in (manifest list|image index)|choosing an image from manifest list|"
        "does not match the specified platform|no match for platform|invalid platform|"
        "unknown operating system or architecture"
    ),
    "mismatch": re.compile(
        "verification failed for digest|does not match provided manifest digest|digest did not match|"
        "digest mismatch|does not match expected digest"
    ),
    "limited": re.compile("toomanyrequests|too many requests|rate limit"),
    "certificate": re.compile("x509|certificate|unknown authority"),
    "missing": re.compile(
        "repository does not exist|manifest unknown|name unknown|no such image|(?<!executable file )not found"
    ),
    "denied": re.compile(
        "unauthorized|authentication required|no basic auth|access denied|is denied|denied:|forbidden|"
        "(invalid|incorrect) username(/| or )password"
    ),
    "unreliable": re.compile(
        r"\beof\b|connection reset|broken pipe|http status:? 5\d\d|internal server error|bad gateway|"
        "service unavailable|gateway time-?out|remote end closed|connection was closed|handshake timeout"
    ),
    "unreachable": re.compile(
        "no such host|connection refused|time-?out|network is unreachable|dial tcp|no route to host|"
        r"server misbehaving|request canceled|temporary failure|\btls\b|http response to https client|"
        "context deadline exceeded|failed to resolve"
    ),
}


def cause_of(error: EngineError, reference: str) -> Cause:
    """What an engine's refusal to give ``reference`` means."""
    # A name can look like anything.
    said = " ".join((error.message, *error.detail)).replace(reference, "").lower()
    for cause, sign in _SIGNS.items():
        if sign.search(said) or (cause == "missing" and isinstance(error, NotFoundError)):
            return cause
    return "other"


def refusal(
    engine: Engine | None,
    where: str,
    reference: str,
    platform: str | None,
    error: EngineError,
    *,
    cause: Cause | None = None,
    direct: bool = False,
) -> ImageError:
    """The error for an image that ``engine`` or its registry refuses.

    Args:
        where: What starts the message, for example ``stage 'qa': image NAME``.
        reference: The image.
        platform: The platform that was asked for.
        error: What the engine said.
        cause: Why, if that is known.
        direct: Whether this process asked the registry itself.
    """
    cause = cause or cause_of(error, reference)
    evidence = tuple(line for line in (*error.message.splitlines(), *error.detail) if line.strip())
    host = registry_host(reference)
    login = f"docker login{'' if host == 'docker.io' else ' ' + host}"
    asked = platform or (
        f"{engine.info.os}/{engine.info.architecture}" if engine is not None else "asked for"
    )
    others = "" if engine is None else f"; {_local_hint(engine, reference)}"
    whose, absent = ("", "") if direct else ("engine's ", ", and the engine does not have the image")
    message, hint = {
        "occupied": (
            f"{where} is on the engine for another platform than {asked}, and it keeps one for each digest",
            f"docker image rm {reference}; then run this again; or name the platform's own digest",
        ),
        "platform": (
            f"{where} does not exist for the platform {asked}",
            f"change 'platform' of the stage, or use an image built for {asked}",
        ),
        "mismatch": (
            f"{where} is refused: the registry serves other bytes than the digest names",
            f"nothing of it was used; ask who runs {host}, and try again: a proxy in between can be the cause",
        ),
        "limited": (
            f"{where} was not given: its registry {host} limits how often it may be asked",
            f"wait, or log in for a higher limit: {login}",
        ),
        "certificate": (
            f"{where} was not fetched: the certificate of {host} is not trusted",
            certificate_hint(None if direct else engine, host),
        ),
        "denied": (
            f"{where} was refused by its registry",
            f"log in: {login}; what is stored for {host} may be out of date",
        ),
        "missing": (
            f"{where} was not found",
            f"check the name; a private image needs docker login{others}",
        ),
        "unreachable": (
            f"{where} was not fetched: its registry {host} cannot be reached{absent}",
            f"check the network and the {whose}proxy settings{others}",
        ),
        "unreliable": (
            f"{where} could not be fetched: its registry {host}, or the network to it, fails again and again",
            "try again later",
        ),
        "other": (f"{where} could not be pulled", others.removeprefix("; ") or None),
    }[cause]
    return ImageError(message, hint=hint, detail=evidence)


def certificate_hint(engine: Engine | None, host: str) -> str:
    """What makes ``engine``, or without one this process, trust a registry with a certificate authority of its own."""
    if engine is None:
        return (
            f"put the certificate of its authority into /etc/containers/certs.d/{host}/ca.crt, "
            "or name a bundle that has it by SSL_CERT_FILE"
        )
    folder = "/etc/containers/certs.d" if engine.info.kind == "podman" else "/etc/docker/certs.d"
    machine = "" if engine.info.local else " on the engine's machine"
    return f"put the certificate of its authority into {folder}/{host}/ca.crt{machine}; no restart is needed"


def registry_host(reference: str) -> str:
    """``host[:port]`` of the registry that a reference names."""
    return parse_reference(reference).name.partition("/")[0]


def _local_hint(engine: Engine, reference: str) -> str:
    try:
        names = sorted({listed.name for listed in engine.list_images({}) if ":" in listed.name})
    except EngineError:
        names = []
    names = [name for name in names if "<none>" not in name and not name.startswith("sha256:")]
    near = difflib.get_close_matches(reference, names, n=5, cutoff=0.4) or names[:5]
    return f"images on this engine: {', '.join(near)}" if near else "the engine has no images of its own"
