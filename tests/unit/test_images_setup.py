"""Which files setup steps name, and what their hash looks at."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.errors import ImageError
from pytest_envpar.images.setup import named_files, setup_hash


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "project"
    for name in (
        *("requirements.txt", "pyproject.toml", "constraints.txt", "run.sh", "envpar.lock", "with space"),
        *(
            "req/dev.txt",
            "req/more.txt",
            "src/pkg/a.py",
            "src/pkg/__pycache__/a.pyc",
            "src/.git/HEAD",
            "src/b.pyc",
        ),
        *("wheels/one.whl", "wheels/two.whl", "wheels/notes"),
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    return made


WHEELS = ["wheels/notes", "wheels/one.whl", "wheels/two.whl"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("true", []),
        ("pip install -r requirements.txt", ["requirements.txt"]),
        ("pip install -rrequirements.txt -cconstraints.txt", ["constraints.txt", "requirements.txt"]),
        ("pip install --requirement=requirements.txt", ["requirements.txt"]),
        ("pip install --no-index --find-links wheels x", WHEELS),
        ("pip install --find-links=./wheels/ x;sh run.sh", ["run.sh", *WHEELS]),
        ("pip install wheels/*.whl", ["wheels/one.whl", "wheels/two.whl"]),
        ("pip install './src[test,more]'", ["src/pkg/a.py"]),
        ("cd src&&ls", ["src/pkg/a.py"]),
        ("curl -d @run.sh x", ["run.sh"]),
        ("cat <requirements.txt >/dev/null", ["requirements.txt"]),
        ("cp 'with space' /", ["with space"]),
        ("sh -c 'pip install -r requirements.txt'", ["requirements.txt"]),
        ("cat <<'X'\nit's run.sh\nX", ["run.sh"]),
        ("pip install requirements", []),
        ("cat ../project/run.sh /etc/passwd ../other", ["run.sh"]),
        (". ./run.sh", ["run.sh"]),
        ("true; . ./run.sh", ["run.sh"]),
        ("cat req", ["req/dev.txt", "req/more.txt"]),
    ],
)
def test_words_that_name_files(root: Path, step: str, expected: list[str]) -> None:
    assert list(named_files([step], root)) == expected


def test_a_path_of_this_machine_names_a_file_too(root: Path) -> None:
    assert named_files([f"cat {root}/run.sh"], root) == ("run.sh",)


def test_the_whole_project_but_what_runs_write(root: Path) -> None:
    found = named_files(["pip install -e ."], root, (root / "envpar.lock",))
    assert "src/pkg/a.py" in found
    assert "pyproject.toml" in found
    assert not [name for name in found if "lock" in name or ".git" in name or "pyc" in name]


def test_requirements_files_are_followed(root: Path) -> None:
    (root / "requirements.txt").write_text(
        "attrs  # comment run.sh\n-r req/dev.txt\nsrc\n--find-links wheels \\\n  --no-index\n"
        "# -c none.txt\n-e ./src[x]\n"
    )
    (root / "req/dev.txt").write_text(
        "-cmore.txt\n--constraint=../constraints.txt\n-r dev.txt\n-r missing.txt\n"
    )
    (root / "req/more.txt").write_bytes(b"\xff\xfe -r \xff")
    assert set(named_files(["pip install -r requirements.txt"], root)) == {
        *("requirements.txt", "req/dev.txt", "req/more.txt", "constraints.txt", "src/pkg/a.py", *WHEELS),
    }
    # Named without an option that says what it is, it is a file as any other.
    assert named_files(["cat requirements.txt"], root) == ("requirements.txt",)


def test_links(root: Path) -> None:
    (root / "link").symlink_to("run.sh")
    (root / "out").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("loop")
    (root / "folder").symlink_to("wheels")
    assert named_files(["cat link out loop folder"], root) == (
        "folder",
        "link",
        "loop",
        "out",
        "run.sh",
        *WHEELS,
    )
    assert setup_hash(Stage("qa", image="x", setup=("cat link out loop folder",)), root)


QA = Stage("qa", image="x", setup=("sh run.sh", "pip install -r requirements.txt"))


@pytest.mark.parametrize(
    "keys",
    [
        {"setup": QA.setup[::-1]},
        {"setup": (*QA.setup, "true")},
        {"env": MappingProxyType({"A": "b"})},
        {"pass_env": ("A",)},
        {"user": "1000"},
        {"workdir": PurePosixPath("/x")},
        {"platform": "linux/arm64"},
    ],
)
def test_what_the_configuration_says_counts(root: Path, keys: dict[str, Any]) -> None:
    assert setup_hash(QA, root) != setup_hash(dataclasses.replace(QA, **keys), root)


def test_what_does_not_count(root: Path, tmp_path: Path) -> None:
    before = setup_hash(QA, root)
    (root / "src/pkg/a.py").write_text("other")
    os.utime(root / "run.sh", (1, 1))
    (root / "run.sh").chmod(0o600)
    assert setup_hash(dataclasses.replace(QA, memory_bytes=1 << 30, network="none"), root) == before
    # Another checkout, another image: only the lock's other lines tell.
    root.rename(tmp_path / "elsewhere")
    assert setup_hash(dataclasses.replace(QA, image="y"), tmp_path / "elsewhere") == before


@pytest.mark.parametrize("change", ["content", "program", "nested", "removed"])
def test_every_change_of_a_named_file_counts(root: Path, change: str) -> None:
    (root / "requirements.txt").write_text("-r req/dev.txt\n")
    before = setup_hash(QA, root)
    if change == "content":
        (root / "run.sh").write_text("other")
    elif change == "program":
        (root / "run.sh").chmod(0o755)
    elif change == "nested":
        (root / "req/dev.txt").write_text("attrs\n")
    else:
        (root / "run.sh").unlink()
    assert setup_hash(QA, root) != before


def test_a_file_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pytest_envpar.images.digests.file_digest", denied)
    with pytest.raises(ImageError, match=r"run\.sh, which a setup step names, cannot be read: Perm"):
        setup_hash(dataclasses.replace(QA, setup=("sh run.sh",)), root)
