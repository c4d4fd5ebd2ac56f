"""Every table and key of the configuration, once: what validates it also writes its reference.

A :class:`Table` lists its keys; a :class:`Key` has a kind (:mod:`~pytest_envpar.config.values`) or a table
of its own. :mod:`~pytest_envpar.config.validate` walks it to read, :mod:`~pytest_envpar.config.reference` to
explain.
"""

from __future__ import annotations

import dataclasses
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_envpar.config import values
from pytest_envpar.config.kinds import choice, list_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.config.kinds import Kind

STAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")
SERVICE_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")
RESERVED_STAGES: Mapping[str, str] = MappingProxyType(
    {
        "all": "it means every stage",
        "host": "it names the machine's own interpreter",
        # Stage names become fixture names: envpar_container exists already.
        "envpar": "its fixture would be envpar_container, which has another meaning",
    }
)
PULL_POLICIES = ("missing", "always", "never")
LEVELS = ("runtime", "package", "config", "file")
PRESETS = (
    *("bytecode", "ldconfig", "package-logs", "package-caches", "apt-lists", "machine-id", "account-backups"),
    *("mtime", "content", "databases"),
)
"""Names of the presets of noise (``drift/presets.py``), and ``all`` for all of them."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Nested:
    """A key with a table (``one``), tables by name (``named``) or an array of tables (``list``)."""

    table: Table
    many: Literal["one", "named", "list"] = "one"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Key:
    """One key of a table.

    Args:
        name: As it is written, kebab-case.
        shape: The kind of its value, or the table it holds.
        doc: One line for the reference.
        default: What holds without the key, as the reference shows it (Markdown).
        example: A right value as TOML, where the kind's own does not fit.
        field: The field in :mod:`~pytest_envpar.config.model`; by default the name with ``_``.
        required: Whether the table is useless without it.
    """

    name: str
    shape: Kind | Nested
    doc: str
    default: str = ""
    example: str = ""
    field: str = ""
    required: bool = False

    @property
    def target(self) -> str:
        """The field that takes the value."""
        return self.field or self.name.replace("-", "_")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table of the configuration.

    Args:
        path: Where it stands, with placeholders in capitals; empty for the top.
        one_of: Groups of keys of which exactly one group is given; the first key of a group stands for it
            and the others go with it. A stage that inherits drops its parent's group when it gives another.
        inherits: Whether its tables are complete only after ``extends`` has been applied.
    """

    path: str
    doc: str
    keys: tuple[Key, ...]
    one_of: tuple[tuple[str, ...], ...] = ()
    inherits: bool = False

    def key(self, name: str) -> Key | None:
        """The key of this name, if the table has it."""
        return next((key for key in self.keys if key.name == name), None)


BUILD = Table(
    "stages.NAME.build",
    "How the image of a stage is built, instead of `image`.",
    (
        Key(
            "context", values.HOST_PATH, "The folder that the Dockerfile may copy from.", "`.`", example='"."'
        ),
        Key(
            "dockerfile",
            values.HOST_PATH,
            "The Dockerfile. Like every path it is relative to the configuration file, not to the context.",
            "`Dockerfile` in the context",
        ),
        Key(
            "target",
            values.WORD,
            "The build stage of the Dockerfile to stop at.",
            "the last one",
            example='"qa"',
        ),
        Key("args", values.ENV, "Build arguments. Values are strings.", example='{ V = "1" }'),
    ),
)

READY = Table(
    "stages.NAME.services.SERVICE.ready",
    "When a service counts as ready: exactly one of `tcp`, `log`, `http`, `command` and `healthcheck`.",
    (
        Key("tcp", values.PORT, "Ready when this port accepts a connection."),
        Key("log", values.REGEX, "Ready when a line of the service's output matches."),
        Key("http", values.URL_PATH, "Ready when a request for this path is answered."),
        Key("port", values.PORT, "The port for `http`.", "`80`", example="8080"),
        Key("status", values.STATUS, "The status that `http` waits for.", "any below 400"),
        Key(
            "command",
            values.COMMAND,
            "Ready when this command, run in the service's container, ends with 0.",
            example='["pg_isready"]',
        ),
        Key("healthcheck", values.TRUE, "Ready when the health check of the service's image says so."),
        Key("timeout", values.DURATION, "How long to wait.", "`60`", field="timeout_s"),
    ),
    one_of=(("tcp",), ("log",), ("http", "port", "status"), ("command",), ("healthcheck",)),
)

