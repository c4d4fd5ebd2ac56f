"""HTTP, streams and errors against a stand-in engine on a socket: what a real one does only once in a while."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import socket
import struct
import threading
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine import paths
from pytest_envpar.engine.connection import Connection, Endpoint, HttpClient, TlsFiles
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.logs import log_lines
from pytest_envpar.engine.stream import MAX_LINE, SocketStream, demultiplexed, last_lines
from pytest_envpar.engine.translate import AnswerError, GoneError, ProtocolError, Where, redacted, translate
from pytest_envpar.errors import (
    ConflictError,
    ConnectionLostError,
    EngineError,
    ImageError,
    NotFoundError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INFO = {
    "ServerVersion": "20.10.0",
    "OSType": "linux",
    "Architecture": "x86_64",
    "Driver": "overlay2",
    "ID": "id",
}
HEADERS = ("Api-Version: 1.41", "Server: Docker/20.10.0 (linux)", "Content-Type: application/json")


def answer(body: object = None, *, status: str = "200 OK", headers: tuple[str, ...] = HEADERS) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(raw)}", "", ""]).encode() + raw


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


class StandIn:
    """A server that answers requests in order with raw bytes.

    ``None`` closes the connection in place of an answer, an empty answer right behind the one before.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.requests: list[bytes] = []
        self.answers: list[bytes | None] = [answer(INFO)]
        self.connections = 0
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(5)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                break
            self.connections += 1
            self._open.append(connection)
            threads.append(threading.Thread(target=self._serve, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as file:
            while True:
                head = b""
                while line := file.readline():
                    head += line
                    if line == b"\r\n":
                        break
                if not head:
                    return
                lower = head.lower()
                body = b""
                if b"content-length:" in lower:
                    body = file.read(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
                while b"transfer-encoding: chunked" in lower and not body.endswith(b"0\r\n\r\n"):
                    body += file.readline()
                self.requests.append(head + body)
                if not self.answers:
                    # Keep the connection and say nothing.
                    file.read()
                    return
                raw = self.answers.pop(0)
                if raw is None:
                    return
                connection.sendall(raw)
                if self.answers[:1] == [b""]:
                    self.answers.pop(0)
                    return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    server = StandIn(tmp_path / "s")
    with contextlib.closing(server):
        yield server


@pytest.fixture
def engine(stand_in: StandIn) -> Iterator[DockerEngine]:
    made = DockerEngine(stand_in.url)
    with contextlib.closing(made):
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    stream = SocketStream(Connection(ours), "container x", "unix:///e")
    with contextlib.closing(stream), theirs:
        yield stream, theirs


def test_one_request_makes_an_engine(stand_in: StandIn, engine: DockerEngine) -> None:
    assert [request.split(b"\r\n")[0] for request in stand_in.requests] == [b"GET /info HTTP/1.1"]
    assert (engine.info.kind, engine.info.version, engine.info.architecture) == ("docker", "20.10.0", "amd64")


def test_a_connection_is_used_again(stand_in: StandIn, engine: DockerEngine) -> None:
    stand_in.answers += [answer([]), answer([])]
    assert engine.list_containers({}) == ()
    assert engine.list_networks({"a": "1", "b": ""}) == ()
    assert stand_in.connections == 1
    assert (
        b"/v1.41/networks?filters=%7B%22label%22%3A+%5B%22a%3D1%22%2C+%22b%22%5D%7D" in stand_in.requests[-1]
    )


def test_a_volume_that_somebody_else_makes_at_the_same_moment(
    stand_in: StandIn, engine: DockerEngine
) -> None:
    taken = {"message": "adding volume to state: name v is in use: volume already exists"}
    stand_in.answers += [
        answer(taken, status="500 Internal Server Error"),
        answer({"Name": "v", "Mountpoint": "/v"}),
    ]
    assert engine.create_volume("v", labels={}) == PurePosixPath("/v")
    stand_in.answers += [answer(taken, status="500 Internal Server Error")] * 2
    with pytest.raises(EngineError, match="volume already exists"):
        engine.create_volume("v", labels={})


@pytest.mark.parametrize("name", ["", ".", "..", "../images/x", "a\n", "\udcff", "x/"])
@pytest.mark.parametrize(
    "verb",
    [
        "inspect_image",
        "image_history",
        "image_folders",
        "remote_image",
        "remove_image",
        "inspect_container",
        "remove_container",
        "layer_folders",
        "attach",
        "start",
        "wait",
        "logs",
        "follow_logs",
        "kill",
        "stop",
        "pause",
        "stats",
        "changes",
        "export",
        "inspect_volume",
        "remove_volume",
        "remove_network",
        "exec_exit_code",
    ],
)
def test_a_name_that_leads_elsewhere_is_no_path(
    stand_in: StandIn, engine: DockerEngine, verb: str, name: str
) -> None:
    with pytest.raises(UsageError, match=rf"{re.escape(repr(name))} cannot be the name of ") as caught:
        list(getattr(engine, verb)(name) or ())
    assert caught.value.hint
    assert isinstance(caught.value, ImageError) == ("image" in verb)
    assert len(stand_in.requests) == 1


def test_what_means_something_in_a_url_is_a_part_of_the_name(stand_in: StandIn, engine: DockerEngine) -> None:
    stand_in.answers += [answer({"message": "no such image"}, status="404 Not Found")]
    assert engine.inspect_image("registry:5000/a/b@sha256:0?x=%2e#y") is None
    line = stand_in.requests[-1].split(b"\r\n")[0]
    assert line == b"GET /v1.41/images/registry:5000/a/b@sha256:0%3Fx%3D%252e%23y/json HTTP/1.1"


def test_names_become_paths_in_one_place_only() -> None:
    folder = Path(paths.__file__).parent
    for file in folder.glob("*.py"):
        assert not re.search(
            r"f\"/(containers|images|distribution|volumes|networks|exec)/", file.read_text()
        ), file


def test_a_connection_that_was_closed_meanwhile_is_replaced(stand_in: StandIn, engine: DockerEngine) -> None:
    stand_in.answers += [answer([], headers=(*HEADERS, "Connection: close")), answer([]), None]
    engine.list_containers({})
    engine.list_containers({})
    assert stand_in.connections == 2
    with pytest.raises(
        ConnectionLostError, match=r"containers: the connection to the engine at unix://.* was lost"
    ):
        engine.list_containers({})


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_chunked_answer(stand_in: StandIn, engine: DockerEngine, size: int) -> None:
    raw = json.dumps([{"Id": "x", "Names": ["/n"]}]).encode()
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part)
        for part in (raw[at : at + size] for at in range(0, len(raw), size))
    )
    head = "\r\n".join(["HTTP/1.1 200 OK", *HEADERS, "Transfer-Encoding: chunked", "", ""]).encode()
    stand_in.answers += [head + chunks + b"0\r\n\r\n", answer([])]
    (listed,) = engine.list_containers({})
    assert (listed.id, listed.name) == ("x", "n")
    engine.list_containers({})
    assert stand_in.connections == 1


@pytest.mark.parametrize(
    ("raw", "kind", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", ConnectionLostError, "lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", EngineError, "not a chunk"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[", EngineError, "not JSON"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", EngineError, "not HTTP"),
        (b"x" * 100_000, EngineError, "header without an end"),
        (answer({"message": "no such thing"}, status="404 Not Found"), NotFoundError, "no such thing"),
        (answer({"message": "in use"}, status="409 Conflict"), ConflictError, "in use"),
        (answer({"cause": "x", "message": "broken"}, status="500 Error"), EngineError, "broken"),
        (answer(b"plain text", status="400 Bad"), EngineError, "plain text"),
        (answer(b"", status="503 Busy"), EngineError, "503"),
        (answer({"message": "one\ntwo\nat http://me:pw@host/"}, status="500 Error"), EngineError, "one"),
        (
            answer({"message": "x is in state exited: container state improper"}, status="500 E"),
            ConflictError,
            "improper",
        ),
    ],
)
def test_answers_that_are_errors(
    stand_in: StandIn, engine: DockerEngine, raw: bytes, kind: type[EngineError], told: str
) -> None:
    stand_in.answers += [raw, b""]
    with pytest.raises(EngineError, match=told) as caught:
        engine.list_containers({})
    assert type(caught.value) is kind
    assert "pw" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_listing_that_lost_a_race_is_asked_again(stand_in: StandIn, engine: DockerEngine) -> None:
    stand_in.answers += [answer({"message": "locating image: image not known"}, status="500 E"), answer([])]
    assert engine.list_images({}) == ()


@pytest.mark.parametrize(
    "message",
    ["removal of container c is already in progress", "cannot remove c as it could not be stopped: x"],
)
def test_a_removal_that_lost_a_race_is_asked_again(
    stand_in: StandIn, engine: DockerEngine, message: str
) -> None:
    gone = answer({"message": "no such container"}, status="404 Not Found")
    stand_in.answers += [answer({"message": message}, status="409 Conflict"), gone]
    engine.remove_container("c")
    assert len(stand_in.requests) == 3


def test_an_old_engine_is_refused(stand_in: StandIn) -> None:
    stand_in.answers = [answer(INFO, headers=("Api-Version: 1.38",))]
    with pytest.raises(EngineError, match=r"1\.38; 1\.41 is needed") as caught:
        DockerEngine(stand_in.url)
    assert caught.value.hint is not None


def test_a_newer_engine_is_spoken_to_in_a_version_we_know(stand_in: StandIn) -> None:
    stand_in.answers = [answer(INFO, headers=("Api-Version: 1.99",)), answer([])]
    with contextlib.closing(DockerEngine(stand_in.url)) as engine:
        engine.list_containers({})
    assert stand_in.requests[-1].startswith(b"GET /v1.51/containers/json")


@pytest.mark.parametrize(
    "raw", [answer({}, headers=()), answer({}, status="404 Not Found"), b"220 mail\r\n\r\n"]
)
def test_something_else_listens(stand_in: StandIn, raw: bytes) -> None:
    stand_in.answers = [raw]
    with pytest.raises(EngineError, match="not a container engine"):
        DockerEngine(stand_in.url)


def test_an_engine_that_hangs(stand_in: StandIn) -> None:
    stand_in.answers = []
    with pytest.raises(ConnectionLostError, match="did not answer in time"):
        DockerEngine(stand_in.url, connect_timeout_s=0.1)


def test_bytes_behind_the_header_belong_to_the_stream(stand_in: StandIn, engine: DockerEngine) -> None:
    upgraded = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    stand_in.answers.append(upgraded + frame(1, b"early") + frame(2, b"bird"))
    with contextlib.closing(engine.attach("c")) as stream:
        assert stream.read(5) == (1, b"early")
        assert stream.read(5) == (2, b"bird")
        assert stream.read(0) is None


def test_a_body_in_pieces(stand_in: StandIn, engine: DockerEngine) -> None:
    stand_in.answers.append(answer(b""))
    engine.put_archive("c", PurePosixPath("/a b"), [b"one", b"", b"two"])
    assert stand_in.requests[-1].startswith(b"PUT /v1.41/containers/c/archive?path=%2Fa+b")
    assert stand_in.requests[-1].endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_frames_cut_anywhere(pair: tuple[SocketStream, socket.socket]) -> None:
    stream, theirs = pair
    raw = frame(1, b"one") + frame(1, b"") + frame(2, b"two") + frame(0, b"zero") + frame(3, b"three")
    found: list[tuple[int, bytes]] = []
    for byte in raw:
        theirs.send(bytes([byte]))
        piece = stream.read(0)
        if piece is not None:
            found.append(piece)
    joined = {number: b"".join(data for stream_, data in found if stream_ == number) for number in (1, 2)}
    assert joined == {1: b"onezero", 2: b"twothree"}


def test_many_small_frames_become_one_piece(pair: tuple[SocketStream, socket.socket]) -> None:
    stream, theirs = pair
    theirs.sendall(b"".join(frame(1, b"ab") for _ in range(100)) + frame(2, b"x"))
    assert stream.read(5) == (1, b"ab" * 100)
    assert stream.read(5) == (2, b"x")


@pytest.mark.parametrize(
    "rest", [b"", frame(1, b"whole")[:-2], b"\x01\x00\x00"], ids=["none", "data", "header"]
)
def test_the_end_is_the_end(pair: tuple[SocketStream, socket.socket], rest: bytes) -> None:
    stream, theirs = pair
    theirs.sendall(rest)
    theirs.close()
    while (piece := stream.read(5)) != (0, b""):
        assert piece == (1, b"who")
    assert stream.read(5) == (0, b"")


def test_writing_waits_for_a_slow_reader_and_reading_does_not_wait_for_it(
    pair: tuple[SocketStream, socket.socket],
) -> None:
    stream, theirs = pair
    data = b"y" * (8 << 20)
    writer = threading.Thread(target=stream.write, args=(data,))
    writer.start()
    theirs.sendall(frame(1, b"meanwhile"))
    assert stream.read(5) == (1, b"meanwhile")
    taken = bytearray()
    while len(taken) < len(data):
        taken += theirs.recv(1 << 20)
    writer.join(10)
    assert taken == data


def test_closing_wakes_a_writer(pair: tuple[SocketStream, socket.socket]) -> None:
    stream, _ = pair
    caught: list[BaseException] = []

    def write() -> None:
        try:
            stream.write(b"y" * (8 << 20))
        except ConnectionLostError as error:
            caught.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    stream.close()
    writer.join(10)
    assert [type(error) for error in caught] == [ConnectionLostError]


def test_an_ended_input_still_reads(pair: tuple[SocketStream, socket.socket]) -> None:
    stream, theirs = pair
    stream.write(b"last")
    stream.close_write()
    assert theirs.recv(10) == b"last"
    assert theirs.recv(10) == b""
    theirs.sendall(frame(1, b"answer"))
    assert stream.read(5) == (1, b"answer")


def test_a_complete_answer_is_demultiplexed() -> None:
    assert demultiplexed(frame(1, b"a") + frame(2, b"b") + frame(1, b"")) == b"ab"


def test_the_last_lines_of_an_answer_in_pieces() -> None:
    raw = frame(1, b"one\ntwo\n") + frame(1, b"thr") + frame(1, b"ee\n") + frame(1, b"no end")
    pieces = [raw[at : at + 7] for at in range(0, len(raw), 7)]
    assert last_lines(pieces, 3) == b"two\nthree\nno end"
    assert last_lines(pieces, 9) == b"one\ntwo\nthree\nno end"
    assert last_lines(pieces, 1) == b"no end"


def test_the_last_lines_of_two_streams_are_not_mixed() -> None:
    raw = (
        frame(1, b"half ")
        + frame(2, b"other ")
        + frame(1, b"a line\n")
        + frame(2, b"one\n")
        + frame(1, b"end")
    )
    assert last_lines([raw], 9) == b"half a line\nother one\nend"


def test_no_more_than_a_part_is_kept_of_a_line_without_end() -> None:
    long = [frame(1, b"x" * 16384) for _ in range(9)]
    kept = b"x" * MAX_LINE
    assert last_lines(long, 1) == kept
    assert last_lines([*long, frame(1, b"y\nz\n")], 2) == kept + b"\nz\n"
    assert last_lines([frame(2, b"x" * 9 * 16384 + b"\n")], 1) == kept + b"\n"


def test_lines_of_a_log_that_were_written_in_pieces() -> None:
    def at(second: int, text: bytes) -> bytes:
        return b"2027-01-31T12:00:%02dZ " % second + text

    raw = frame(1, at(1, b"a")) + frame(2, at(2, b"other\n")) + frame(1, at(3, b"b")) + frame(1, at(4, b"\n"))
    raw += frame(1, at(5, b"2027-01-31T00:00:00Z its own\n")) + frame(1, at(6, b"no end"))
    seen = list(log_lines([raw]))
    assert [line.text for line in seen] == [b"other", b"ab", b"2027-01-31T00:00:00Z its own", b"no end"]
    assert [line.time - seen[0].time for line in seen] == [0, -1, 3, 4]
    assert all(line.latest == line.time + 1 for line in seen)


def test_times_of_lines_of_which_only_the_second_is_told() -> None:
    before = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before)).encode()
    (line,) = log_lines([frame(1, stamp + b" now\n")])
    assert line.time == int(before)
    assert before <= line.latest <= time.time() or line.latest == line.time + 1
    (exact,) = log_lines([frame(1, b"2027-01-31T12:00:00.25Z then\n")])
    assert exact.latest == exact.time


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("unix://var/run/x.sock", "unix:///var/run/x.sock"),
        ("tcp://host", "tcp://host:2375"),
        ("http://host:1", "tcp://host:1"),
        ("https://host", "tcp://host:2376"),
        ("tcp://me:secret@host:1", "tcp://host:1"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
    ],
)
def test_engine_urls(url: str, expected: str) -> None:
    assert Endpoint.parse(url).url == expected


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("ssh://me:secret@host", UsageError),
        ("ssh://-oProxyCommand=x", UsageError),
        ("ssh://", UsageError),
        ("foo", UsageError),
        ("ftp://me:secret@host", UsageError),
        ("tcp://", UsageError),
        ("tcp://me:secret@host:port", UsageError),
        ("tcp://me:secret@[::1", UsageError),
        ("ssh://me:secret@[::1", UsageError),
    ],
)
def test_urls_that_are_not_of_an_engine(url: str, kind: type[UsageError]) -> None:
    with pytest.raises(kind) as caught:
        Endpoint.parse(url)
    assert "secret" not in str(caught.value)


