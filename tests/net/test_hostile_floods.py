"""Peers that send without end what a session remembers: the memory of the session stays small."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from struct import pack

import pytest

from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.session.session import Session
from pgloupe.wire.backend import build_error_response
from pgloupe.wire.frontend import build_bind, build_execute, build_frame, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_startup
from pgloupe_rules.types import SessionInfo
from support import conversation as c
from support.conversation import Conversation, gated, plain

KB = 1 << 10
MB = 1 << 20

Chunks = Iterator[tuple[str, bytes]]
"""Who says what: client or server."""


def names(count: int, make: Callable[[str], bytes], size: int, side: str) -> Chunks:
    for number in range(count):
        yield side, make(f"{number:08}" + "x" * size)


def error_without_end() -> Chunks:
    yield "server", b"E" + (900 * MB).to_bytes(4, "big")
    for _ in range(300):
        yield "server", b"M" * 256 * KB


def unanswered(message: bytes, count: int) -> Chunks:
    for _ in range(count):
        yield "client", bytes(bytearray(message))  # an object of its own each time


def cancelled() -> Chunks:
    """An error after which the client sends on and on, and never a Sync."""
    yield "client", build_parse("", "SELECT wrong")
    yield "server", c.error()
    for number in range(500):
        yield "client", build_parse(f"s{number}", f"SELECT {number}, '{'x' * 200 * KB}'")


def described() -> Chunks:
    for number in range(300):
        yield (
            "client",
            build_parse(f"s{number}", "SELECT 1") + build_frame(0x44, f"Ss{number}\0".encode()) + build_sync(),
        )
        yield "server", c.PARSED + c.parameter_description(*range(100)) + c.row_description("x" * 200 * KB) + c.ready()


def portals() -> Chunks:
    yield "client", build_parse("s", "SELECT $1") + build_sync()
    yield "server", c.PARSED + c.ready()
    for number in range(600):
        yield "client", build_bind(f"p{number}", "s", (b"x" * 60 * KB,))
        yield "server", c.BOUND


def rows_without_end() -> Chunks:
    yield "client", build_query("SELECT * FROM author")
    yield "server", c.row_description("a")
    for _ in range(2_000):
        yield "server", c.data_row("x" * 50 * KB)


FLOODS: dict[str, Callable[[], Chunks]] = {
    "settings with ever new names": lambda: names(20_000, lambda name: c.parameter_status(name, name), 500, "server"),
    "settings with long values": lambda: names(
        300, lambda name: c.parameter_status(name[:8], name), 500 * KB, "server"
    ),
    "notices": lambda: names(20_000, lambda name: c.NOTICE + build_frame(0x4E, name.encode()), 1000, "server"),
    "notifications": lambda: names(20_000, lambda name: build_frame(0x41, b"\0\0\0\1" + name.encode()), 1000, "server"),
    "an ErrorResponse without end": error_without_end,
    "rows without end": rows_without_end,
    "errors": lambda: names(20_000, lambda name: build_error_response("57014", name, "ERROR"), 500, "server"),
    "prepared statements": lambda: names(
        5_000, lambda name: build_parse(name, f"SELECT '{name}'") + build_sync(), 2 * KB, "client"
    ),
    "prepared statements with long names": lambda: names(
        300, lambda name: build_parse(name, "SELECT 1"), 500 * KB, "client"
    ),
    "prepared statements with many types": lambda: names(
        30, lambda name: build_parse(name, "SELECT 1", tuple(range(30_000, 60_000))), 0, "client"
    ),
    "portals with large values": portals,
    "portals with long names": lambda: names(300, lambda name: build_bind(name, ""), 500 * KB, "client"),
    "descriptions of statements": described,
    "Binds that nobody answers": lambda: unanswered(build_bind("", "", (b"x" * 60 * KB,)), 600),
    "Parses that nobody answers": lambda: unanswered(build_parse("", f"SELECT '{'x' * 900 * KB}'"), 80),
    "Executes that nobody answers": lambda: unanswered(build_execute("x" * 100 * KB), 400),
    "Queries that nobody answers": lambda: unanswered(build_query(f"SELECT '{'x' * 100 * KB}'"), 400),
    "statements behind an error": cancelled,
    "halves of messages": lambda: unanswered(b"Q" + (900 * KB).to_bytes(4, "big") + b"x" * 600 * KB, 1),
}


def flood(talk: Conversation, chunks: Chunks) -> int:
    """Play until the link would stop reading. Gives the memory in bytes that the session holds then."""
    session = talk.session
    tracemalloc.start()
    try:
        for side, data in chunks:
            if side == "client":
                if session.congested or session.frontend_blocked:
                    break
                session.receive_frontend(data, 1.0)
            else:
                session.receive_backend(data, 1.0)
            talk.run()
            talk.to_client = talk.to_server = b""
            talk.outcomes.clear()
            if talk.desk is not None:
                talk.desk.log.clear()
            if session.must_close:
                break
        del data
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


MOST_BYTES = 24 * MB
"""What one session may hold, whatever its peers do; the memo of recognised texts, which all share, is in it here."""


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_takes_a_bounded_amount_of_memory(name: str, caching: bool) -> None:
    talk = gated() if caching else plain()
    held = flood(talk, FLOODS[name]())
    talk.close()
    assert held < MOST_BYTES, f"{held >> 20} MB"


BEFORE: dict[str, Callable[[], Chunks]] = {
    "endless requests for a password": lambda: unanswered_server(build_frame(0x52, pack("!i", 3)), 20_000),
    "a NegotiateProtocolVersion with two thousand million options": lambda: unanswered_server(
        build_frame(0x76, pack("!ii", 3 << 16, 0x7FFFFFFF) + b"_pq_.x\0" * 100), 100
    ),
    "a NegotiateProtocolVersion without end": lambda: iter(
        [("server", b"v" + (900 * MB).to_bytes(4, "big")), *[("server", b"x" * 64 * KB)] * 100]
    ),
    "settings": lambda: names(20_000, lambda name: c.parameter_status(name, name), 500, "server"),
    "errors": lambda: unanswered_server(build_error_response("XX000", "x" * 500, "ERROR"), 10_000),
    "a storm of ReadyForQuery": lambda: unanswered_server(c.ready() * 1_000, 100),
    "passwords": lambda: unanswered(build_frame(0x70, b"x" * 60 * KB), 300),
    "a second StartupMessage": lambda: unanswered(build_startup({"user": "x" * 5_000}), 300),
    "queries before the end of the login": lambda: unanswered(build_query("SELECT '" + "x" * 5_000 + "'"), 2_000),
    "half of a password": lambda: unanswered(b"p" + (60 * KB).to_bytes(4, "big") + b"x" * 50 * KB, 1),
}


def unanswered_server(message: bytes, count: int) -> Chunks:
    for _ in range(count):
        yield "server", message


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", BEFORE)
def test_before_the_login_a_flood_takes_next_to_nothing(name: str, caching: bool) -> None:
    session = (
        GatedSession(SessionInfo(1), c.recognise, Context({}), c.POLICY)
        if caching
        else Session(SessionInfo(1), c.recognise)
    )
    talk = Conversation(session, c.Desk() if caching else None, greeting=b"")
    held = flood(talk, BEFORE[name]())
    talk.close()
    assert held < 512 * KB, f"{held >> 10} KB"


LIES = {
    "a RowDescription with too many fields": build_frame(0x54, pack("!H", 65_535) + b"a\0" + bytes(18)),
    "a RowDescription without fields": build_frame(0x54),
    "a DataRow with too many values": build_frame(0x44, pack("!Hi", 65_535, 1) + b"x"),
    "a DataRow with a value of two gigabytes": build_frame(0x44, pack("!Hi", 1, 0x7FFFFFFF) + b"x"),
    "a DataRow with a negative length": build_frame(0x44, pack("!Hi", 1, -2)),
    "a DataRow without anything": build_frame(0x44),
    "a ParameterDescription with too many types": build_frame(0x74, pack("!H", 65_535)),
    "a CommandComplete without a tag": build_frame(0x43),
    "a CommandComplete with a number of a thousand digits": build_frame(0x43, b"SELECT " + b"9" * 1_000 + b"\0"),
    "an ErrorResponse without fields": build_frame(0x45),
    "an ErrorResponse without a terminator": build_frame(0x45, b"SFATAL"),
    "a ReadyForQuery without a status": build_frame(0x5A),
    "a ReadyForQuery with an unknown status": build_frame(0x5A, b"?"),
    "a ParameterStatus without a value": build_frame(0x53, b"a"),
    "a message of no known type": build_frame(0x7F, b"x"),
    "a message of a negative length": b"D\xff\xff\xff\xff",
    "a message of length zero": b"D\0\0\0\0",
}


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", LIES)
def test_a_lie_of_the_server_passes_unchanged_and_does_no_harm(name: str, caching: bool) -> None:
    talk = gated() if caching else plain()
    talk.client(c.extended("SELECT * FROM author"))
    talk.server(c.PARSED, c.BOUND, c.row_description("a", "b", oid=23))
    answer = LIES[name] + c.data_row("1", "2") + c.complete("SELECT 1") + c.ready()
    talk.taken_client()
    talk.server(answer)
    for outcome in talk.outcomes:
        outcome.statement.values()
        outcome.column_values()
    if caching:
        talk.session.lose_track("the end of the test")
        talk.run()
    assert talk.to_client == answer
    talk.close()
