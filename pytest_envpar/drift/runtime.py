"""What a test runs on before any of its own code: interpreter, C library, loader, TLS."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "dpkg": re.compile(
            r"(lib)?python3(\.\d+)?(-minimal|-stdlib|t64)?|libpython3(\.\d+)?-(minimal|stdlib)|pypy3(-lib)?"
            r"|libc6(-.*)?|libc-bin|libc-l10n|libgcc-s1|libstdc\+\+6"
            r"|openssl|libssl[\d.]+(t64)?|libgnutls\d+(t64)?|libnss3|ca-certificates"
        ),
        "rpm": re.compile(
            r"python3(\.?\d+)?(-base|-libs)?|libpython3(\.?|_)\d+.*|pypy3(-libs)?|glibc(-.*)?|libgcc(_s1)?|libstdc\+\+6?"
            r"|openssl(-libs|-3)?|libopenssl.*|gnutls|libgnutls\d+|nss|ca-certificates(-mozilla)?|crypto-policies"
        ),
        "apk": re.compile(
            r"python3|pypy3|musl|libgcc|libstdc\+\+|gcompat|openssl|libssl[\d.]+|libcrypto[\d.]+|gnutls"
            r"|ca-certificates(-bundle)?"
        ),
        "conda": re.compile(
            r"python|pypy3(\.\d+)?|libgcc(-ng)?|libstdcxx(-ng)?|sysroot_.*|openssl|ca-certificates"
        ),
    }
)
_LOADED = re.compile(
    r"/(?:.*/)?lib[^/]*/(?:.*/)?"
    r"(?:ld-[^/]*\.so[^/]*|libc\.so\.[^/]*|libc-2[^/]*\.so|(?:libssl|libcrypto|libpython3[^/]*)\.so[^/]*)",
    re.DOTALL,
)
_INTERPRETER = re.compile(r"/(?:.*/)?bin/python(?:3(?:\.\d+)?)?|/etc/ld\.so\.preload", re.DOTALL)
_LIBRARY = re.compile(r"/usr/(?:local/)?lib/python3\.\d+/(?!(?:site|dist)-packages(?:/|$))")


def is_runtime_package(ecosystem: str, name: str) -> bool:
    """Whether a package is part of what every test runs on."""
    known = _PACKAGES.get(ecosystem)
    return known is not None and known.fullmatch(name) is not None


def is_runtime_path(path: str) -> bool:
    """Whether a path that no package owns is: a compiled-in interpreter, as official Python images have it."""
    return _LIBRARY.match(path) is not None or any(each.fullmatch(path) for each in (_LOADED, _INTERPRETER))
