"""The same command line twice, locally and in a stage, side by side in two equal projects."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0

# What differs between any two runs, or is what the stage run is about. Lengths do not change, so that lines that
# are filled up to the width of the terminal stay equal.
_SAME: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^platform .*$", re.MULTILINE), "platform"),
    (re.compile(r"^plugins: .*\n", re.MULTILINE), ""),
    (re.compile(r"^(\x1b\[[0-9;]*m)*envpar: .*\n", re.MULTILINE), ""),
    (re.compile(r"^!+ .*: pytest failed inside stage \w+ !+\n", re.MULTILINE), ""),
    (re.compile(r"0x[0-9a-f]+"), "0xADDRESS"),
    # Where our fixtures lie, which both sides have.
    (re.compile(r"(?<= -- )\S*agent/(?:fixtures|services)\.py:"), "OURS:"),
    # Where pytest and the standard library lie.
    (
        re.compile(
            r"(?:[\w./-]*/)?(?:site-packages|\.envpar/agent/site(?:/_envpar_deps)?)/(?=_pytest|pluggy|pytest)"
        ),
        "SITE/",
    ),
    (re.compile(r"(?:[\w./-]*/)?lib/python3\.\d+/(?=\w)"), "STDLIB/"),
    (re.compile(r"(?<=<frozen importlib\._bootstrap>)(:|\", line )\d+"), ""),
    (re.compile(r"(?<![\w.])\d+\.\d\ds\b( \(\d:\d\d:\d\d\))?"), "N.NNs"),
    (re.compile(r"=+ (.*\bN\.NNs\b.*?) =+"), r"= \1 ="),
    (re.compile(r"/(?:tmp|[\w./-]+)/pytest-of-\w+/pytest-\d+"), "/BASETEMP"),
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one run ended. ``xml`` is the file it was to write, read where it exists; ``raw`` is the output as it was."""

    code: int
    out: str
    err: str
    xml: str | None
    raw: str


@dataclasses.dataclass(frozen=True)
class Twin:
    """Two copies of one project below folders with names of the same length.

    Args:
        folder: The parent of both.
        local: The Python of the local run; the host's pytest serves both.
        environ: Additional variables for both.
        path: Folders of the project for ``PYTHONPATH`` of the local run; the stage has its own ``env``.
        limit_s: How long a run may take.
    """

    folder: Path
    local: str = sys.executable
    stage: str = "dev"
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    path: tuple[str, ...] = ()
    limit_s: float = LIMIT_S

    @classmethod
    def of(cls, folder: Path, write: Callable[[Path], object], **more: Any) -> Twin:
        """Write the project twice below ``folder``."""
        twin = cls(folder, **more)
        for side in twin.sides:
            side.mkdir(parents=True)
            write(side)
        return twin

    @property
    def sides(self) -> tuple[Path, Path]:
        """The project for the local run and the one for the stage run."""
        return self.folder / "LL" / "project", self.folder / "SS" / "project"

    def fresh(self) -> None:
        """Forget what earlier runs left: pytest's cache and results."""
        for side in self.sides:
            shutil.rmtree(side / ".pytest_cache", ignore_errors=True)
            (side / "result.xml").unlink(missing_ok=True)

    def run(
        self, *arguments: str, cwd: str = ".", by: str = "option", stage_only: Sequence[str] = ()
    ) -> tuple[Ended, Ended]:
        """Run both at once and return how they ended, in terms that are the same for both.

        Args:
            arguments: For pytest. ``{root}`` is the project's absolute path.
            cwd: The working directory, relative to the project.
            by: How the stage is named: ``option``, ``addopts`` (in the environment), or ``none``, which compares a
                run without the plugin to one with it.
            stage_only: More arguments, for the stage run alone.
        """
        started = []
        for side, python, ours in zip(self.sides, (self.local, sys.executable), (False, True), strict=True):
            command = [python, "-m", "pytest"]
            # The plugin by name, so that a checkout serves as well as an installation.
            command += ["-p", "pytest_envpar.plugin"] if ours or by != "none" else []
            command += [f"--env={self.stage}"] if ours and by == "option" else []
            environ = self._environ(side)
            if ours and by == "addopts":
                environ["PYTEST_ADDOPTS"] = f"--env={self.stage}"
            # In CI a stage has to be locked; no project here is.
            command += ["--env-update"] if ours and by != "none" and self.environ.get("CI") else []
            command += stage_only if ours else ()
            command += [argument.replace("{root}", str(side)) for argument in arguments]
            started.append(
                subprocess.Popen(
                    command,
                    cwd=side / cwd,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        ended = []
        for side, process in zip(self.sides, started, strict=True):
            try:
                out, err = process.communicate(timeout=self.limit_s)
            except subprocess.TimeoutExpired:
                for other in started:
                    other.kill()
                raise
            ended.append(
                Ended(
                    process.returncode,
                    self._text(side, out),
                    self._text(side, err),
                    self._xml(side),
                    out.decode("utf-8", "replace"),
                )
            )
        return ended[0], ended[1]

    def _environ(self, side: Path) -> dict[str, str]:
        # Nor may it lend them its cache folder, hash seed or encoding, as tox does.
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "PYTHON", "TOX_"))
        }
        environ.update(
            # The host's own plugins are of no interest; in the image there are none.
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            PYTHONPATH=os.pathsep.join(
                [str(ROOT), *(str(side / entry) for entry in self.path if side == self.sides[0])]
            ),
            PYTHONDONTWRITEBYTECODE="1",
            PYTHONUNBUFFERED="",
            PYTHONHASHSEED="0",
            COLUMNS="80",
            **{name: value.replace("{root}", str(side)) for name, value in self.environ.items()},
        )
        # Whatever runs these tests must not colour what they run.
        for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CI", "BUILD_NUMBER"):
            environ.pop(name, None)
        environ.update({name: value for name, value in self.environ.items() if name == "CI"})
        return environ

    def _text(self, side: Path, data: bytes) -> str:
        return normalised(data.decode("utf-8", "backslashreplace").replace(str(side.parent), "/TWIN"))

    def _xml(self, side: Path) -> str | None:
        file = side / "result.xml"
        if not file.exists():
            return None
        root = ET.parse(file).getroot()
        for element in root.iter():
            for name in ("time", "timestamp", "hostname"):
                if name in element.attrib:
                    element.set(name, "")
        text = ET.tostring(root, encoding="unicode").replace("><", ">\n<")
        return normalised(text.replace(str(side.parent), "/TWIN"))


def normalised(text: str) -> str:
    """Text without what differs between any two runs."""
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    return text


def difference(left: Ended, right: Ended) -> str:
    """How two runs differ, as a diff; empty if they do not."""
    found: list[str] = []
    if left.code != right.code:
        found.append(f"exit code: {left.code} locally, {right.code} in the stage")
    parts: Sequence[tuple[str, str, str]] = (
        ("stdout", left.out, right.out),
        ("stderr", left.err, right.err),
        ("JUnit XML", left.xml or "", right.xml or ""),
    )
    for name, here, there in parts:
        found += difflib.unified_diff(
            here.splitlines(), there.splitlines(), f"{name}, locally", f"{name}, stage", n=1, lineterm=""
        )
    return "\n".join(found)