SERVICE = Table(
    "stages.NAME.services.SERVICE",
    "A container that runs beside those of the stage and answers to the name `SERVICE`.",
    (
        Key("image", values.IMAGE, "The image of the service.", required=True, example='"postgres:16"'),
        Key(
            "env",
            values.ENV,
            "Environment variables. Values are strings.",
            example='{ POSTGRES_PASSWORD = "test" }',
        ),
        Key(
            "command",
            values.ARGUMENTS,
            "The command, word by word.",
            "the image's own",
            example='["postgres", "-c", "fsync=off"]',
        ),
        Key(
            "ready",
            Nested(READY),
            "When the service counts as ready.",
            "when it has started",
            "{ tcp = 5432 }",
        ),
    ),
)

STAGE = Table(
    "stages.NAME",
    "A stage: an image, and how its containers are run. After `extends` it has exactly one of `image` and "
    "`build`.",
    (
        Key("extends", values.WORD, "The stage whose keys this one starts from.", example='"qa"'),
        Key("image", values.IMAGE, "The image to run in."),
        Key(
            "build",
            Nested(BUILD),
            "How to build the image to run in.",
            example='{ dockerfile = "docker/qa.Dockerfile" }',
        ),
        Key(
            "setup",
            values.STRINGS,
            "Commands that are run once on top of the image, as the stage's user; what they change is kept as one more "
            "layer until they, or files that they name, change.",
            example='["pip install -r requirements.txt"]',
        ),
        Key("env", values.ENV, "Environment variables. Values are strings."),
        Key(
            "pass-env",
            values.ENV_NAMES,
            "Names of variables that are taken over from the host where they are set.",
        ),
        Key("python", values.PYTHON, "The interpreter that runs the suite.", "found in the image"),
        Key("user", values.USER, "Who runs the suite.", "the image's own"),
        Key("workdir", values.CONTAINER_PATH, "Where the project is placed.", "its own path on the host"),
        Key("network", values.WORD, 'A network of the engine, or `"none"`.', "the engine's own"),
        Key("read-only", values.BOOLEAN, "Whether the image's own files cannot be written to.", "`false`"),
        Key("memory", values.SIZE, "Memory limit.", "no limit", field="memory_bytes"),
        Key("cpus", values.CPUS, "CPU limit.", "no limit"),
        Key("pids", values.COUNT, "Limit of processes and threads.", "no limit"),
        Key(
            "shm-size",
            values.SIZE,
            "Size of `/dev/shm`.",
            "the engine's own",
            '"64m"',
            field="shm_size_bytes",
        ),
        Key("tmpfs", values.TMPFS, "Paths kept in memory, each with options after a colon."),
        Key("ulimits", values.ULIMITS, "Resource limits by name, soft and hard; `-1` is no limit."),
        Key("cap-drop", values.CAPABILITIES, "Capabilities to take away."),
        Key("runtime", values.WORD, "The OCI runtime.", "the engine's own", example='"runc"'),
        Key("platform", values.PLATFORM, "The platform of the image.", "the engine's own"),
        Key(
            "pull",
            choice(*PULL_POLICIES, example="always"),
            "When `image` is pulled: where the engine lacks it, whenever its tag is resolved, or not at all. What is "
            "locked or named by its digest, and there, is never asked for.",
            '`"missing"`',
        ),
        Key(
            "volumes",
            values.VOLUMES,
            "More mounts, `SOURCE:/CONTAINER/PATH[:ro]`; a source with a slash or a leading dot is a host "
            "path, any other the name of a volume.",
        ),
        Key(
            "services",
            Nested(SERVICE, "named"),
            "Containers that run beside the stage's own.",
            example='{ db = { image = "postgres:16" } }',
        ),
    ),
    one_of=(("image",), ("build",)),
    inherits=True,
)

