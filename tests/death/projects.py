"""Projects whose suites die, hang or misbehave, run by a real host process against a real engine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rig.engines import left
from rig.hosts import FINDABLE, INSTALLED
from rig.projects import Folder
from rig.runs import assert_no_error_of_ours

from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.containers.sweep import OurObject
    from pytest_envpar.engine.api import Engine

ENV = shutil.which("env") or "/usr/bin/env"  # runs under test may have an empty PATH


@dataclasses.dataclass(frozen=True)
class Result:
    """What the user sees of one run."""

    code: int
    out: str
    seconds: float
    junit: Path

    @property
    def text(self) -> str:
        """Output without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.out)

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes of the last line: ``{"passed": 3, "failed": 1}``."""
        for line in reversed(self.text.splitlines()):
            found = re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b", line)
            if found and re.search(r" in [\d.]+s", line):
                return {word.rstrip("s") if word == "errors" else word: int(count) for count, word in found}
        return {}

    def cases(self) -> dict[str, str]:
        """From the JUnit file: name of a test to ``passed``, ``failure``, ``error`` or ``skipped``."""
        found = {}
        for case in ET.parse(self.junit).getroot().iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            found[case.get("name", "")] = kinds[0] if kinds else "passed"
        return found

    def clean(self) -> Result:
        """Assert that no error of ours was shown, and return self."""
        assert_no_error_of_ours(self.text)
        return self


class Run:
    """A host process that is under way."""

    def __init__(self, process: subprocess.Popen[bytes], junit: Path) -> None:
        self.process = process
        self._junit = junit
        self._text = bytearray()
        self._over = False
        self._news = threading.Condition()
        self._began = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 1 << 16):
            with self._news:
                self._text += data
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def wait_for(self, text: str, timeout_s: float = 100.0) -> None:
        """Wait until the output holds ``text``."""
        with self._news:
            self._news.wait_for(lambda: self._over or text.encode() in self._text, timeout_s)
            seen = bytes(self._text)
        assert text.encode() in seen, f"no {text!r} in: {seen.decode(errors='replace')}"

    def catches(self, number: int) -> bool:
        """Whether the host has a handler for a signal by now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)

    def signal(self, number: int) -> float:
        """Send a signal to the host's process group as a terminal does; returns the time."""
        os.killpg(self.process.pid, number)
        return time.monotonic()

    def end(self, timeout_s: float = 120.0) -> Result:
        """Wait for the end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()
            pytest.fail(f"did not end: {self._text.decode(errors='replace')}", pytrace=False)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return Result(code, self._text.decode(errors="replace"), time.monotonic() - self._began, self._junit)


class Project(Folder):
    """A project in a folder of its own with one stage, ``qa``."""

    def __init__(self, root: Path, image: str, engine: Engine, url: str, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.engine = engine
        self.image = image
        self._url = url
        self._runs: list[Run] = []
        self.stage()

    def stage(self, *lines: str, top: str = "") -> None:
        """Write the configuration; ``lines`` are added to the stage."""
        text = f'engine = "{self._url}"\n{top}\n[stages.qa]\nimage = "{self.image}"\nnetwork = "none"\n'
        (self.root / "envpar.toml").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")

    def start(
        self,
        *args: str,
        host: tuple[str, ...] = ("-m", "pytest"),
        under: tuple[str, ...] = (),
        cwd: Path | None = None,
        stage: str | None = "qa",
    ) -> Run:
        """Start pytest with ``--env=qa`` in a process group of its own, ``under`` another program if named.

        Args:
            stage: ``None`` for a plain run on the host.
        """
        junit = self.root.with_name(f"junit-{len(self._runs)}.xml")
        command = [*under, sys.executable, *host, *(() if INSTALLED else ("-p", "pytest_envpar.plugin"))]
        asked = [] if stage is None else [f"--env={stage}"]
        process = subprocess.Popen(
            # Whoever started these tests in the background may have had the signals ignored, which is inherited.
            [ENV, "--default-signal=INT,HUP,QUIT", *command, *asked, f"--junitxml={junit}", *args],
            cwd=cwd or self.root,
            env={"PYTHONUNBUFFERED": "1", **self.environ, **FINDABLE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        run = Run(process, junit)
        self._runs.append(run)
        return run

    def run(self, *args: str, timeout_s: float = 180.0, under: tuple[str, ...] = ()) -> Result:
        """Run pytest with ``--env=qa`` to its end; nothing of ours may be left and no error of ours be shown."""
        result = self.start(*args, under=under).end(timeout_s)
        assert self.left() == []
        return result.clean()

    def left(self) -> list[OurObject]:
        """Objects of this project's runs that are on the engine (caches are not)."""
        return left(self.engine, self.root, images=True)

    def containers(self) -> list[OurObject]:
        """Containers of this project's runs."""
        return [each for each in self.left() if each.type == "container" and each.kind == "run"]

    def until_swept(self) -> None:
        """Wait until nothing is left of a run that was killed: the end of a run does not wait long for what it
        sweeps, nor for what another one sweeps at the same time."""
        deadline = time.monotonic() + 60
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def close(self) -> None:
        """End what a failed test left running."""
        for run in self._runs:
            if run.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(run.process.pid, signal.SIGKILL)
                run.process.wait()
        for each in self.left():
            with contextlib.suppress(EngineError):
                if each.type == "container":
                    self.engine.remove_container(each.id)
                elif each.type == "volume":
                    self.engine.remove_volume(each.name)
