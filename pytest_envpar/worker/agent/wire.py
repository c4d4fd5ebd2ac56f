"""The frames between host and agent: one codec for both sides.

A *message* is one of the dataclasses below. A *frame* is what travels: five bytes of header (flags, length of the
payload as an unsigned 32 bit big-endian number) and a payload, a JSON array of messages, each an array of its tag and
its fields. JSON is written in ASCII, so that lone surrogates (undecodable bytes of a test) survive as escapes.

A payload above ``MAX_PAYLOAD`` is cut into several frames that carry the flag ``MORE``, except for the last one.
Every frame but the first of such a chain carries ``CONTINUED``; a frame without it drops an unfinished chain, which is
what is left when a worker dies in the middle of a large report.

Both sides are of the same release (the host brings the agent along), so that ``PROTOCOL`` only has to catch a volume
filled by another release. Data that comes from the inside is not trusted: tags, the number and the types of fields and
all sizes are checked.
"""

import dataclasses
import json
import struct
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type, Union

PROTOCOL = 1
MAX_PAYLOAD = 1 << 20
MAX_MESSAGE = 1 << 30
MAX_TEXT = 1 << 29

MORE = 1
CONTINUED = 2
SYNC = 4
"""The sender waits until the frame was passed on (only between worker and supervisor)."""
MARKED = 8
"""The sender has written a mark to its terminal first, which ends what belongs before the frame (likewise)."""

HEADER = struct.Struct(">BI")
Json = Any
_LARGE = 1 << 1000

UNKNOWN = -1
"""Instead of an index: which test of this worker comes next is not known yet."""


class WireError(Exception):
    """The other side sent something that is not of this protocol."""


class _Message:
    """Comparison and text for all messages at once: generating them for each class doubles the time of an import."""

    __hash__ = None  # type: ignore[assignment]  # they change

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.__dict__)


# --- from the host -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, repr=False)
class Init(_Message):
    """Boot a worker.

    ``options`` holds: ``args`` (the command line, verbatim), ``cwd``, ``env`` (variables to set), ``module`` (started
    as ``python -m pytest``), ``width``, ``markup``, ``lines`` (what is printed uncaptured appears line by line, not in
    blocks), ``autostart`` (run what was collected without waiting for a plan), ``crew`` (run item by item as told, as
    a worker of pytest-xdist: its ``workerinput``; None otherwise), ``distributes`` (the host has pytest-xdist),
    ``reports`` (options of plugins whose report the host writes),
    ``pollution`` (tell what tests leave on the file system, see :mod:`pollution`; None otherwise),
    ``credit`` (how many tests may start before the host shows one), ``root`` (the project, a container path),
    ``cache`` (values of pytest's cache that only the host keeps), ``pytest_cov`` (the host has pytest-cov),
    ``coverage`` (what to measure, see :mod:`measure`; None for nothing) and ``input`` (what standard input inside is:
    None for nothing, or ``terminal``, the streams 0, 1 and 2 that are the user's terminal, with its ``rows``,
    ``columns`` and ``term``; no such streams mean a pipe).
    """

    protocol: int
    options: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Plan(_Message):
    """Run these items, by index into what was collected, in this order; ``failed`` tests have failed elsewhere."""

    indices: List[int]
    failed: int


@dataclasses.dataclass(eq=False, repr=False)
class Run(_Message):
    """Run one item, by index, where the order is made up on the way (pytest-xdist).

    ``following`` is what will be run next, which fixtures need to know; None if this was the last, UNKNOWN if tests of
    other stages come first. An ``index`` of None says that there is nothing (more) to run.
    """

    index: Optional[int]
    following: Optional[int]


@dataclasses.dataclass(eq=False, repr=False)
class Credit(_Message):
    """The total number of tests that may have been started."""

    total: int


@dataclasses.dataclass(eq=False, repr=False)
class Interrupt(_Message):
    """Stop as a local run does on Ctrl-C."""


@dataclasses.dataclass(eq=False, repr=False)
class Dump(_Message):
    """Write all stacks to standard error and die."""


@dataclasses.dataclass(eq=False, repr=False)
class Answer(_Message):
    """What the host answers to a call: ``error`` is empty, or has ``kind``, ``message``, ``hint`` and ``detail``.

    ``data`` is a piece of bytes in base64; more pieces follow if ``more`` is set.
    """

    number: int
    error: Dict[str, Json]
    fields: Dict[str, Json]
    data: str
    more: bool