IGNORE = Table(
    "drift.ignore",
    "Differences that are not shown; how many were hidden is said with the reason.",
    (
        Key("path", values.DRIFT_PATH, "Which paths; `*` stays within a name, `**` does not.", required=True),
        Key("reason", values.STRING, "Why.", required=True, example='"logs"'),
    ),
)

ALLOW = Table(
    "drift.allow",
    "Differences that are accepted for a time.",
    (
        Key(
            "package",
            values.WORD,
            "Which package: its name, or `ECOSYSTEM:NAME`; `*` matches anything.",
            required=True,
            example='"tzdata"',
        ),
        Key("reason", values.STRING, "Why.", required=True, example='"rolled out with the next image"'),
        Key("until", values.DATE, "The last day on which it is accepted.", "no end"),
    ),
)

DRIFT = Table(
    "drift",
    "What `--env-drift` compares, and what makes it fail.",
    (
        Key(
            "compare",
            values.PAIRS,
            "Pairs of stages; `host` names the machine's own interpreter.",
            example='[["dev", "qa"]]',
        ),
        Key(
            "fail-on",
            choice("none", "any", *reversed(LEVELS), example="package"),
            "The lowest level that fails; levels are, highest first, `runtime`, `package`, `config`, `file`.",
            '`"package"`',
        ),
        Key(
            "ignore",
            Nested(IGNORE, "list"),
            "What is not shown.",
            example='[{ path = "/var/log/**", reason = "logs" }]',
        ),
        Key(
            "allow",
            Nested(ALLOW, "list"),
            "What is accepted.",
            example='[{ package = "tzdata", reason = "known", until = 2027-01-31 }]',
        ),
        Key(
            "no-presets",
            list_of(choice("all", *PRESETS, example="bytecode"), "presets", unique_by=lambda name: name),
            f"Presets of noise that are off: `all`, or some of {', '.join(f'`{name}`' for name in PRESETS)}.",
        ),
    ),
)

ROOT = Table(
    "",
    "What holds for all stages.",
    (
        Key(
            "engine",
            values.ENGINES,
            "The container engine; an array is a pool of engines.",
            '`"auto"`',
            field="engines",
        ),
        Key(
            "lockfile",
            values.HOST_PATH,
            "Where the exact images are pinned.",
            "`envpar.lock`",
            example='"envpar.lock"',
        ),
        Key(
            "source",
            choice("overlay", "mount", "mount-rw", "copy"),
            "How the project reaches the container.",
            "`overlay` on a local engine, else `copy`",
        ),
        Key("artifacts", values.ARTIFACTS, "Files written inside that are brought back to the host."),
        Key(
            "agent",
            choice("auto", "inject", "image"),
            "Which pytest runs inside: the image's own if it has one, always ours, always the image's.",
            '`"auto"`',
        ),
        Key(
            "coverage",
            values.BOOLEAN,
            "Whether every run with a stage is measured by coverage.py; see [Coverage](coverage.md). `--cov` of "
            "pytest-cov does it for one run.",
            "`false`",
        ),
        Key(
            "stages",
            Nested(STAGE, "named"),
            "The stages by name.",
            example='{ qa = { image = "python:3.12-slim" } }',
        ),
        Key(
            "drift", Nested(DRIFT), "What is compared, and what makes it fail.", example='{ fail-on = "any" }'
        ),
    ),
)


def tables(top: Table = ROOT) -> Iterator[Table]:
    """All tables, each before those inside it."""
    yield top
    for key in top.keys:
        if isinstance(key.shape, Nested):
            yield from tables(key.shape.table)


def expected_shape(nested: Nested) -> str:
    """What a nested key wants, for messages."""
    return {"one": "a table", "named": "a table of named tables", "list": "an array of tables"}[nested.many]
