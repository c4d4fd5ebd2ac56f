"""The end of a process that holds many tests: without taking every one of them apart.

Before it ends, an interpreter looks for garbage among all objects that are alive, several times. After 10,000 tests
that takes a quarter of a second, in which nothing happens that anybody could see.
"""

import atexit
import gc
import io

_WITH_BUFFERS = frozenset((io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair))


def quickly() -> None:
    """Have this process leave without a last search for garbage. What others registered with atexit runs before."""
    atexit.register(_leave)


def _leave() -> None:
    # A file that hangs in a cycle would have been closed by that search; what is written must not be lost.
    for thing in gc.get_objects():
        if type(thing) in _WITH_BUFFERS:
            try:
                thing.flush()
            except Exception:  # noqa: BLE001 - closed, or on a descriptor that is gone
                pass
    freeze()


def freeze() -> None:
    """Take all objects that are alive out of every later search for garbage, where the interpreter can."""
    getattr(gc, "freeze", int)()
