"""Small projects and images whose differences are known."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from rig.engines import DOCKER
from rig.hosts import FINDABLE, pytest_command
from rig.projects import Folder
from rig.runs import Ran, begin

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 240.0


class Project(Folder):
    """A folder with a configuration, in which commands are run."""

    def stages(self, more: str = "", **images: str) -> None:
        """Write the configuration: a stage for each image."""
        tables = "\n".join(
            f'[stages.{name}]\nimage = "{image}"\nnetwork = "none"\n' for name, image in images.items()
        )
        self.write("envpar.toml", f'engine = "{DOCKER}"\n{tables}\n{textwrap.dedent(more)}')

    def envpar(self, *args: str) -> Ran:
        """Run the command."""
        return self._run([sys.executable, "-m", "pytest_envpar", *args])

    def pytest(self, *args: str, **environ: str) -> Ran:
        """Run pytest."""
        return self._run(pytest_command(*args), **environ)

    def _run(self, command: Sequence[str], **environ: str) -> Ran:
        return begin(command, self.root, {**self.environ, **FINDABLE, **environ}).end(TIMEOUT_S)


def deb(name: str, version: str, **files: str) -> str:
    """A line of a Dockerfile that makes a package with Debian's own tools, and installs it.

    Args:
        files: Contents by name below ``/usr/lib/NAME``.
    """
    top = f"/tmp/{name}"
    control = f"Package: {name}\\nVersion: {version}\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: test\\n"
    steps = [f"mkdir -p {top}/DEBIAN {top}/usr/lib/{name}", f"printf '{control}' > {top}/DEBIAN/control"]
    steps += [f"printf '{content}' > {top}/usr/lib/{name}/{file}" for file, content in files.items()]
    steps += [
        f"(cd {top} && md5sum usr/lib/{name}/* > DEBIAN/md5sums)",
        f"dpkg-deb --build {top} {top}.deb >/dev/null",
        f"dpkg -i {top}.deb",
        f"rm -r {top} {top}.deb",
    ]
    return "RUN " + " && ".join(steps)
