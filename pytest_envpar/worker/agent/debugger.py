"""pytest's debugger inside a stage: it prints to the worker's own streams, the host to the user's."""

from typing import Any, Callable

from . import wire
from .channel import Channel
from .streams import Streams, flush_output


class Debugger:
    """Keeps what the two of them show in order, and gives the terminal back."""

    def __init__(self, channel: Channel, streams: Streams) -> None:
        self._channel = channel
        self._streams = streams
        self._shows_failures = False

    def configure(self, config: Any, uncaptured: bool) -> None:
        self._shows_failures = bool(getattr(config.option, "usepdb", False))
        _before_it_prints(self._streams.enter)
        if uncaptured:
            self._streams.uncaptured()

    @property
    def may_be_entered(self) -> bool:
        """Whether somebody could answer it."""
        return self._streams.readable

    def tell(self, where: str, text: str) -> None:
        """Text for the host's terminal reporter: the debugger's own view of a failure is such, and --setup-show's."""
        if self._channel.live:
            flush_output()
        self._channel.send(wire.Text(where, text))
        if self._channel.live:
            self._channel.flush(sync=True)

    def shows(self, report: Any, index: int) -> None:
        """A failure was reported that --pdb will show at length."""
        if self._shows_failures:
            self._channel.send(wire.Debugged(index))
            self._streams.enter()

    def pause(self) -> None:
        """The debugger has let the test go on, and may be entered again."""
        if self._streams.active:
            self._streams.flush()

    def leave(self) -> None:
        self._streams.leave()


def _before_it_prints(enter: Callable[[], None]) -> None:
    """Have ``enter`` called before any way into pytest's debugger prints something; its hook comes too late."""
    from _pytest import debugging

    debugger: Any = debugging.pytestPDB
    begin = debugger._init_pdb

    def init_pdb(method: str, *args: Any, **kwargs: Any) -> Any:
        enter()
        return begin(method, *args, **kwargs)

    debugger._init_pdb = init_pdb