def test_tls_to_a_server_without_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent plain text\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(ConnectionLostError, match="lost"):
            DockerEngine(f"tcp://127.0.0.1:{server.getsockname()[1]}", tls=TlsFiles(verify=False))
        thread.join(10)


@pytest.mark.parametrize(
    ("cause", "kind", "told"),
    [
        (AnswerError(404, "x"), NotFoundError, "doing: x"),
        (AnswerError(500, "x does not exist in database: no such container"), NotFoundError, "in database"),
        (ProtocolError("what"), EngineError, "not a container engine"),
        (GoneError("cut"), ConnectionLostError, "cut"),
        (FileNotFoundError(2, "no"), ConnectionLostError, "no such file"),
        (PermissionError(13, "no"), ConnectionLostError, "permission denied"),
        (ConnectionRefusedError(111, "no"), ConnectionLostError, "refuses"),
        (ConnectionResetError(104, "reset by peer"), ConnectionLostError, "reset by peer"),
        (TimeoutError(), ConnectionLostError, "in time"),
        (socket.gaierror(-2, "Name not known"), ConnectionLostError, "Name not known"),
        (
            RuntimeError("helper at https://me:secret@host/ failed"),
            EngineError,
            "helper at https://host/ failed",
        ),
    ],
)
def test_foreign_errors(cause: BaseException, kind: type[EngineError], told: str) -> None:
    error = translate(cause, Where("doing", "tcp://me:secret@e:1"))
    assert type(error) is kind
    assert told in str(error)
    assert "secret" not in str(error)
    assert translate(error, Where("other", "")) is error


