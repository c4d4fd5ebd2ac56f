"""A pool of engines: one over ssh, one over TLS."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from rig.engines import left
from rig.needs import module

from pytest_envpar.images.tags import COPIES

module("xdist")

if TYPE_CHECKING:
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import pytest
    @pytest.mark.parametrize("n", range(6))
    def test_n(n): assert open(__file__)
"""


def copies(project: Project) -> list[str]:
    with contextlib.closing(project.second.connect()) as far:
        return [each.id for each in far.list_tagged(COPIES)]


def test_workers_are_spread_over_engines(project: Project) -> None:
    project.write("test_it.py", SUITE)
    result = project.run("--env=qa", "-n2", "-v").ended(0, "6 passed")
    image = project.near.inspect_image("envpar-base:py3.11")
    assert image is not None
    assert copies(project) == [image.id]
    # No registry has it: it went from one daemon to the other, once.
    assert result.err.count("envpar: copied envpar-base:py3.11") == 1
    assert "lost" not in result.out
    assert "source copy" in result.out
    for worker in ("gw0", "gw1"):
        assert f"[{worker}]" in result.out
    listed = project.run("ps", "--cache", "--format=json", module="pytest_envpar").ended(0)
    objects = json.loads(listed.out)["objects"]
    assert {each["engine"].partition(":")[0] for each in objects} == {"ssh", "tcp"}
    assert [each["id"] for each in objects if each["name"].startswith(COPIES)] == [image.id]
    doctor = project.run("doctor", module="pytest_envpar").ended(0).out
    assert "a pool of 2 engines, of which 2 answer" in doctor


def test_stages_are_spread_over_engines(project: Project) -> None:
    project.configure(stages=("dev", "qa"))
    project.write("test_it.py", SUITE)
    result = project.run("--env=dev,qa", *(f"--env-engine={url}" for url in project.urls)).ended(
        0, "12 passed"
    )
    assert "no test of 6 ends differently" in result.out
    # The second stage has the second engine, and only its image is needed there.
    image = project.near.inspect_image("envpar-base:py3.11")
    assert image is not None
    assert copies(project) == [image.id]


def test_an_engine_that_goes_away_loses_no_test(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(8))
        def test_n(n):
            # Where there is a second engine both have begun before one of them goes.
            time.sleep(0.5 if n else 1)
        """,
    )
    # Alone, so that the run has to go on with the other engine.
    project.configure(*reversed(project.urls))
    run = project.start("--env=qa", "-v")
    run.wait_for("PASSED")
    project.second.kill()
    result = project.end(run).ended(0, "8 passed")
    assert result.out.count("was lost: its share ran elsewhere") == 1
    assert f"envpar: engine {project.second.url} was lost" in result.out
    # It is away from the start, and over several workers told once as well.
    result = project.run("--env=qa", "-n2").ended(0, "8 passed")
    assert result.out.count("was lost: its share ran elsewhere") == 1
    # It comes back, and with it what the first run could not remove; the next one does.
    project.second.start()
    with contextlib.closing(project.second.connect()) as far:
        assert left(far, project.root)
    project.run("--env=qa", "--co", "-q").ended(0)


@pytest.mark.slow
def test_an_engine_goes_away_under_workers(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest, time
        @pytest.fixture(scope="session")
        def server(): return time.time()
        @pytest.mark.parametrize("n", range(16))
        def test_n(n, server): time.sleep(1)
        """,
    )
    run = project.start("--env=qa", "-n3", "-v", "--max-worker-restart=0")
    run.wait_for("PASSED", *(f"[gw{number}]" for number in range(3)))
    project.second.kill()
    result = project.end(run).ended(0, "16 passed")
    assert result.out.count("was lost: its share ran elsewhere") == 1


