"""A worker: makes this process look like one that was started as ``pytest``, and runs it."""

import os
import sys
import traceback
import types
from typing import Any, Dict, List, cast

from . import wire
from .channel import Channel
from .supervisor import WorkerEnds

_HERE = os.path.dirname(os.path.abspath(__file__))
_AGENT_HOME = os.path.dirname(_HERE)


def run(ends: WorkerEnds, site: str, first: str) -> int:
    """Run one session and return its exit status.

    Args:
        ends: Descriptors to the supervisor.
        site: The folder of an injected pytest (a container path), or an empty string for the image's own.
        first: The same for the front of ``sys.path``, where the image has another pytest.
    """
    channel = Channel(ends)
    _forget_how_we_started()
    if site:
        sys.path.append(site)
    if first:
        sys.path.insert(0, first)
    import pytest  # early: the host is still busy with its own start

    init = channel.receive()
    if not isinstance(init, wire.Init) or init.protocol != wire.PROTOCOL:
        sys.stderr.write("pytest-envpar: the agent speaks protocol %d\n" % wire.PROTOCOL)
        return 3
    options = init.options
    # A container that waited was to be left as its image is.
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
    arguments = _enter(options)

    from . import public
    from .inside import Inside, LateConfigure
    from .streams import Streams

    inside = Inside(channel, options, Streams(channel, ends, options.get("input")))
    plugins = [inside, LateConfigure(inside), public.fixtures(channel, options)]
    if options.get("pollution") is not None:
        from .pollution import Pollution

        plugins.append(Pollution(channel, options))
    measure = inside.measure
    try:
        if measure is not None and measure.whole:
            measure.start()
        status = int(_main(arguments, plugins))
        if measure is not None and measure.whole:
            measure.finish()
        channel.send(wire.Finished(status, inside.output))
    except SystemExit as error:  # what argparse does for usage errors in some releases
        status = error.code if isinstance(error.code, int) else 1
        channel.send(wire.Finished(status, inside.output))
    except BaseException as error:  # noqa: BLE001 - from where pytest catches nothing, as unconfigure hooks
        status = 2 if isinstance(error, KeyboardInterrupt) else 1
        if isinstance(error, pytest.UsageError):  # of what comes before pytest
            status = 4
            sys.stderr.write("ERROR: %s\n" % error)
        else:
            _show(error)
        channel.send(wire.Finished(status, inside.output))
    channel.finish()
    return status


def _show(error: BaseException) -> None:
    """The traceback that a local run would end with, without the frames that started it here."""
    trace = error.__traceback__
    while trace is not None and os.path.dirname(os.path.abspath(trace.tb_frame.f_code.co_filename)) == _HERE:
        trace = trace.tb_next
    try:
        traceback.print_exception(type(error), error, trace)
    except Exception:  # noqa: BLE001 - whatever the tests have made of sys.stderr
        pass


def _main(arguments: List[str], plugins: List[Any]) -> int:
    """``pytest.main``, with the program's name in usage errors as the command line has it."""
    import pytest
    from _pytest import config

    named = getattr(config, "_main", None)
    if named is None:
        return int(pytest.main(arguments, plugins=plugins))
    naming = getattr(config, "_get_prog_name", None)
    prog = os.path.basename(sys.argv[0]) if naming is None else naming(sys.argv)
    return int(named(args=arguments, plugins=plugins, prog=prog))


def _forget_how_we_started() -> None:
    """Children of ``multiprocessing`` look at ``__main__``; imports look at ``sys.path``. Neither is ours."""
    for ours in (_AGENT_HOME, ""):
        if ours in sys.path[:2]:
            sys.path.remove(ours)
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main


def _enter(options: Dict[str, Any]) -> List[str]:
    """Working directory, environment, ``sys.path[0]`` and ``sys.argv`` as pytest would find them."""
    for name, value in options["env"].items():
        os.environ[name] = value
    os.chdir(options["cwd"])
    if options.get("bytecode"):
        from . import bytecode

        bytecode.keep(options["bytecode"], options["root"])
    if options.get("pycache"):
        sys.pycache_prefix = options["pycache"]
    scripts = os.path.dirname(sys.executable)
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd() if options["module"] else scripts)
    arguments = cast("List[str]", list(options["args"]))
    if options["module"]:
        sys.argv = [os.path.join(os.path.dirname(sys.modules["pytest"].__file__ or ""), "__main__.py")]
    else:
        sys.argv = [os.path.join(scripts, "pytest")]
    sys.argv += arguments
    if options["cache_dir"]:
        _seed_cache(options["cache_dir"], options["cache"])
        arguments = ["-o", "cache_dir=" + options["cache_dir"]] + arguments
    return arguments


def _seed_cache(folder: str, values: Dict[str, Any]) -> None:
    """Put what the host's cache knows where pytest's own plugins look for it."""
    import json

    for key, value in values.items():
        path = os.path.join(folder, "v", *key.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)
