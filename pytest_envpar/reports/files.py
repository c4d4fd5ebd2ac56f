"""Reports as files: the text of each form, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from pytest_envpar.reports.run import RunReport


def rendered(report: RunReport, form: str, configuration: str = "envpar.toml", *, rootdir: str = ".") -> str:
    """A run in one form.

    Args:
        form: ``html``, ``json``, ``markdown`` or ``sarif``.
        configuration: The configuration file, relative to the repository; SARIF needs a place for each finding.
        rootdir: The folder, relative to the repository, that node ids are relative to.
    """
    from pytest_envpar.reports import drift_sarif, run, run_html, run_markdown

    if form == "html":
        return run_html.page(report)
    if form == "json":
        return run.render(report)
    if form == "markdown":
        return run_markdown.render(report)
    return drift_sarif.render(
        report.drifts,
        configuration,
        pollution=() if report.pollution is None else report.pollution.told,
        rootdir=rootdir,
    )


def write(path: Path, text: str, *, parents: bool = False) -> None:
    """Write a report beside its name, then rename it.

    Args:
        path: Where (host).
        parents: Make the folders that are missing, as pytest does for its own reports.

    Raises:
        UsageError: It cannot be written there.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        beside = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as opened:
                opened.write(text)
            beside.chmod(0o644)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="name a file in a folder that exists and can be written to",
        ) from error