@pytest.mark.slow
def test_contexts_and_prune(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    import hashlib

    folder = tmp_path_factory.mktemp("docker")
    key = hashlib.sha256(b"far").hexdigest()
    meta = folder / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(
        json.dumps({"Name": "far", "Endpoints": {"docker": {"Host": project.second.url}}})
    )
    shutil.copytree(project.second.certs, folder / "contexts" / "tls" / key / "docker")
    project.environ["DOCKER_CONFIG"] = str(folder)
    del project.environ["DOCKER_CERT_PATH"]
    project.configure("context://far", "tcp://127.0.0.1:1")
    project.write("test_it.py", SUITE)
    # The image came there by an earlier run, or does so from the machine's own daemon.
    project.run(
        "--env=qa", "--env-engine=unix:///var/run/docker.sock", "--env-engine=context://far", "-n2"
    ).ended(0)
    result = project.run("ps", "--cache", module="pytest_envpar").ended(0)
    assert COPIES in result.out
    assert "tcp://127.0.0.1:1" in result.err
    result = project.run("prune", "--cache", module="pytest_envpar").ended(0)
    assert f"removed image {COPIES}" in result.out
    assert copies(project) == []
    result = project.run("doctor", module="pytest_envpar")
    assert "a pool of 2 engines, of which 1 answer" in result.out


def test_ssh_says_what_is_wrong(project: Project) -> None:
    project.write("test_it.py", SUITE)
    url = project.urls[0]
    nobody = url.replace("root@", "nobody@")
    result = project.run("--env=qa", f"--env-engine={nobody}").ended(4)
    assert "Permission denied" in result.err
    other = project.run("--env=qa", f"--env-engine={url.replace('docker.sock', 'nothing.sock')}").ended(4)
    assert "nothing.sock" in other.err
    assert "a password in the URL" in project.run("--env=qa", "--env-engine=ssh://a:b@c").ended(4).err
    both = (f"--env-engine={nobody}", "--env-engine=tcp://127.0.0.1:1")
    assert "no engine of the pool answers; tried 2" in project.run("--env=qa", *both).ended(4).err


@pytest.mark.slow
def test_gateways_of_xdist_to_a_machine_with_an_engine(
    project: Project, ssh_url: tuple[str, Path], tmp_path: Path
) -> None:
    """The process is on the far side, and so are its checkout and its engine."""
    project.configure(f"unix://{project.second.folder}/docker.sock")
    project.write("test_it.py", "import os\ndef test_a(): print('in', os.getcwd())\ndef test_b(): pass\n")
    image = project.near.inspect_image("envpar-base:py3.11")
    assert image is not None
    with contextlib.closing(project.second.connect()) as far:
        far.load_image(project.near.save_image("envpar-base:py3.11"))
    checkout = tmp_path / "checkout"
    shutil.copytree(project.root, checkout)
    port = ssh_url[0].split(":")[2].partition("/")[0]
    gateway = f"ssh=-p {port} root@127.0.0.1//python={sys.executable}//chdir={checkout}"
    result = project.run("--env=qa", "-d", "--tx", f"2*{gateway}", "-rP").ended(0, "2 passed")
    assert f"in {checkout}" in result.out
    assert "[gw0]" in result.out or "[gw1]" in result.out


MOMENTS = {
    "collection": ("test_it.py", "{now}", "was lost: its share ran elsewhere"),
    "last teardown": (
        "conftest.py",
        "import pytest\n@pytest.fixture(scope='session', autouse=True)\ndef last():\n    yield\n    {now}",
        "the engine was lost at the end of test_it.py::test_b (",
    ),
    "end": (
        "conftest.py",
        "def pytest_sessionfinish():\n    {now}",
        "the engine was lost at the end of the session (",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_engine_goes_away_before_or_after_the_tests(project: Project, moment: str) -> None:
    """Where nothing is left to be run elsewhere that is told as well: what came last was not seen to its end."""
    name, text, told = MOMENTS[moment]
    now = r"import os, time; os.write(1, b'now\n'); time.sleep(3)"
    project.write("test_it.py", "def test_a(): pass\ndef test_b(): pass\n")
    file = project.root / name
    tests = file.read_text() if file.exists() else ""
    file.write_text(text.format(now=now) + "\n" + tests)
    project.configure(*reversed(project.urls))
    run = project.start("--env=qa", "-v", "-s")
    run.wait_for("now")
    project.second.kill()
    result = project.end(run).ended(0, "2 passed")
    assert result.out.count(told) == 1, result.text
