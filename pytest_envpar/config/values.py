"""The kinds of values a configuration can hold: images, sizes, paths, mounts, engines and so on."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.config.kinds import (
    BadValue,
    Kind,
    list_of,
    map_of,
    one_or_more,
    text_of,
    word_of,
    wrong,
)
from pytest_envpar.config.suggest import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

_INT64 = 2**63 - 1
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(
    r"(?P<whole>[0-9]{1,18})(?:\.(?P<part>[0-9]{1,18}))?\s*(?P<unit>[kmgt]?)(?P<byte>i?b)?", re.IGNORECASE
)
_ULIMITS = (
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
_VOLUME_OPTIONS = ("ro", "rw")


def _container_path(text: str, expected: str = "an absolute path in the container") -> PurePosixPath:
    if not text.startswith("/"):
        raise wrong(expected, text)
    # Exactly one slash in front: POSIX gives two a meaning of their own, and PurePosixPath keeps them.
    path = PurePosixPath("/" + text.lstrip("/"))
    if ".." in path.parts:
        raise BadValue(f"{quoted(text)} leads upwards with '..'", fix="write the path without '..'")
    if path.parts[1:2] == (".envpar",):
        raise BadValue(f"{quoted(text)} is reserved: /.envpar in a container belongs to pytest-envpar")
    return path


def _parse_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong("true or false", value)
    return value


def _parse_true(value: object) -> bool:
    if value is not True:
        raise wrong("true", value, fix="remove the key, or write true")
    return True


def _integer(value: object, low: int, high: int, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(expected, value)
    return value


def _parse_count(value: object) -> int:
    return _integer(value, 1, _INT64, "a positive integer")


def _parse_port(value: object) -> int:
    return _integer(value, 1, 65535, "a port from 1 to 65535")


def _parse_status(value: object) -> int:
    return _integer(value, 100, 599, "an HTTP status from 100 to 599")


def _parse_limit(value: object) -> int:
    return _integer(value, -1, _INT64, "an integer, 0 or more, or -1 for no limit")


def _number(value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(expected, value)
    # One billion is far beyond any use and keeps later arithmetic (nanoseconds, nano CPUs) inside 64 bits.
    # Not a number and infinity fail it as well.
    if not 0 < value <= 1e9:
        raise wrong(expected, value)
    return float(value)


def _parse_cpus(value: object) -> float:
    expected = "a number of CPUs, at least 0.01"
    cpus = _number(value, expected)
    # The kernel grants no less than 1 ms in 100; smaller values end as 0, which engines read as no limit.
    if cpus < 0.01:
        raise wrong(expected, value)
    return cpus


def _parse_duration(value: object) -> float:
    return _number(value, "a positive number of seconds")


def _parse_size(value: object) -> int:
    expected = "a size: a string with a unit"
    text = text_of(value, expected)
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise wrong(expected, value)
    if not match["unit"] and not match["byte"]:
        raise BadValue(
            f"{quoted(text)} has no unit", fix=f"write {quoted(text.strip() + 'm')} for MiB, or b, k, g"
        )
    if not match["unit"] and match["byte"].lower() == "ib":
        raise wrong(expected, value)
    part = match["part"] or ""
    unit = _UNITS[match["unit"].lower()]
    size: int = int(match["whole"] + part) * unit // int(10 ** len(part))
    if not 1 <= size <= _INT64:
        raise BadValue(f"{quoted(text)} is out of range", fix="leave the key out for no limit of ours")
    return size


def _parse_string(value: object) -> str:
    text = text_of(value, "a string")
    if not text.strip():
        raise BadValue("is empty", fix="write a value, or leave the key out")
    return text


def _parse_argument(value: object) -> str:
    return text_of(value, "a string")


def _parse_program(value: object) -> tuple[object, ...]:
    words = ARGUMENTS.parse(value)
    assert isinstance(words, tuple)
    if words and not words[0].strip():
        raise BadValue("is empty", fix="begin with the program to run", at="[0]")
    return words


def _parse_word(value: object) -> str:
    return word_of(value, "a name")


def _parse_image(value: object) -> str:
    text = word_of(value, "an image: a name with a tag or a digest")
    if text.startswith("-"):
        raise wrong("an image: a name with a tag or a digest", value)
    if "://" in text:
        fix = f"write it without the scheme: {quoted(text.split('://', 1)[1])}"
        raise BadValue(f"{quoted(text)} is a URL, not an image", fix=fix)
    return text


def _parse_host_path(value: object) -> str:
    text = _parse_string(text_of(value, "a path on the host"))
    if "://" in text:
        raise BadValue(f"{quoted(text)} is a URL; only paths on the host are supported", fix="write a path")
    if text.startswith("~"):
        raise BadValue(f"{quoted(text)}: '~' is not expanded", fix="write a path relative to this file")
    return text


def _parse_container_path(value: object) -> PurePosixPath:
    expected = "an absolute path in the container"
    return _container_path(text_of(value, expected))


def _parse_python(value: object) -> str:
    expected = "an absolute path in the container, or a command name"
    text = _parse_string(text_of(value, expected))
    return str(_container_path(text, expected)) if "/" in text else word_of(text, expected)


def _parse_user(value: object) -> str:
    expected = "a user: a string with a name or number, and a group after a colon"
    text = word_of(value, expected)
    if not re.fullmatch(r"[^:]+(:[^:]+)?", text):
        raise wrong(expected, value)
    return text


def _parse_platform(value: object) -> str:
    expected = "a platform: os/architecture or os/architecture/variant"
    text = text_of(value, expected)
    if not re.fullmatch(r"[a-z0-9_.-]+/[a-z0-9_.-]+(/[a-z0-9_.-]+)?", text):
        raise wrong(expected, value)
    return text


def _parse_env_name(value: object) -> str:
    text = text_of(value, "the name of an environment variable")
    if not re.fullmatch(r"[^=\s*?]+", text) or not text.isprintable():
        raise wrong("the name of an environment variable, without '=', spaces and patterns", value)
    return text


def _parse_env_value(value: object) -> str:
    if isinstance(value, bool):
        raise wrong("a string", value, fix=f'quote it: "{str(value).lower()}"')
    if isinstance(value, int | float):
        fix = f'quote it: "{value}"' if isinstance(value, float) or value.bit_length() < 200 else "quote it"
        raise wrong("a string", value, fix=fix)
    return text_of(value, "a string")


def _parse_capability(value: object) -> str:
    text = word_of(value, "the name of a capability")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text):
        raise wrong("the name of a capability", value)
    return text.upper()


def _parse_tmpfs(value: object) -> str:
    expected = "an absolute path in the container, with options after a colon"
    text = text_of(value, expected)
    path_text, colon, options = text.partition(":")
    path = _container_path(path_text, expected)
    if path == PurePosixPath("/"):
        raise BadValue('"/" cannot be a tmpfs', fix="read-only = true makes the image's own files read-only")
    if colon and not re.fullmatch(
        r"[A-Za-z0-9_]+(=[A-Za-z0-9_.%-]+)?(,[A-Za-z0-9_]+(=[A-Za-z0-9_.%-]+)?)*", options
    ):
        raise BadValue(
            f"{quoted(text)} has options that cannot be read", fix='write for example "/tmp:size=64m"'
        )
    return f"{path}:{options}" if colon else str(path)


def split_volume(text: str) -> tuple[str | None, PurePosixPath, bool]:
    """Take a docker style volume apart.

    Args:
        text: ``[SOURCE:]/CONTAINER/PATH[:ro|:rw]``.

    Returns:
        The source (a volume's name or a host path, ``None`` for an anonymous volume), the container path, and
        whether it is read-only.

    Raises:
        BadValue: The text is not of that form.
    """
    parts = text.split(":")
    option = ""
    # A container path begins with a slash and an option never does, so the last part tells which it is.
    if len(parts) > 1 and not parts[-1].startswith("/"):
        option = parts.pop()
        if option not in _VOLUME_OPTIONS:
            fix = did_you_mean(option, _VOLUME_OPTIONS, what="options")
            raise BadValue(f"{quoted(text)} has the unknown option {quoted(option)}", fix=fix)
    if len(parts) > 2:
        raise wrong("a volume: SOURCE:/CONTAINER/PATH[:ro]", text)
    target = _container_path(parts[-1], "a volume with an absolute path in the container")
    if target == PurePosixPath("/"):
        raise BadValue(f"{quoted(text)} would cover the whole image", fix="name a folder of the container")
    if len(parts) == 1:
        return None, target, option == "ro"
    source = parts[0]
    if "/" in source or source.startswith((".", "~")):
        return _parse_host_path(source), target, option == "ro"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", source):
        raise wrong("a volume's name or a path on the host before the colon", text)
    return source, target, option == "ro"


def _parse_volume(value: object) -> str:
    text = text_of(value, "a volume: a string SOURCE:/CONTAINER/PATH[:ro]")
    split_volume(text)
    return text


def _parse_artifact(value: object) -> str:
    text = _parse_string(text_of(value, "a glob relative to the project"))
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise BadValue(
            f"{quoted(text)} can lead outside the project",
            fix="write a glob relative to the project, without '..'",
        )
    if not path.parts:
        raise BadValue(f"{quoted(text)} names no file", fix='"**" brings everything back')
    return text


def _parse_drift_path(value: object) -> str:
    text = _parse_string(text_of(value, "an absolute glob in the container"))
    if not text.startswith("/"):
        raise wrong("an absolute glob in the container", value)
    return text


def _parse_date(value: object) -> str:
    # A datetime is a date to Python; to the user it is another thing.
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        fix = None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            fix = f"write the date without quotes: {value}"
        raise wrong("a date", value, fix=fix)
    return value.isoformat()


def _parse_regex(value: object) -> str:
    text = _parse_string(text_of(value, "a regular expression"))
    try:
        with warnings.catch_warnings():
            # A doubtful pattern is still a pattern; where warnings are errors it must not end as a traceback.
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadValue(f"{quoted(text)} is not a regular expression: {quoted(str(error))[1:-1]}") from error
    return text


def _parse_url_path(value: object) -> str:
    text = word_of(value, "a path that begins with a slash")
    if not text.startswith("/"):
        raise wrong("a path that begins with a slash", value)
    return text


def parse_engine(value: object) -> str:
    """Check one engine: ``auto``, ``docker``, ``podman`` or a URL.

    Raises:
        BadValue: It is none of these. Credentials in it are not repeated in the message.
    """
    expected = "an engine: auto, docker, podman, unix://PATH, tcp://HOST:PORT, ssh://HOST or context://NAME"
    text = text_of(value, expected)
    if text in ("auto", "docker", "podman"):
        return text
    urls = r"unix:///[^\s].*|tcp://[^\s/@]+/?|ssh://[^\s/]+(/[^\s]*)?|context://[^\s/]+"
    if re.fullmatch(urls, text) and text.isprintable():
        return text
    shown = re.sub(r"//[^/]*@", "//***@", text)
    fix = None
    if text.startswith(("http://", "https://")):
        fix = "write tcp:// instead; TLS is chosen as the docker command does"
    elif text.startswith("unix:"):
        fix = 'a socket is named by its absolute path: "unix:///run/docker.sock"'
    elif "://" not in text:
        fix = did_you_mean(text, ("auto", "docker", "podman"), what="names")
    raise wrong(expected, shown, fix=fix)


def _parse_ulimit_name(value: object) -> str:
    if not isinstance(value, str) or value not in _ULIMITS:
        fix = did_you_mean(str(value), _ULIMITS, what="limits")
        raise BadValue(f"{quoted(str(value))} is not the name of a limit", fix=fix)
    return value


def _parse_pair(value: object) -> tuple[str, str]:
    expected = "a pair of stage names"
    if not isinstance(value, list) or len(value) != 2:
        raise wrong(expected, value)
    left, right = (word_of(entry, "a stage name") for entry in value)
    if left == right:
        raise BadValue(f"compares {quoted(left)} with itself")
    return left, right


def _mount_point(entry: object) -> object:
    return str(entry).partition(":")[0]


def _volume_target(entry: object) -> object:
    return split_volume(str(entry))[1]


BOOLEAN = Kind("boolean", _parse_boolean, "true")
TRUE = Kind("`true`", _parse_true, "true")
COUNT = Kind("positive integer", _parse_count, "256")
PORT = Kind("port", _parse_port, "5432", "An integer from 1 to 65535.")
STATUS = Kind("HTTP status", _parse_status, "200")
CPUS = Kind("number", _parse_cpus, "1.5")
DURATION = Kind("duration", _parse_duration, "60", "Seconds, as a positive number.")
SIZE = Kind(
    "size",
    _parse_size,
    '"512m"',
    "A string with a number and a unit: `b`, `k`, `m`, `g` or `t`, in upper or lower case, also `kb`, `KiB` "
    "and so on; every unit is 1024 of the one below, and fractions (`1.5g`) are rounded down to whole bytes.",
)
STRING = Kind("string", _parse_string, '"pip install ."')
WORD = Kind("name", _parse_word, '"none"', "A string that is not empty and has no spaces.")
IMAGE = Kind(
    "image", _parse_image, '"python:3.12-slim"', "A reference with a tag or a digest, or an image id."
)
HOST_PATH = Kind(
    "host path",
    _parse_host_path,
    '"docker/qa.Dockerfile"',
    "A path on the host, relative to the configuration file.",
)
CONTAINER_PATH = Kind(
    "container path", _parse_container_path, '"/src"', "An absolute path in the container, without `..`."
)
PYTHON = Kind("container path or command", _parse_python, '"/venv/bin/python"')
USER = Kind(
    "user", _parse_user, '"1000:1000"', "`USER` or `USER:GROUP`, each a name or a number, as a string."
)
PLATFORM = Kind(
    "platform", _parse_platform, '"linux/amd64"', "`OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`."
)
ENGINE = Kind(
    "engine",
    parse_engine,
    '"auto"',
    "`auto`, `docker`, `podman`, `unix://PATH`, `tcp://HOST:PORT`, `ssh://HOST` or `context://NAME`.",
)
ENGINES = one_or_more(ENGINE, "engines")
DATE = Kind("date", _parse_date, "2027-01-31", "A TOML date, without quotes.")
REGEX = Kind("regular expression", _parse_regex, '"ready to accept"', "In the syntax of Python's `re`.")
URL_PATH = Kind("URL path", _parse_url_path, '"/health"')
DRIFT_PATH = Kind("container glob", _parse_drift_path, '"/var/log/**"')

_ENV_NAME = Kind("variable name", _parse_env_name, '"CI"')
_ENV_VALUE = Kind("string", _parse_env_value, '"1"')
ENV = map_of(_ENV_NAME, _ENV_VALUE, "table of strings", '{ APP_ENV = "qa" }')
ENV_NAMES = list_of(_ENV_NAME, "variable names")
ULIMITS = map_of(
    Kind("limit", _parse_ulimit_name, "nofile"),
    Kind("integer", _parse_limit, "1024"),
    "table of integers",
    "{ nofile = 1024 }",
)
STRINGS = list_of(STRING, "strings")
ARGUMENTS = list_of(Kind("string", _parse_argument, '"redis-server"'), "strings")
"""Words of a command line, which may be empty. The image's entrypoint may stand before them."""
COMMAND = Kind(ARGUMENTS.name, _parse_program, ARGUMENTS.example)
"""A whole command line: it begins with a program."""
TMPFS = list_of(
    Kind("container path", _parse_tmpfs, '"/tmp"'),
    "container paths",
    example='["/tmp:size=64m"]',
    unique_by=_mount_point,
)
VOLUMES = list_of(
    Kind("volume", _parse_volume, '"cache:/var/cache"'),
    "volumes",
    example='["cache:/var/cache", "./data:/data:ro"]',
    unique_by=_volume_target,
)
CAPABILITIES = list_of(Kind("capability", _parse_capability, '"ALL"'), "capabilities")
ARTIFACTS = list_of(Kind("glob", _parse_artifact, '"reports/**"'), "globs")
PAIRS = list_of(Kind("pair", _parse_pair, '["dev", "qa"]'), "pairs of stages")

GLOSSARY: Sequence[Kind] = (
    SIZE, DURATION, PORT, WORD, IMAGE, HOST_PATH, CONTAINER_PATH, USER, PLATFORM, ENGINE, DATE, REGEX,
)  # fmt: skip
"""The kinds that the reference explains."""