@dataclasses.dataclass(eq=False, repr=False)
class Look(_Message):
    """Tell what has changed in the container since the supervisor began. Answered by Seen."""


@dataclasses.dataclass(eq=False, repr=False)
class Stay(_Message):
    """Kill the worker, if any, and stay when the host goes, so that the container can be entered. Answered by Seen."""


@dataclasses.dataclass(eq=False, repr=False)
class Stdin(_Message):
    """Bytes for standard input inside, as Latin-1; none at its end."""

    data: str


@dataclasses.dataclass(eq=False, repr=False)
class Resize(_Message):
    """The user's terminal has another size."""

    rows: int
    columns: int


@dataclasses.dataclass(eq=False, repr=False)
class Shutdown(_Message):
    """Kill the worker, if any, and leave."""


# --- from the agent ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, repr=False)
class Ready(_Message):
    """A worker has a session. ``facts``: ``python``, ``pytest``, ``pluggy``, ``rootdir``, ``header`` (lines)."""

    protocol: int
    facts: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Collecting(_Message):
    """A file is about to be imported."""

    nodeid: str


@dataclasses.dataclass(eq=False, repr=False)
class CollectFailed(_Message):
    """A collector that failed or skipped, as pytest's serialised report."""

    report: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Collected(_Message):
    """What was collected.

    ``nodes`` are rows ``[parent, type, name, nodeid, doc]`` (``parent`` is a row number or -1); ``items`` rows
    ``[node, type, name, nodeid, doc, location, keywords, marks]``, the selected ones first and in the order in which
    they will run, then ``deselected`` more. ``marks`` are rows of ``[name, args, kwargs]`` that items refer to by row.
    """

    nodes: List[Json]
    items: List[Json]
    marks: List[Json]
    deselected: int
    lines: List[str]


@dataclasses.dataclass(eq=False, repr=False)
class Start(_Message):
    index: int


@dataclasses.dataclass(eq=False, repr=False)
class Passed(_Message):
    """A report that says nothing but that a phase passed."""

    index: int
    when: str
    start: float
    stop: float
    duration: float


@dataclasses.dataclass(eq=False, repr=False)
class Report(_Message):
    """Any other report; ``status`` has category, letter and word if the host cannot tell them itself."""

    index: int
    report: Dict[str, Json]
    status: Optional[List[Json]]


@dataclasses.dataclass(eq=False, repr=False)
class Finish(_Message):
    index: int


@dataclasses.dataclass(eq=False, repr=False)
class Warned(_Message):
    """A warning: category, text, filename, lineno, line, when, nodeid, location."""

    fields: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Text(_Message):
    """Terminal text of plugins inside; ``where`` is ``live`` or ``summary``."""

    where: str
    text: str


@dataclasses.dataclass(eq=False, repr=False)
class Attribute(_Message):
    """``record_xml_attribute`` (``nodeid`` set) or ``record_testsuite_property`` (``nodeid`` empty)."""

    nodeid: str
    name: str
    value: Json


@dataclasses.dataclass(eq=False, repr=False)
class Call(_Message):
    """A test asks the host for something: a container, or a verb of one (``target``) that it was given before.

    ``data`` is a piece of bytes in base64; more pieces follow if ``more`` is set, in calls of the same number.
    """

    number: int
    verb: str
    target: str
    fields: Dict[str, Json]
    data: str
    more: bool


@dataclasses.dataclass(eq=False, repr=False)
class Coverage(_Message):
    """What coverage.py has measured since the last such message.

    ``rows`` are ``[context, file, kind, numbers]``: with kind ``lines`` the lines that ran, with ``arcs`` the jumps
    between lines, two numbers each, and with ``none`` a file that may have run and did not. ``facts`` has, as far as
    there is something to tell, ``version`` (of coverage.py), ``tracer`` (the name of its class), ``python`` (its
    version, five parts), ``tracers`` (file to name of the coverage plugin that measured it), and in the last message
    of a worker ``done``.
    """

    facts: Dict[str, Json]
    rows: List[Json]


@dataclasses.dataclass(eq=False, repr=False)
class Pollution(_Message):
    """What a test left on the file system; an ``index`` of -1 for what is no test's.

    ``fields``: ``owner`` (whose it is, if no test's), ``counts`` (by kind: created, changed, deleted), ``paths`` (rows
    of kind, path, attributes that differ), ``touched`` (of a failing test: rows of what it did, path, kind, and whose
    that was), ``untold`` (how many more paths it met). Or ``problem``: why not all of it is known.
    """

    index: int
    fields: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Stop(_Message):
    """The session inside ended early: ``kind`` is interrupted, failed, exit, keyboard or internal."""

    kind: str
    text: str
    location: Optional[List[Json]]
    returncode: Optional[int]


