"""Each kind of value: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pytest_envpar.config import load_settings, split_volume
from pytest_envpar.config.kinds import BadValue
from pytest_envpar.errors import ConfigError


def stage_value(folder: Path, line: str, field: str) -> Any:
    file = folder / "envpar.toml"
    file.write_text(f"[stages.base]\nimage = 'x'\n[stages.qa]\nextends = 'base'\n{line}\n")
    return getattr(load_settings(file).stages["qa"], field)


def top_value(folder: Path, line: str, field: str) -> Any:
    file = folder / "envpar.toml"
    file.write_text(f"{line}\n")
    return getattr(load_settings(file), field)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 * 1024**2),
        ("1.5g", 1536 * 1024**2),
        ("64k", 65536),
        ("100b", 100),
        ("100B", 100),
        ("512MiB", 512 * 1024**2),
        ("2Gb", 2 * 1024**3),
        ("1T", 1024**4),
        ("1 g", 1024**3),
        ("0.1k", 102),
        ("0.000000000000000001t", None),
        ("99999999999t", None),
    ],
)
def test_sizes(tmp_path: Path, text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ConfigError, match="out of range"):
            stage_value(tmp_path, f"memory = '{text}'", "memory_bytes")
    else:
        assert stage_value(tmp_path, f"memory = '{text}'", "memory_bytes") == size
        assert stage_value(tmp_path, f"shm-size = '{text}'", "shm_size_bytes") == size


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("cpus = 2", "cpus", 2.0),
        ("python = 'python3.12'", "python", "python3.12"),
        ("user = 'app'", "user", "app"),
        ("user = '1000:staff'", "user", "1000:staff"),
        ("workdir = '//src/'", "workdir", PurePosixPath("/src")),
        ("platform = 'linux/arm/v7'", "platform", "linux/arm/v7"),
        ("image = 'sha256:0123'", "image", "sha256:0123"),
        ("image = 'localhost:5000/a/b:tag@sha256:abc'", "image", "localhost:5000/a/b:tag@sha256:abc"),
        ("env = { A = '', B = 'ü\\n' }", "env", {"A": "", "B": "ü\\n"}),
        ("tmpfs = ['/tmp:size=64m,mode=1777', '/run/']", "tmpfs", ("/tmp:size=64m,mode=1777", "/run")),
        ("ulimits = { core = 0, memlock = -1 }", "ulimits", {"core": 0, "memlock": -1}),
        ("cap-drop = ['net_raw']", "cap_drop", ("NET_RAW",)),
        ("volumes = ['/a', 'v:/b:rw', '/h/../i:/c']", "volumes", ("/a", "v:/b", "/i:/c")),
        ("read-only = false", "read_only", False),
    ],
)
def test_good_stage_values(tmp_path: Path, line: str, field: str, value: object) -> None:
    assert stage_value(tmp_path, line, field) == value


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("engine = 'unix:///run/docker.sock'", "engines", ("unix:///run/docker.sock",)),
        ("engine = ['docker', 'tcp://a:2375']", "engines", ("docker", "tcp://a:2375")),
        ("engine = 'ssh://me@host:22/run/x.sock'", "engines", ("ssh://me@host:22/run/x.sock",)),
        ("artifacts = ['**', 'a..b/*.xml']", "artifacts", ("**", "a..b/*.xml")),
        ("source = 'copy'", "source", "copy"),
        ("agent = 'image'", "agent", "image"),
    ],
)
def test_good_top_values(tmp_path: Path, line: str, field: str, value: object) -> None:
    assert top_value(tmp_path, line, field) == value


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("memory = 512", "expected a size: a string with a unit, found the integer 512", 'memory = "512m"'),
        ("memory = '512'", '"512" has no unit', 'write "512m" for MiB'),
        ("memory = '-1m'", 'found the string "-1m"', ""),
        ("memory = '0m'", "out of range", ""),
        ("memory = '1ib'", "expected a size", ""),
        ("memory = '9' ", "has no unit", ""),
        ("cpus = 0", "expected a number of CPUs, at least 0.01, found the integer 0", "cpus = 1.5"),
        ("cpus = 1e-10", "found the float 1e-10", ""),
        ("cpus = nan", "found the float nan", ""),
        ("cpus = true", "found the boolean true", ""),
        ("cpus = '2'", 'found the string "2"', ""),
        ("cpus = 1" + "0" * 400, "found a very large integer", ""),
        ("pids = 0", "expected a positive integer", "pids = 256"),
        ("pids = true", "found the boolean true", ""),
        ("read-only = 'yes'", "expected true or false", "read-only = true"),
        ("env = { A = 1 }", "env.A: expected a string, found the integer 1", 'quote it: A = "1"'),
        ("env = { A = 1.5 }", "env.A: expected a string, found the float 1.5", 'quote it: A = "1.5"'),
        ("env = { 'a b' = '1' }", "the name of an environment variable", ""),
        ("env = { A = false }", "env.A: expected a string, found the boolean false", 'quote it: A = "false"'),
        ("env = { A = [] }", "env.A: expected a string, found an empty array", "env = {"),
        ("env = { 'A=B' = '' }", "the name of an environment variable", ""),
        ('env = { A = "\\u0000" }', "contains a NUL character", ""),
        ("env = ['A=1']", "expected a table, found an array", ""),
        ("pass-env = 'CI'", "expected an array of variable names", 'pass-env = ["CI"]'),
        ("pass-env = ['CI_*']", "pass-env[0]: expected the name of an environment variable", ""),
        ("python = 'venv/bin/python'", "python: expected an absolute path", ""),
        ("python = 'python -X dev'", "python: expected an absolute path", ""),
        ("user = 1000", "expected a user: a string", 'user = "1000:1000"'),
        ("user = 'a:b:c'", "expected a user", ""),
        ("workdir = 'src'", "expected an absolute path in the container", 'workdir = "/src"'),
        ("workdir = '/a/../b'", "leads upwards", ""),
        ("workdir = '/.envpar/x'", "is reserved", ""),
        ("network = ''", "expected a name, without spaces", ""),
        ("network = 3", "expected a name", ""),
        ("runtime = 'a b'", "expected a name, without spaces", ""),
        ("platform = 'linux'", "expected a platform: os/architecture", 'platform = "linux/amd64"'),
        ("platform = 'Linux/AMD64'", "expected a platform", ""),
        ("tmpfs = '/tmp'", "expected an array of container paths", ""),
        ("tmpfs = ['tmp']", "tmpfs[0]: expected an absolute path in the container", ""),
        ("tmpfs = ['/']", "cannot be a tmpfs", ""),
        ("tmpfs = ['/tmp:']", "options that cannot be read", ""),
        ("tmpfs = ['/tmp', '/tmp/:size=1m']", "tmpfs[1]: repeats entry [0]", ""),
        ("ulimits = { nofiles = 1 }", '"nofiles" is not the name of a limit', 'did you mean "nofile"?'),
        ("ulimits = { nofile = '1' }", "ulimits.nofile: expected an integer", ""),
        ("ulimits = { nofile = -2 }", "ulimits.nofile: expected an integer", ""),
        ("cap-drop = ['']", "cap-drop[0]: expected the name of a capability", ""),
        ("cap-drop = ['a-b']", "cap-drop[0]: expected the name of a capability", ""),
        ("volumes = ['a:b']", "unknown option", ""),
        ("volumes = ['b']", "expected a volume with an absolute path", ""),
        ("volumes = ['v:/x:rx']", 'the unknown option "rx"', ""),
        ("volumes = ['v:/']", "would cover the whole image", ""),
        ("volumes = ['a b:/x']", "expected a volume's name or a path on the host", ""),
        ("volumes = ['~/x:/x']", "'~' is not expanded", ""),
        ("volumes = ['a:/x:/y']", "expected a volume: SOURCE", ""),
        ("volumes = ['a:/x', 'b:/x/']", "volumes[1]: repeats entry [0]", ""),
        ("setup = [' ']", "setup[0]: is empty", ""),
        ("image = ''", "expected an image", ""),
        ("image = 'a b'", "expected an image", ""),
        ("image = '--privileged'", "expected an image", ""),
        ("image = 'https://x/y'", "is a URL, not an image", 'without the scheme: "x/y"'),
        ("build = { context = 'https://x/y' }", "is a URL; only paths", ""),
        ("build = { context = '' }", "is empty", ""),
        ("build = { args = { V = 1 } }", "args.V: expected a string", 'V = "1"'),
        ("build = { contxt = '.' }", '[stages.qa.build]: unknown key "contxt"', 'did you mean "context"?'),
        ("build = '.'", "build: expected a table", "build = {"),
        ("extends = 3", "", ""),
        ("python = 2027-01-31", "found the date 2027-01-31", ""),
        ("python = 07:00:00", "found the time 07:00:00", ""),
        ("python = 2027-01-31T07:00:00", "found the date and time 2027-01-31T07:00:00", ""),
    ],
)
def test_bad_stage_values(tmp_path: Path, line: str, message: str, hint: str) -> None:
    if line.startswith("extends"):
        file = tmp_path / "envpar.toml"
        file.write_text(f"[stages.qa]\n{line}\n")
        with pytest.raises(ConfigError, match=r"extends: expected a name, found the integer 3"):
            load_settings(file)
        return
    with pytest.raises(ConfigError) as caught:
        stage_value(tmp_path, line, "name")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "[stages.qa" in caught.value.message


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("engine = 'dokcer'", "expected an engine", 'did you mean "docker"?'),
        ("engine = []", "at least one", ""),
        ("engine = ['docker', 'docker']", "engine[1]: repeats entry [0]", ""),
        ("engine = 'http://x'", "expected an engine", "tcp://"),
        ("engine = 'unix://run/x'", "expected an engine", "absolute path"),
        ("lockfile = 3", "expected a path on the host", ""),
        ("source = 'mont'", 'found the string "mont"', 'did you mean "mount"?'),
        ("source = true", 'expected one of "overlay"', ""),
        ("agent = 'own'", "expected one of", ""),
        ("artifacts = ['/x']", "artifacts[0]", "relative to the project"),
        ("artifacts = ['a/../../x']", "artifacts[0]", "relative to the project"),
        ("artifacts = ['.']", "names no file", ""),
        ("artifacts = ['']", "is empty", ""),
        ("drift.fail-on = 'packages'", "expected one of", 'did you mean "package"?'),
        ("drift.compare = [['host']]", "compare[0]: expected a pair of stage names", ""),
        ("drift.compare = [['host', 'host']]", 'compares "host" with itself', ""),
        ("drift.ignore = [{ path = 'x', reason = 'y' }]", "expected an absolute glob", ""),
        (
            "drift.allow = [{ package = 'x', reason = 'y', until = '2027-01-31' }]",
            "expected a date",
            "without quotes: 2027-01-31",
        ),
        (
            "drift.allow = [{ package = 'x', reason = 'y', until = 2027-01-31T00:00:00Z }]",
            "found the date and time",
            "",
        ),
    ],
)
def test_bad_top_values(tmp_path: Path, line: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        top_value(tmp_path, line, "root")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_credentials_in_an_engine_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        top_value(tmp_path, "engine = 'tcp://me:secret@host:2376'", "root")
    assert "secret" not in str(caught.value)
    assert "***@host" in str(caught.value)


def test_words_of_commands_may_be_empty(tmp_path: Path) -> None:
    ready = 'ready = { command = ["redis-cli", "--user", ""] }'
    table = f'services.db = {{ image = "x", command = ["redis-server", "--save", "", " "], {ready} }}'
    db = stage_value(tmp_path, table, "services")["db"]
    assert db.command == ("redis-server", "--save", "", " ")
    assert db.ready.command == ("redis-cli", "--user", "")


def test_a_doubtful_pattern_is_not_a_warning(tmp_path: Path) -> None:
    services = stage_value(tmp_path, "services.db = { image = 'x', ready = { log = '[[a]' } }", "services")
    assert services["db"].ready.log == "[[a]"


def test_volumes_are_taken_apart() -> None:
    assert split_volume("/x:ro") == (None, PurePosixPath("/x"), True)
    assert split_volume("./a:/x") == ("./a", PurePosixPath("/x"), False)
    with pytest.raises(BadValue, match=re.escape('the unknown option ""')):
        split_volume("a:/x:")


def test_long_and_hostile_text_is_cut_and_escaped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        top_value(tmp_path, 'source = "\\u001b]0;' + "x" * 10_000 + '"', "root")
    assert len(caught.value.message) < 400
    assert "\x1b" not in str(caught.value)
