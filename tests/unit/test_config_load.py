"""Finding, reading and combining configuration files."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from pytest_envpar import config
from pytest_envpar.config import (
    Allow,
    Build,
    Ignore,
    Ready,
    Service,
    Settings,
    Stage,
    check_stage,
    find_config,
    get_stage,
    load_settings,
    parse_engine,
    schema,
)
from pytest_envpar.errors import ConfigError, UsageError

EVERYTHING = """
[tool.envpar]
engine   = "docker"
lockfile = "locks/envpar.lock"
source   = "mount-rw"
artifacts = ["reports/**"]
agent    = "inject"

[tool.envpar.stages.dev]
image = "python:3.12-slim"

[tool.envpar.stages.qa]
build     = { context = ".", dockerfile = "docker/qa.Dockerfile", target = "qa", args = { V = "1" } }
setup     = ["pip install -r requirements.txt"]
env       = { APP_ENV = "qa" }
pass-env  = ["CI"]
python    = "/venv/bin/python"
user = "1000:1000"
workdir = "/src"
network = "none"
read-only = true
memory = "512m"
cpus = 1.5
pids = 256
shm-size = "64m"
tmpfs = ["/tmp"]
ulimits = { nofile = 1024 }
cap-drop = ["ALL"]
runtime = "runc"
platform = "linux/amd64"
volumes   = ["cache:/cache", "./data:/data:ro", "/scratch"]

[tool.envpar.stages.integration]
extends = "qa"
[tool.envpar.stages.integration.services.db]
image = "postgres:16"
command = ["postgres", "-c", "fsync=off"]
env   = { POSTGRES_PASSWORD = "test" }
ready = { tcp = 5432, timeout = 30 }