@dataclasses.dataclass(eq=False, repr=False)
class Finished(_Message):
    """The session inside is over. ``output``: values for the host (``cache``, ``shadowed``)."""

    status: int
    output: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Listen(_Message):
    """Somebody inside reads from standard input (of a pipe: a piece of it is wanted), or nobody does any more."""

    wanted: bool


@dataclasses.dataclass(eq=False, repr=False)
class Debugged(_Message):
    """The debugger has shown the failure that was reported last: no need to show it again."""

    index: int


@dataclasses.dataclass(eq=False, repr=False)
class Output(_Message):
    """Bytes that reached the worker's own standard output (1), error (2) or terminal (0), as Latin-1."""

    stream: int
    data: str


@dataclasses.dataclass(eq=False, repr=False)
class Died(_Message):
    """A worker's process ended. ``facts``: ``code``, ``signal``, ``finished``, ``oom``, ``limit``, ``peak``,
    ``tail`` (text)."""

    facts: Dict[str, Json]


@dataclasses.dataclass(eq=False, repr=False)
class Seen(_Message):
    """The supervisor has done what it was told. ``changed``: what it found, in words."""

    facts: Dict[str, Json]


Message = Union[
    Init,
    Plan,
    Run,
    Credit,
    Interrupt,
    Dump,
    Answer,
    Look,
    Stay,
    Stdin,
    Resize,
    Shutdown,
    Ready,
    Collecting,
    CollectFailed,
    Collected,
    Start,
    Passed,
    Report,
    Finish,
    Warned,
    Text,
    Attribute,
    Call,
    Coverage,
    Pollution,
    Stop,
    Finished,
    Listen,
    Debugged,
    Output,
    Died,
    Seen,
]

_OPTIONAL = type(None)
_CLASSES: Dict[str, Tuple[Type[Any], Tuple[Any, ...]]] = {
    "init": (Init, (int, dict)),
    "plan": (Plan, (list, int)),
    "run": (Run, ((int, _OPTIONAL), (int, _OPTIONAL))),
    "credit": (Credit, (int,)),
    "interrupt": (Interrupt, ()),
    "dump": (Dump, ()),
    "answer": (Answer, (int, dict, dict, str, bool)),
    "look": (Look, ()),
    "stay": (Stay, ()),
    "stdin": (Stdin, (str,)),
    "resize": (Resize, (int, int)),
    "shutdown": (Shutdown, ()),
    "ready": (Ready, (int, dict)),
    "collecting": (Collecting, (str,)),
    "collect-failed": (CollectFailed, (dict,)),
    "collected": (Collected, (list, list, list, int, list)),
    "start": (Start, (int,)),
    "passed": (Passed, (int, str, (int, float), (int, float), (int, float))),
    "report": (Report, (int, dict, (list, _OPTIONAL))),
    "finish": (Finish, (int,)),
    "warned": (Warned, (dict,)),
    "text": (Text, (str, str)),
    "attribute": (Attribute, (str, str, object)),
    "call": (Call, (int, str, str, dict, str, bool)),
    "coverage": (Coverage, (dict, list)),
    "pollution": (Pollution, (int, dict)),
    "stop": (Stop, (str, str, (list, _OPTIONAL), (int, _OPTIONAL))),
    "finished": (Finished, (int, dict)),
    "listen": (Listen, (bool,)),
    "debugged": (Debugged, (int,)),
    "output": (Output, (int, str)),
    "died": (Died, (dict,)),
    "seen": (Seen, (dict,)),
}
_TAGS = {cls: tag for tag, (cls, _) in _CLASSES.items()}
_FIELDS = {cls: tuple(field.name for field in dataclasses.fields(cls)) for cls in _TAGS}


def encode(message: Message) -> bytes:
    """One message as JSON, without a frame. Values that JSON does not know become their text."""
    cls = type(message)
    row = [_TAGS[cls]] + [getattr(message, name) for name in _FIELDS[cls]]
    try:
        text = json.dumps(row, separators=(",", ":"), default=_as_text)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(row), separators=(",", ":"))
    limit = MAX_TEXT
    while len(text) > MAX_MESSAGE - 2:
        limit //= 8
        text = json.dumps(_cut(_plain(row), limit), separators=(",", ":"))
    return text.encode("ascii")