def test_hints_of_known_causes() -> None:
    assert "default_ulimits" in str(
        translate(AnswerError(500, "error setting rlimit type 6"), Where("start", "e")).hint
    )
    said = "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    assert "docker network prune" in str(translate(AnswerError(404, said), Where("network n", "e")).hint)


def test_what_others_said_does_not_steer_the_terminal() -> None:
    error = UsageError("ssh: \x1b[31mred\nand more", hint="one\ntwo", detail=("\x1b]0;title\x07",))
    assert error.lines() == [
        "ssh: \\x1b[31mred [usage]",
        "and more",
        "  | \\x1b]0;title\\x07",
        "hint: one\ntwo",
    ]


def test_redaction() -> None:
    assert redacted("see https://user:pass@host/x and tcp://tok@e") == "see https://host/x and tcp://e"


def test_a_closed_client_makes_no_connection(stand_in: StandIn) -> None:
    client = HttpClient(Endpoint.parse(stand_in.url))
    client.close()
    with pytest.raises(GoneError):
        client.request("GET", "/info")


@pytest.fixture
def follow_answer(stand_in: StandIn, engine: DockerEngine) -> Callable[..., None]:
    def prepare(*lines: object) -> None:
        body = b"".join(json.dumps(line).encode() + b"\r\n" for line in lines)
        stand_in.answers.append(answer(body, headers=(*HEADERS, "Connection: close")))

    return prepare