[tool.envpar.drift]
compare  = [["dev", "qa"], ["host", "integration"]]
fail-on  = "any"
ignore   = [{ path = "/var/log/**", reason = "logs" }]
allow    = [{ package = "tzdata", reason = "known", until = 2027-01-31 }]
"""


def write(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def load(folder: Path, text: str) -> Settings:
    return load_settings(write(folder, text, "envpar.toml"))


def error(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value


def test_every_key_reaches_the_settings(tmp_path: Path) -> None:
    file = write(tmp_path, EVERYTHING)
    settings = load_settings(file)
    db = Service(
        "db",
        "postgres:16",
        {"POSTGRES_PASSWORD": "test"},
        ("postgres", "-c", "fsync=off"),
        Ready(tcp=5432, timeout_s=30.0),
    )
    qa = Stage(
        name="qa",
        build=Build(tmp_path, tmp_path / "docker/qa.Dockerfile", "qa", {"V": "1"}),
        setup=("pip install -r requirements.txt",),
        env={"APP_ENV": "qa"},
        pass_env=("CI",),
        python="/venv/bin/python",
        user="1000:1000",
        workdir=PurePosixPath("/src"),
        network="none",
        read_only=True,
        memory_bytes=512 * 1024**2,
        cpus=1.5,
        pids=256,
        shm_size_bytes=64 * 1024**2,
        tmpfs=("/tmp",),
        ulimits={"nofile": 1024},
        cap_drop=("ALL",),
        runtime="runc",
        platform="linux/amd64",
        volumes=("cache:/cache", f"{tmp_path}/data:/data:ro", "/scratch"),
    )
    assert settings.root == tmp_path
    assert settings.file == file
    assert settings.engines == ("docker",)
    assert settings.lockfile == tmp_path / "locks/envpar.lock"
    assert settings.source == "mount-rw"
    assert settings.artifacts == ("reports/**",)
    assert settings.agent == "inject"
    assert settings.stages["dev"] == Stage("dev", image="python:3.12-slim")
    assert settings.stages["qa"] == qa
    assert settings.stages["integration"] == dataclasses.replace(qa, name="integration", services={"db": db})
    assert list(settings.stages) == ["dev", "qa", "integration"]
    assert settings.drift.compare == (("dev", "qa"), ("host", "integration"))
    assert settings.drift.fail_on == "any"
    assert settings.drift.ignore == (Ignore("/var/log/**", "logs"),)
    assert settings.drift.allow == (Allow("tzdata", "known", "2027-01-31"),)


@pytest.mark.parametrize(
    ("table", "model", "added"),
    [
        (schema.ROOT, Settings, {"root", "file"}),
        (schema.STAGE, Stage, {"name"}),
        (schema.BUILD, Build, set()),
        (schema.SERVICE, Service, {"name"}),
        (schema.READY, Ready, set()),
        (schema.IGNORE, Ignore, set()),
        (schema.ALLOW, Allow, set()),
    ],
)
def test_schema_and_model_have_the_same_fields(table: schema.Table, model: type, added: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(model)}
    assert {key.target for key in table.keys} - {"extends"} | added == fields


def test_both_files_hold_the_same_keys(tmp_path: Path) -> None:
    own = EVERYTHING.replace("[tool.envpar]", "").replace("[tool.envpar.", "[")
    left = load_settings(write(tmp_path, EVERYTHING))
    right = load_settings(write(tmp_path, own, "envpar.toml"))
    assert dataclasses.replace(left, file=right.file) == right


def test_an_empty_file_is_a_configuration_without_stages(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert settings.stages == {}
    assert settings.engines == ("auto",)
    assert settings.lockfile is None
    assert settings.source is None


class TestFind:
    def test_the_nearest_file_upwards_wins(self, tmp_path: Path) -> None:
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True)
        assert find_config(inner) is None or tmp_path not in (find_config(inner) or Path("/x")).parents
        top = write(tmp_path, "[tool.envpar]\n")
        assert find_config(inner) == top
        write(tmp_path / "a", "[tool.other]\n")
        assert find_config(inner) == top
        near = write(tmp_path / "a", "", "envpar.toml")
        assert find_config(inner) == near

    def test_a_relative_start_gives_an_absolute_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path, "[tool.envpar]\n")
        monkeypatch.chdir(tmp_path)
        assert find_config(Path()) == file

    def test_both_in_one_folder(self, tmp_path: Path) -> None:
        one, other = write(tmp_path, "", "envpar.toml"), write(tmp_path, "[tool.envpar]\n")
        with pytest.raises(ConfigError) as caught:
            find_config(tmp_path)
        assert str(one) in caught.value.message
        assert str(other) in caught.value.message

    def test_envpar_toml_beside_a_pyproject_without_our_table(self, tmp_path: Path) -> None:
        one = write(tmp_path, "", "envpar.toml")
        write(tmp_path, "[project]\nname = 'x'\n")
        assert find_config(tmp_path) == one

    def test_a_broken_pyproject_on_the_way(self, tmp_path: Path) -> None:
        file = write(tmp_path, "[tool.envpar]\nimage = \n")
        (tmp_path / "sub").mkdir()
        with pytest.raises(ConfigError, match=r"line 2, column 9") as caught:
            find_config(tmp_path / "sub")
        assert str(file) in caught.value.message

    def test_undecodable_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_bytes("[tool]\nä = '".encode() + b"\xff'\n")
        with pytest.raises(ConfigError, match=r"not UTF-8: byte 0xff \(at line 2, column 6\)"):
            find_config(tmp_path)

    def test_a_folder_of_that_name_is_not_a_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "envpar.toml").mkdir(parents=True)
        top = write(tmp_path, "", "envpar.toml")
        assert find_config(tmp_path / "sub") == top


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            load_settings(tmp_path / "envpar.toml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load_settings(tmp_path)

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        file = tmp_path / "envpar.toml"
        file.write_bytes(b"\xef\xbb\xbfengine = 'auto'\n")
        with pytest.raises(ConfigError, match="byte order mark"):
            load_settings(file)

    def test_no_table_of_ours(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"has no \[tool\.envpar\]"):
            load_settings(write(tmp_path, "tool = 3\n"))

    def test_our_table_is_not_a_table(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a table, found the integer 3"):
            load_settings(write(tmp_path, "[tool]\nenvpar = 3\n"))

    @pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000])
    def test_what_the_parser_chokes_on(self, tmp_path: Path, text: str) -> None:
        error(tmp_path, text)


class TestUnknownKeys:
    def test_names_the_nearest_key_the_table_and_the_file(self, tmp_path: Path) -> None:
        file = write(tmp_path, "[tool.envpar.stages.qa]\nimage = 'x'\nread_only = true\n")
        with pytest.raises(ConfigError) as caught:
            load_settings(file)
        assert caught.value.message == f'{file}: [tool.envpar.stages.qa]: unknown key "read_only"'
        assert caught.value.hint == 'did you mean "read-only"?'

    def test_a_key_of_another_table(self, tmp_path: Path) -> None:
        found = error(tmp_path, "memory = '1g'\n")
        assert 'the file: unknown key "memory"' in found.message
        assert found.hint == "memory belongs to [stages.NAME]"

    def test_a_slip_in_a_key_of_another_table(self, tmp_path: Path) -> None:
        found = error(tmp_path, "[stages.qa]\nimage = 'x'\nartifcts = []\n")
        assert found.hint == 'did you mean "artifacts"? It belongs to the top of the file'

    def test_nothing_near(self, tmp_path: Path) -> None:
        assert (error(tmp_path, "[drift]\nqqqqq = 1\n").hint or "").startswith(
            "the keys are: compare, fail-on"
        )

    def test_a_name_that_would_drive_a_terminal(self, tmp_path: Path) -> None:
        text = str(error(tmp_path, '"\\u001b[31m" = 1\n'))
        assert "\x1b" not in text
        assert "\\x1b[31m" in text


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = error(
        tmp_path,
        "engin = 'auto'\n[stages.qa]\nimage = 3\nmemory = 512\n[stages.b]\nextends = 'aq'\n"
        "[drift]\ncompare = [['qa', 'qq']]\n",
    )
    assert "5 problems" in found.message
    text = "\n".join(found.detail)
    for part in (
        'unknown key "engin"',
        "[stages.qa] image: expected an image: a name with a tag or a digest, found the integer 3",
        'memory = "512m"',
        '[stages.b] extends: there is no stage "aq"',
        '[drift] compare[0]: there is no stage "qq"',
    ):
        assert part in text


def test_very_many_problems_are_cut(tmp_path: Path) -> None:
    found = error(tmp_path, "".join(f"key{n} = 1\n" for n in range(500)))
    assert "500 problems" in found.message
    assert found.detail[-1] == "... and 480 more"


class TestStageNames:
    @pytest.mark.parametrize("name", ["QA", "1a", "a-b", '"a b"', '""', '"ä"', "_a"])
    def test_form(self, tmp_path: Path, name: str) -> None:
        assert "is not a stage name" in error(tmp_path, f"[stages.{name}]\nimage = 'x'\n").message

    def test_a_better_name_is_offered(self, tmp_path: Path) -> None:
        assert error(tmp_path, "[stages.QA-eu]\nimage = 'x'\n").hint == "write for example qa_eu"

    @pytest.mark.parametrize("name", ["all", "host", "envpar"])
    def test_reserved(self, tmp_path: Path, name: str) -> None:
        assert "reserved" in error(tmp_path, f"[stages.{name}]\nimage = 'x'\n").message

    def test_lookup(self, tmp_path: Path) -> None:
        settings = load(tmp_path, "[stages.qa]\nimage = 'x'\n")
        assert get_stage(settings, "qa").image == "x"
        with pytest.raises(UsageError, match='there is no stage "qaa"') as caught:
            get_stage(settings, "qaa")
        assert caught.value.hint == 'did you mean "qa"?'


class TestExtends:
    def test_tables_merge_and_the_rest_is_replaced(self, tmp_path: Path) -> None:
        settings = load(
            tmp_path,
            """
            [stages.c]
            extends = "b"
            env = { C = "c" }
            pass-env = ["C"]
            build = { target = "c" }
            [stages.b]
            extends = "a"
            env = { B = "b", A = "b" }
            [stages.a]
            build = { context = "ctx", args = { X = "1" } }
            env = { A = "a" }
            pass-env = ["A", "B"]
            memory = "1g"
            """,
        )
        stage = settings.stages["c"]
        assert stage.env == {"A": "b", "B": "b", "C": "c"}
        assert stage.pass_env == ("C",)
        assert stage.memory_bytes == 1024**3
        assert stage.build == Build(tmp_path / "ctx", tmp_path / "ctx" / "Dockerfile", "c", {"X": "1"})
        assert settings.stages["a"].env == {"A": "a"}
        assert settings.stages["a"].pass_env == ("A", "B")

    def test_image_and_build_push_each_other_out(self, tmp_path: Path) -> None:
        stages = load(
            tmp_path,
            """
            [stages.a]
            build = { context = "." }
            [stages.b]
            extends = "a"
            image = "x"
            [stages.c]
            extends = "b"
            build = { target = "t" }
            """,
        ).stages
        assert (stages["b"].image, stages["b"].build) == ("x", None)
        assert stages["c"].image is None
        assert stages["c"].build == Build(tmp_path, tmp_path / "Dockerfile", "t")

    def test_services_merge_by_name_and_the_probe_is_replaced(self, tmp_path: Path) -> None:
        stages = load(
            tmp_path,
            """
            [stages.a]
            image = "x"
            services.db = { image = "pg", env = { A = "1" }, ready = { http = "/", port = 80, timeout = 5 } }
            [stages.b]
            extends = "a"
            services.db = { env = { B = "2" }, ready = { log = "up" } }
            services.mq = { image = "mq" }
            """,
        ).stages
        db = stages["b"].services["db"]
        assert db == Service("db", "pg", {"A": "1", "B": "2"}, (), Ready(log="up", timeout_s=5.0))
        assert set(stages["b"].services) == {"db", "mq"}
        assert set(stages["a"].services) == {"db"}

    def test_an_empty_array_takes_away(self, tmp_path: Path) -> None:
        stages = load(
            tmp_path, "[stages.a]\nimage = 'x'\nsetup = ['y']\n[stages.b]\nextends = 'a'\nsetup = []\n"
        ).stages
        assert stages["b"].setup == ()

    def test_unknown_parent(self, tmp_path: Path) -> None:
        found = error(tmp_path, "[stages.dev]\nimage = 'x'\n[stages.qa]\nextends = 'dve'\n")
        assert '[stages.qa] extends: there is no stage "dve"' in found.message
        assert found.hint == 'did you mean "dev"?'

    @pytest.mark.parametrize(
        ("links", "shown"),
        [
            ({"a": "a"}, "a -> a"),
            ({"a": "b", "b": "c", "c": "b"}, "b -> c -> b"),
            ({"a": "b", "b": "a"}, "a -> b -> a"),
        ],
    )
    def test_circles_are_shown_once(self, tmp_path: Path, links: dict[str, str], shown: str) -> None:
        found = error(tmp_path, "".join(f"[stages.{a}]\nextends = '{b}'\n" for a, b in links.items()))
        assert found.message.endswith(f"extend each other in a circle: {shown}")

    def test_a_long_chain(self, tmp_path: Path) -> None:
        text = "".join(f"[stages.s{n}]\nextends = 's{n + 1}'\n" for n in range(1500))
        settings = load(tmp_path, text + "[stages.s1500]\nimage = 'x'\n")
        assert settings.stages["s0"].image == "x"

    def test_a_fault_of_the_parent_is_told_once(self, tmp_path: Path) -> None:
        found = error(tmp_path, "[stages.a]\nimage = 'x'\ncpus = 'many'\n[stages.b]\nextends = 'a'\n")
        assert "[stages.a] cpus" in found.message


class TestOneOf:
    def test_image_and_build(self, tmp_path: Path) -> None:
        found = error(tmp_path, "[stages.qa]\nimage = 'x'\nbuild = {}\n")
        assert "[stages.qa]: has both image and build" in found.message

    def test_neither(self, tmp_path: Path) -> None:
        found = error(tmp_path, "[stages.qa]\nmemory = '1g'\n")
        assert "[stages.qa]: has none of image, build; exactly one is needed" in found.message
        assert "extends" in (found.hint or "")

    @pytest.mark.parametrize(
        ("ready", "part"),
        [
            ("{ timeout = 3 }", "has none of tcp, log, http, command, healthcheck"),
            ("{ tcp = 1, log = 'x', http = '/' }", "has tcp, log and http, which exclude each other"),
            ("{ tcp = 1, port = 3 }", "port: goes with http"),
            ("{ healthcheck = false }", "healthcheck: expected true"),
            ("{ tcp = 0 }", "tcp: expected a port from 1 to 65535, found the integer 0"),
            ("{ http = '/', port = 65536 }", "port: expected a port"),
            ("{ http = '/', status = 42 }", "status: expected an HTTP status"),
            ("{ http = 'health' }", "http: expected a path that begins with a slash"),
            ("{ log = '(' }", 'log: "(" is not a regular expression'),
            ("{ tcp = 1, timeout = 0 }", "timeout: expected a positive number of seconds"),
            ("{ tcp = 1, timeout = inf }", "timeout: expected a positive number of seconds"),
            ("{ command = ['', 'x'] }", "command[0]: is empty"),
            ("{ command = ['x', 3] }", "command[1]: expected a string, found the integer 3"),
        ],
    )
    def test_probes(self, tmp_path: Path, ready: str, part: str) -> None:
        text = f"[stages.qa]\nimage = 'x'\n[stages.qa.services.db]\nimage = 'y'\nready = {ready}\n"
        assert part in error(tmp_path, text).message

    def test_http_with_its_companions(self, tmp_path: Path) -> None:
        ready = "{ http = '/h', port = 81, status = 204 }"
        text = f"[stages.qa]\nimage = 'x'\nservices.w = {{ image = 'y', ready = {ready} }}\n"
        assert load(tmp_path, text).stages["qa"].services["w"].ready == Ready(http="/h", port=81, status=204)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[stages.qa]\nimage = 'x'\nservices.db = {}\n", '[stages.qa.services.db]: lacks the key "image"'),
        ("[stages.qa]\nimage = 'x'\nservices.DB = { image = 'y' }\n", '"DB" is not a service name'),
        ("[drift]\nignore = [{ path = '/x' }]\n", '[drift.ignore] (entry 1): lacks the key "reason"'),
        ("[drift]\nallow = [{ package = 'x', reason = '' }]\n", "[drift.allow] reason (entry 1): is empty"),
        ("[drift]\nignore = {}\n", "[drift] ignore: expected an array of tables, found a table"),
        ("[drift]\nignore = [3]\n", "[drift] ignore[0]: expected a table, found the integer 3"),
        ("drift = 3\n", "drift: expected a table, found the integer 3"),
        ("stages = []\n", "stages: expected a table of named tables, found an empty array"),
        ("[stages]\nqa = 'x'\n", '[stages] qa: expected a table, found the string "x"'),
    ],
)
def test_shapes(tmp_path: Path, text: str, part: str) -> None:
    assert part in error(tmp_path, text).message


class TestCheckStage:
    def stage(self, folder: Path, build: str) -> Stage:
        return load(folder, f"[stages.qa]\nbuild = {build}\n[stages.dev]\nimage = 'x'\n").stages["qa"]

    def test_fine(self, tmp_path: Path) -> None:
        (tmp_path / "Dockerfile").touch()
        check_stage(self.stage(tmp_path, "{}"))
        check_stage(Stage("dev", image="x"))

    def test_missing_dockerfile_stops_only_its_own_stage(self, tmp_path: Path) -> None:
        stage = self.stage(tmp_path, "{ dockerfile = 'docker/qa.Dockerfile' }")
        with pytest.raises(ConfigError) as caught:
            check_stage(stage)
        assert f"the Dockerfile {tmp_path}/docker/qa.Dockerfile does not exist" in caught.value.message
        assert 'stage "qa"' in caught.value.message

    def test_missing_context(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"the context {tmp_path}/ctx does not exist"):
            check_stage(self.stage(tmp_path, "{ context = 'ctx' }"))

    def test_wrong_way_round(self, tmp_path: Path) -> None:
        (tmp_path / "Dockerfile").touch()
        with pytest.raises(ConfigError, match="is not a folder"):
            check_stage(self.stage(tmp_path, "{ context = 'Dockerfile' }"))
        with pytest.raises(ConfigError, match="is not a file"):
            check_stage(self.stage(tmp_path, "{ dockerfile = '.' }"))

    def test_a_name_that_is_too_long_for_the_file_system(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            check_stage(self.stage(tmp_path, f"{{ context = '{'x' * 5000}' }}"))


def test_a_pool_is_taken(tmp_path: Path) -> None:
    text = "engine = ['docker', 'ssh://b', 'context://c']\n[stages.qa]\nimage = 'x'\n"
    assert load(tmp_path, text).engines == ("docker", "ssh://b", "context://c")


def test_an_engine_from_the_command_line_is_checked_alike() -> None:
    assert parse_engine("unix:///run/x.sock") == "unix:///run/x.sock"
    with pytest.raises(ConfigError) as caught:
        parse_engine("dokcer")
    assert caught.value.hint == 'did you mean "docker"?'


def loaded_by(code: str) -> set[str]:
    """The modules that a piece of code loads in a fresh interpreter."""
    program = (
        "import sys, pathlib, re, typing, dataclasses; before = set(sys.modules)\n"
        f"{code}\nprint(*(set(sys.modules) - before))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_loading_needs_nothing_heavy(tmp_path: Path) -> None:
    file = write(tmp_path, EVERYTHING)
    loaded = loaded_by(
        f"from pytest_envpar.config import load_settings; load_settings(pathlib.Path({str(file)!r}))"
    )
    assert "pytest_envpar.config.schema" in loaded
    assert loaded.isdisjoint({"pytest", "_pytest", "docker", "requests", "difflib", "subprocess"})


def test_finding_loads_neither_schema_nor_model(tmp_path: Path) -> None:
    write(tmp_path, EVERYTHING)
    loaded = loaded_by(
        f"from pytest_envpar.config import find_config; assert find_config(pathlib.Path({str(tmp_path)!r}))"
    )
    ours = {name for name in loaded if name.startswith("pytest_envpar.config.")}
    assert ours == {"pytest_envpar.config.find"}


def test_everything_public_is_there() -> None:
    assert all(hasattr(config, name) for name in config.__all__)
    assert not hasattr(config, "nothing_of_this_name")