def encode_passed(index: int, when: str, start: float, stop: float, duration: float) -> bytes:
    """The same as ``encode(Passed(...))``, which is most of what a healthy suite sends."""
    return ('["passed",%d,"%s",%r,%r,%r]' % (index, when, start, stop, duration)).encode("ascii")


def frames(payload: bytes, flags: int = 0) -> Iterator[bytes]:
    """Wrap a payload (JSON array of messages) into one frame, or several if it is large."""
    if len(payload) <= MAX_PAYLOAD:
        yield HEADER.pack(flags, len(payload)) + payload
        return
    if len(payload) > MAX_MESSAGE:
        raise WireError("a message of %d bytes is above the limit of %d" % (len(payload), MAX_MESSAGE))
    for start in range(0, len(payload), MAX_PAYLOAD):
        piece = payload[start : start + MAX_PAYLOAD]
        bits = (CONTINUED if start else 0) | (MORE if start + MAX_PAYLOAD < len(payload) else flags)
        yield HEADER.pack(bits, len(piece)) + piece


def pack(*messages: Message) -> bytes:
    """Messages as ready frames."""
    return b"".join(frames(b"[" + b",".join([encode(message) for message in messages]) + b"]"))


class Decoder:
    """Bytes in, messages out. It changes: it keeps what is left of an unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._chain = bytearray()

    def feed(self, data: bytes) -> List[Message]:
        """Take the next bytes of the stream and return the messages that are complete now.

        Raises:
            WireError: The bytes are not of this protocol; the stream cannot be used any more.
        """
        buffer = self._buffer
        buffer += data
        messages: List[Message] = []
        position = 0
        while len(buffer) - position >= HEADER.size:
            flags, length = HEADER.unpack_from(buffer, position)
            if length > MAX_PAYLOAD or flags & ~(MORE | CONTINUED | SYNC):
                raise WireError("not a frame: flags %d, length %d" % (flags, length))
            end = position + HEADER.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[position + HEADER.size : end])
            position = end
            if not flags & CONTINUED:
                self._chain.clear()
            if flags & (MORE | CONTINUED):
                self._chain += payload
                if len(self._chain) > MAX_MESSAGE:
                    raise WireError("a message is above the limit of %d bytes" % MAX_MESSAGE)
                if flags & MORE:
                    continue
                payload = bytes(self._chain)
                self._chain.clear()
            messages += decode(payload)
        del buffer[:position]
        return messages


def decode(payload: bytes) -> List[Message]:
    """The messages of one payload. Raises WireError for anything unknown."""
    try:
        rows = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError("a payload is not JSON: %s" % error) from None
    if not isinstance(rows, list):
        raise WireError("a payload is not an array")
    return [_message(row) for row in rows]


def _message(row: Any) -> Message:
    if not isinstance(row, list) or not row or not isinstance(row[0], str) or row[0] not in _CLASSES:
        raise WireError("unknown message: %.80r" % (row,))
    cls, types = _CLASSES[row[0]]
    if len(row) - 1 != len(types):
        raise WireError("message %s has %d fields instead of %d" % (row[0], len(row) - 1, len(types)))
    for value, expected in zip(row[1:], types):
        if not isinstance(value, expected):
            raise WireError("message %s has a field of type %s" % (row[0], type(value).__name__))
    message: Message = cls(*row[1:])
    return message


def _as_text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a broken __str__ of the user's object must not lose its report
        return "<unprintable %s: %s>" % (type(value).__name__, type(error).__name__)


def _plain(value: Any, above: Tuple[int, ...] = ()) -> Any:
    """A copy that JSON can write: keys become text, loops, deep nesting and unknown objects their ``str``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if -_LARGE < value < _LARGE else hex(value)  # decimal digits may be limited
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if len(above) < 60 and id(value) not in above:
        above += (id(value),)
        if isinstance(value, dict):
            return {_as_text(key): _plain(item, above) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_plain(item, above) for item in value]
    return _as_text(value)


def _cut(value: Any, limit: int) -> Any:
    """A copy of plain data in which no text is longer than about ``limit`` characters."""
    if isinstance(value, str) and len(value) > limit:
        half = limit // 2
        note = "\n[pytest-envpar: %d characters left out here]\n" % (len(value) - 2 * half)
        return value[:half] + note + value[len(value) - half :]
    if isinstance(value, dict):
        return {key: _cut(item, limit) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, limit) for item in value]
    return value
