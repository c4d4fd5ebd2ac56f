"""Moving imports below the private package: every form, without changing line numbers."""

from __future__ import annotations

import ast
import textwrap
from pathlib import PurePosixPath

import pytest

from pytest_envpar.worker import vendor

NAMES = {"dep", "other"}


def moved(source: str, strings_of: str = "") -> str:
    return vendor.rewrite(source.encode(), NAMES, {"dep": "1.2"}, strings_of=strings_of).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import dep", "import _envpar_deps.dep as dep"),
        ("import dep as d", "import _envpar_deps.dep as d"),
        ("import dep.a.b", "import _envpar_deps.dep.a.b, _envpar_deps.dep as dep"),
        ("import dep.a.b as c", "import _envpar_deps.dep.a.b as c"),
        ("import os, dep, sys as s", "import os; import _envpar_deps.dep as dep; import sys as s"),
        ("from dep import x", "from _envpar_deps.dep import x"),
        (
            "from dep.a import (\n    x,\n    y as z,\n)",
            "from _envpar_deps.dep.a import (\n    x,\n    y as z,\n)",
        ),
        ("from   dep import x  # why", "from   _envpar_deps.dep import x  # why"),
        ("from \\\n  dep import x", "from \\\n  _envpar_deps.dep import x"),
        ("if True: import dep; y = 1", "if True: import _envpar_deps.dep as dep; y = 1"),
        ("importlib.import_module('dep.a')", "importlib.import_module('_envpar_deps.dep.a')"),
        ('__import__("dep")', '__import__("_envpar_deps.dep")'),
        ('sys.modules["dep"]', 'sys.modules["_envpar_deps.dep"]'),
        ('sys.modules.get("dep.a")', 'sys.modules.get("_envpar_deps.dep.a")'),
        ('"dep" in sys.modules', '"_envpar_deps.dep" in sys.modules'),
        ('version("dep")', "'1.2'"),
        ('importlib.metadata.version("dep")', "'1.2'"),
        ("é = 1; import dep", "é = 1; import _envpar_deps.dep as dep"),
    ],
)
def test_forms_that_move(before: str, after: str) -> None:
    assert moved(before) == after
    assert vendor.leftovers(after.encode(), NAMES) == []


@pytest.mark.parametrize(
    "source",
    [
        "from . import dep",
        "from .dep import x",
        "import depth",
        "from deputy import dep",
        "import a.dep",
        'text = "dep"',
        'text = "import dep"',
        '"""Like dep.a does."""',
        'table.get("dep")',
        'version("unknown")',
        'f"{x}dep.a"',
    ],
)
def test_what_stays(source: str) -> None:
    assert moved(source, strings_of="") == source


def test_nested_places_move_and_lines_stay() -> None:
    source = textwrap.dedent(
        """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from dep.types import T
        try:
            import dep.fast
        except ImportError:
            dep = None
        def load():
            import os, \\
                dep.a, \\
                sys
            return dep.a
        last = 1
        """
    )
    result = moved(source)
    assert result.count("\n") == source.count("\n")
    assert [n.lineno for n in ast.parse(result).body] == [n.lineno for n in ast.parse(source).body]
    assert vendor.leftovers(result.encode(), NAMES) == []


def test_a_version_call_over_several_lines_keeps_its_lines() -> None:
    result = moved('x = version(\n    "dep"\n)\ny = 2\n')
    values: dict[str, object] = {}
    exec(result, values)
    assert values["x"] == "1.2"
    assert result.count("\n") == 4


def test_dotted_strings_of_one_package_move_with_it() -> None:
    source = (
        "TABLE = {'A': ('dep.lexers.a', 'dep')}\nNAME = 'dep.styles.' + x\nTEXT = 'see dep.styles for more'\n"
    )
    assert moved(source, strings_of="dep") == (
        "TABLE = {'A': ('_envpar_deps.dep.lexers.a', 'dep')}\nNAME = '_envpar_deps.dep.styles.' + x\n"
        "TEXT = 'see dep.styles for more'\n"
    )


def test_leftovers_are_found() -> None:
    source = b"import os\nimport dep.a\nfrom other import b\nx = sys.modules['dep']\nfrom . import dep\n"
    assert vendor.leftovers(source, NAMES) == ["line 2: dep.a", "line 3: other", "line 4: dep"]


def test_byte_order_mark_and_form_feed_do_not_shift_the_edits() -> None:
    source = b"\xef\xbb\xbfx = 1\n\x0c\nimport dep\r\nimport other\n"
    result = vendor.rewrite(source, NAMES, {})
    assert result == (
        b"\xef\xbb\xbfx = 1\n\x0c\nimport _envpar_deps.dep as dep\r\nimport _envpar_deps.other as other\n"
    )


def test_a_string_that_cannot_be_edited_is_an_error() -> None:
    with pytest.raises(vendor.RewriteError, match="cannot move the module name"):
        moved("import dep; import_module('de' 'p.a')")


def test_closure_follows_imports_of_every_form() -> None:
    tree = {
        PurePosixPath("p/__init__.py"): b"from p.util import x",
        PurePosixPath("p/util.py"): b"import os",
        PurePosixPath("p/a/__init__.py"): b"from . import b",
        PurePosixPath("p/a/b.py"): b"from ..c import y",
        PurePosixPath("p/c.py"): b"def f():\n    import p.d",
        PurePosixPath("p/d.py"): b"",
        PurePosixPath("p/unused.py"): b"",
        PurePosixPath("p/data.txt"): b"",
    }
    assert [str(path) for path in vendor.closure(tree, {"p.a"})] == [
        "p/__init__.py",
        "p/a/__init__.py",
        "p/a/b.py",
        "p/c.py",
        "p/d.py",
        "p/util.py",
    ]


def test_private_site_keeps_public_names_only_for_pytest_and_exception_groups() -> None:
    site = vendor.private_site(
        {
            "pytest": {PurePosixPath("_pytest/x.py"): b"import pluggy\nimport colorama\n"},
            "pluggy": {PurePosixPath("pluggy/__init__.py"): b"def v(): return version('pluggy')\n"},
            "exceptiongroup": {PurePosixPath("exceptiongroup/__init__.py"): b"import typing_extensions\n"},
            "typing-extensions": {PurePosixPath("typing_extensions.py"): b"x = 1\n"},
        },
        {"pytest": "9", "pluggy": "1.6"},
    )
    assert {str(path): source.decode() for path, source in site.items()} == {
        "_envpar_deps/__init__.py": "",
        "_pytest/x.py": "import _envpar_deps.pluggy as pluggy\nimport _envpar_deps.colorama as colorama\n",
        "_envpar_deps/pluggy/__init__.py": "def v(): return '1.6'\n",
        "exceptiongroup/__init__.py": "import _envpar_deps.typing_extensions as typing_extensions\n",
        "_envpar_deps/typing_extensions.py": "x = 1\n",
    }


def test_private_site_names_the_file_it_cannot_move() -> None:
    with pytest.raises(vendor.RewriteError, match=r"^pluggy/bad\.py: "):
        vendor.private_site({"pluggy": {PurePosixPath("pluggy/bad.py"): b"import pluggy ???"}}, {})
