"""A small project with one test for each thing that pytest can print."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILES: dict[str, str] = {}


def _file(name: str, text: str) -> None:
    FILES[name] = textwrap.dedent(text).lstrip("\n")


def write(folder: Path, *, image: str) -> Path:
    """Write the project and return its folder (host)."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@IMAGE@", image), encoding="utf-8")
    return folder


_file(
    "pyproject.toml",
    """
    [tool.pytest.ini_options]
    testpaths = ["tests"]
    addopts = "--strict-markers"
    markers = ["slow: takes long", "db: talks to a database"]
    usefixtures = ["marked_run"]
    filterwarnings = ["default", "error::shop.errors.ShopError"]
    plugin_inside_setting = "yes"
    doctest_optionflags = "NORMALIZE_WHITESPACE"

    [tool.envpar]
    [tool.envpar.stages.dev]
    image = "@IMAGE@"
    network = "none"
    env = { PYTHONHASHSEED = "0" }
    """,
)
_file("shop/__init__.py", '"""A shop."""\n')
_file(
    "shop/errors.py",
    """
    class ShopError(UserWarning):
        pass
    """,
)
_file(
    "shop/price.py",
    '''
    def total(prices):
        """Add prices.

        >>> total([1, 2])
        3
        >>> total([])
        1
        """
        return sum(prices)
    ''',
)
_file(
    "conftest.py",
    """
    import logging

    import pytest


    def pytest_addoption(parser):
        group = parser.getgroup("shop")
        group.addoption("--shop-mode", action="store", default="plain", help="mode of the shop")
        group.addoption("--shop-fast", action="store_true")
        parser.addini("plugin_inside_setting", "read inside")


    def pytest_report_header(config):
        return ["shop mode: %s" % config.getoption("--shop-mode"), "shop says hello"]


    def pytest_report_teststatus(report, config):
        if report.when == "call" and report.passed and "special" in report.keywords:
            return "special", "S", ("SPECIAL", {"green": True, "bold": True})


    def pytest_terminal_summary(terminalreporter, exitstatus, config):
        terminalreporter.section("shop summary")
        terminalreporter.write_line("exit status %d" % exitstatus)
        terminalreporter.write_line("failed: %d" % len(terminalreporter.getreports("failed")))
        for report in terminalreporter.getreports("passed"):
            if getattr(report, "shop_extra", None):
                terminalreporter.write_line("extra %s %s" % (report.nodeid, report.shop_extra))


    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(item, call):
        outcome = yield
        report = outcome.get_result()
        if "extra" in item.name:
            report.shop_extra = {"when": call.when, "thing": (1, 2)}


    def pytest_configure(config):
        config.addinivalue_line("markers", "special: has a status of its own")


    @pytest.fixture
    def marked_run():
        yield


    @pytest.fixture(scope="session")
    def ledger(request):
        \"\"\"The ledger of the session.\"\"\"
        return []


    @pytest.fixture
    def shop_mode(request):
        return request.config.getoption("--shop-mode")
    """,
)
_file(
    "tests/test_plain.py",
    '''
    import logging
    import os
    import sys
    import unittest
    import warnings

    import pytest

    from shop.errors import ShopError
    from shop.price import total


    def test_pass():
        """A docstring."""
        assert total([1, 2]) == 3


    def test_fail_assert():
        prices = [1, 2, 3]
        assert total(prices) == len(prices), "the shop is wrong"


    def test_fail_compare():
        assert {"a": 1, "b": [1, 2, 3], "long": "x" * 50} == {"a": 1, "b": [1, 3, 2], "long": "y" * 50}


    def test_fail_chain():
        try:
            int("no")
        except ValueError as error:
            raise RuntimeError("wrapped") from error


    def helper(value):
        local = value * 2
        raise ShopError("from a helper %d" % local)


    def test_fail_deep():
        helper(2)


    def test_fail_no_trace():
        pytest.fail("in plain words", pytrace=False)


    @pytest.mark.parametrize(
        "a, b", [(1, 2), pytest.param(3, 3, id="same"), ("ü", "☃"), ("\\ud800", "x/y::z"), ([1], None)]
    )
    def test_param(a, b):
        assert a != b


    @pytest.mark.skip(reason="not today")
    def test_skip_mark():
        raise AssertionError


    @pytest.mark.skipif(sys.version_info > (3,), reason="a newer Python")
    def test_skipif():
        raise AssertionError


    def test_skip_inside():
        pytest.skip("inside")


    @pytest.mark.xfail(reason="known", raises=AssertionError)
    def test_xfail():
        assert 0


    @pytest.mark.xfail(reason="known")
    def test_xpass():
        pass


    @pytest.mark.xfail(strict=True, reason="strictly")
    def test_xpass_strict():
        pass


    def test_warns():
        warnings.warn("a user's warning", UserWarning)
        warnings.warn("deprecated", DeprecationWarning)


    class OwnWarning(UserWarning):
        pass


    def test_own_warning():
        warnings.warn(OwnWarning("own class"))


    def test_warning_is_error():
        warnings.warn("shop", ShopError)


    def test_output():
        print("to stdout ü ☃ \\udc80")
        print("to stderr", file=sys.stderr)
        logging.getLogger("shop").warning("a log line %d", 1)
        os.write(1, b"raw bytes \\xff\\xfe\\n")
        assert 0


    def test_output_pass(capsys):
        print("seen by capsys")
        assert capsys.readouterr().out == "seen by capsys\\n"
        print("after")


    @pytest.mark.slow
    @pytest.mark.db
    class TestClass:
        """A class."""

        @pytest.fixture(autouse=True)
        def prepared(self):
            self.value = 1

        def test_method(self, ledger, tmp_path, monkeypatch):
            monkeypatch.setenv("SHOP", "1")
            (tmp_path / "x").write_text("x")
            ledger.append(1)
            assert self.value == 1

        def test_method_fails(self):
            assert self.value == 2

        class TestInner:
            def test_inner(self):
                pass


    class TestUnit(unittest.TestCase):
        def test_unit(self):
            self.assertEqual(1, 1)

        def test_unit_fails(self):
            self.assertEqual([1], [2])

        @unittest.skip("unit skip")
        def test_unit_skip(self):
            pass

        @unittest.expectedFailure
        def test_unit_expected(self):
            self.fail("expected")


    @pytest.mark.special
    def test_special():
        pass


    def test_extra():
        pass


    def test_properties(record_property, record_xml_attribute, record_testsuite_property):
        record_property("price", 3)
        record_property("ünï", "☃")
        record_testsuite_property("shop", "open")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record_xml_attribute("assertions", "7")


    def test_property_that_json_cannot_have(record_property):
        record_property("object", {1, 2})
        record_property("path", os)


    def test_mode(shop_mode):
        assert shop_mode == "plain"
    ''',
)
_file(
    "tests/test_fixtures.py",
    '''
    import pytest


    @pytest.fixture
    def broken():
        print("setting up")
        raise LookupError("no setup")


    @pytest.fixture
    def broken_end():
        yield 1
        print("tearing down")
        raise OSError("no teardown")


    @pytest.fixture(scope="module", params=["red", "blue"])
    def colour(request):
        """The colour."""
        return request.param


    def test_setup_fails(broken):
        pass


    def test_teardown_fails(broken_end):
        assert broken_end == 1


    def test_both_fail(broken_end):
        assert broken_end == 2


    def test_unknown_fixture(nothing_of_the_kind):
        pass


    def test_colour(colour):
        assert colour


    def test_colour_again(colour):
        assert colour == "red"
    ''',
)
_file(
    "tests/test_subtests.py",
    """
    import pytest

    if not hasattr(pytest, "Subtests") and not hasattr(pytest, "SubtestReport"):
        pytest.skip("this pytest has no subtests", allow_module_level=True)


    def test_subtests(subtests):
        for number in range(4):
            with subtests.test("even numbers", number=number):
                print("number", number)
                assert number % 2 == 0


    def test_subtests_pass(subtests):
        with subtests.test("fine"):
            pass


    def test_subtests_skip(subtests):
        with subtests.test("skipped"):
            pytest.skip("no")
    """,
)
_file(
    "tests/test_skipped_module.py",
    """
    import pytest

    pytest.importorskip("no_such_module_anywhere")
    """,
)
_file("broken/test_import_error.py", "import no_such_module_anywhere\n")
_file("broken/test_syntax_error.py", "def test_x(:\n    pass\n")
_file("broken/test_exit_at_import.py", "import sys\nsys.exit(3)\n")
_file("broken/test_fine.py", "def test_fine():\n    pass\n")
_file("broken/test_bad_marker.py", "import pytest\n\n@pytest.mark.unheard_of\ndef test_x():\n    pass\n")
_file(
    "ends/test_exit.py",
    """
    import pytest


    def test_before():
        pass


    def test_exit():
        pytest.exit("the end", returncode=9)


    def test_after():
        pass
    """,
)
_file(
    "ends/test_keyboard.py",
    """
    def test_before():
        pass


    def test_keyboard():
        raise KeyboardInterrupt


    def test_after():
        pass
    """,
)
_file(
    "ends/test_system_exit.py",
    """
    import sys


    def test_before():
        pass


    def test_system_exit():
        sys.exit(5)


    def test_after():
        pass
    """,
)
_file(
    "ends/test_exit_at_import.py",
    """
    import pytest

    pytest.exit("at import", returncode=7)
    """,
)
_file(
    "ends/test_stop.py",
    """
    def test_should_stop(request):
        request.session.shouldstop = "stop it"


    def test_after():
        pass
    """,
)
_file(
    "ends/test_should_fail.py",
    """
    def test_should_fail(request):
        request.session.shouldfail = "fail it"


    def test_after():
        pass
    """,
)