def test_a_pull_tells_one_line_at_its_end(
    stand_in: StandIn, engine: DockerEngine, follow_answer: Callable[..., None]
) -> None:
    follow_answer(
        {"status": "Pulling from x", "id": "1"},
        {"status": "Downloading", "progressDetail": {"current": 1}, "id": "abc"},
        {"status": "Downloading", "progressDetail": {"current": 2}, "id": "abc"},
        {"status": "Digest: sha256:\x1b[31m00"},
    )
    told: list[str] = []
    engine.pull("host:5000/x:1", platform="linux/arm64", progress=told.append)
    assert len(told) == 1
    assert re.fullmatch(r"pulled host:5000/x:1 \(1 layer, 2 B\) in \d+\.\d s", told[0])
    assert b"fromImage=host%3A5000%2Fx&tag=1&platform=linux%2Farm64" in stand_in.requests[-1]


@pytest.mark.parametrize(
    ("reference", "query"),
    [
        ("x", b"fromImage=x&tag=latest"),
        ("host:5000/x", b"fromImage=host%3A5000%2Fx&tag=latest"),
        ("x@sha256:00", b"fromImage=x&tag=sha256%3A00"),
        ("x:1@sha256:00", b"fromImage=x%3A1&tag=sha256%3A00"),
    ],
)
def test_a_pull_names_one_image(
    stand_in: StandIn, engine: DockerEngine, follow_answer: Callable[..., None], reference: str, query: bytes
) -> None:
    follow_answer()
    engine.pull(reference)
    assert query in stand_in.requests[-1]


def test_a_pull_that_fails_in_the_middle(engine: DockerEngine, follow_answer: Callable[..., None]) -> None:
    follow_answer(
        {"status": "x"}, {"errorDetail": {"message": "manifest unknown"}, "error": "manifest unknown"}
    )
    with pytest.raises(NotFoundError, match="image x: manifest unknown"):
        engine.pull("x")
    follow_answer({"error": "no matching manifest for linux/s390x in the manifest list entries"})
    with pytest.raises(EngineError, match="no matching manifest for linux/s390x"):
        engine.pull("x", platform="linux/s390x")
    follow_answer({"error": "denied: access forbidden"})
    with pytest.raises(EngineError, match="denied"):
        engine.pull("x")
