"""Any bytes are a conversation: a small machine that reads them as what a hostile client and a hostile server do by turns.

The same machine is fed by hypothesis, by a fuzzer that looks at the branches taken, and by the files of past findings. It
makes valid messages, valid messages that were tampered with, and plain nonsense, so that a session is led deep into its states
before it is attacked. It checks what must hold whatever comes: nothing raises, nothing is lost or changed on the way, every
statement has one outcome.
"""

from __future__ import annotations

from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.session.greeting import Greeting
from pgloupe.session.session import Session
from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_flush,
    build_frame,
    build_parse,
    build_query,
    build_sync,
    build_terminate,
    text_of,
)
from pgloupe.wire.startup import build_cancel_request, build_gssenc_request, build_ssl_request, build_startup
from pgloupe.wire.values import decode, decode_parameter
from pgloupe_rules import normalise
from pgloupe_rules.cacheable import effect_of
from pgloupe_rules.fingerprint import Recognition
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import SessionInfo, comparable
from support import conversation as c
from support.conversation import POLICY, Conversation, Desk, recognise
from support.model_server import ModelServer

FIRST: Final = (
    build_startup({"user": "u", "database": "d", "options": "-c x=1"}),
    build_startup({"user": "u", "_pq_.x": "1"}, 3 << 16 | 9999),
    build_ssl_request(),
    build_gssenc_request(),
    build_cancel_request(7, b"key!"),
)

CLIENT: Final = (
    build_query("SELECT * FROM author"),
    build_query("UPDATE author SET n = 1"),
    build_query("BEGIN"),
    build_query("COMMIT"),
    build_query("SELECT wrong"),
    build_query("SELECT 1; UPDATE post SET n = 1; SELECT * FROM post"),
    build_query("COPY author FROM STDIN"),
    build_query("SET search_path = 'a'"),
    build_query("DEALLOCATE s"),
    build_query("PREPARE s AS SELECT 1"),
    build_query(""),
    build_query("SELECT * FROM author WHERE id IN (1, 2, 3) /*k='v'*/"),
    c.extended("SELECT * FROM author WHERE id = $1", b"1", oids=(23,)),
    c.extended("SELECT * FROM author", describe=False),
    c.extended(None, b"\0\0\0\1", formats=(1,), results=(1,)),
    build_parse("s", "SELECT * FROM author WHERE id = $1", (25,)),
    build_parse("", "SELECT * FROM post"),
    build_bind("", "s", (b"1",)),
    build_bind("p", "s", (None,), (1,), (0, 1)),
    build_describe("S", "s"),
    build_describe("P", ""),
    build_execute("", 1),
    build_execute("p"),
    build_close("S", "s"),
    build_close("P", "p"),
    build_sync(),
    build_flush(),
    c.copy_data(b"1\n") * 3,
    build_frame(0x63),
    c.COPY_FAIL,
    c.FUNCTION_CALL,
    build_terminate(),
    build_frame(0x70, b"secret\0"),
)

SERVER: Final = (
    c.GREETING,
    c.AUTHENTICATION_OK,
    build_frame(0x52, b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
    c.ready("I"),
    c.ready("T"),
    c.ready("E"),
    c.ready("?"),
    c.PARSED,
    c.BOUND,
    c.CLOSED,
    c.NO_DATA,
    c.SUSPENDED,
    c.EMPTY,
    c.COPY_IN,
    c.COPY_OUT,
    c.COPY_BOTH,
    c.COPY_DONE,
    c.FUNCTION_RESULT,
    c.NOTIFICATION,
    c.NOTICE,
    c.complete("SELECT 2"),
    c.complete("UPDATE 1"),
    c.complete("BEGIN"),
    c.complete("DISCARD ALL"),
    c.complete("DEALLOCATE"),
    c.complete("PREPARE"),
    c.complete("SET"),
    c.error(),
    c.error("57P01", "FATAL"),
    c.row_description("n", "settings", oid=23),
    c.row_description("a", oid=1184, format_code=1),
    c.data_row("1", None) * 3,
    c.data_row(b"\0\0\0\1"),
    c.parameter_status("search_path", "x"),
    c.parameter_status("standard_conforming_strings", "off"),
    c.parameter_description(23, 25),
    c.copy_data(b"1\n"),
    build_frame(0x4B, b"\0\0\0\1key!"),
    build_frame(0x76, b"\0\3\0\0\x7f\xff\xff\xff_pq_.x\0"),
)

LENGTHS: Final = (
    0,
    1,
    3,
    4,
    5,
    8,
    0xFFFF,
    1 << 20,
    (1 << 20) + 4,
    (1 << 30) - 1,
    1 << 30,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)

MOST_STEPS: Final = 60
MOST_BYTES: Final = 1 << 16


class Tape:
    """The bytes of a program, read from the beginning. Behind its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def over(self) -> bool:
        return self._position >= len(self._data)

    def number(self) -> int:
        self._position += 1
        return self._data[self._position - 1] if self._position <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        start = self._position
        self._position += count
        return self._data[start : self._position]


def tampered(tape: Tape, table: tuple[bytes, ...]) -> bytes:
    """Some bytes that one side sends."""
    how = tape.number() % 8
    if how == 0:
        return tape.take(tape.number())
    message = table[tape.number() % len(table)]
    if how == 1:
        position = tape.number() % len(message)
        return message[:position] + bytes([tape.number()]) + message[position + 1 :]
    if how == 2:
        length = LENGTHS[tape.number() % len(LENGTHS)]
        return message[:1] + length.to_bytes(4, "big") + message[5:]
    if how == 3:
        return message[: tape.number() % (len(message) + 1)]
    if how == 4:
        return message + tape.take(tape.number() % 16)
    if how == 5:
        return message * (tape.number() + 1)
    return message


def run(data: bytes) -> Session:
    """Play a program. Raises AssertionError where something does not hold."""
    tape = Tape(data)
    flags = tape.number()
    session: Session
    desk = None
    if flags & 1:
        session = GatedSession(SessionInfo(1), recognise, Context({}), POLICY)
        desk = Desk(later=bool(flags & 2))
    else:
        session = Session(SessionInfo(1), recognise, Context({}) if flags & 2 else None)
    talk = Conversation(session, desk, bytewise=bool(flags & 4), greeting=c.GREETING if flags & 8 else b"")
    answering = ModelServer()
    said = {True: b"", False: b""}
    steps = 0
    while not tape.over and steps < MOST_STEPS and len(said[True]) + len(said[False]) < MOST_BYTES:
        steps += 1
        step = tape.number() % 8
        if step < 3 and not session.frontend_blocked:
            chunk = tampered(tape, CLIENT)
            said[True] += chunk
            talk.client(chunk)
        elif step < 5 and not session.backend_blocked:
            chunk = tampered(tape, SERVER)
            said[False] += chunk
            talk.server(chunk)
        elif step == 5 and not session.backend_blocked:
            chunk = answer(answering, talk.to_server)
            talk.to_server = b""
            said[True] = b""  # what the client said so far was compared by nobody
            said[False] += chunk
            talk.server(chunk)
        elif step == 6 and desk is not None and desk.waiting:
            talk.tell()
        elif step == 7 and isinstance(session, GatedSession):
            talk.release()
    finish(talk, said[False])
    return session


def answer(server: ModelServer, data: bytes) -> bytes:
    try:
        return server.receive(data)
    except (ProtocolViolation, AssertionError, LookupError, ValueError):
        return b""


def finish(talk: Conversation, said: bytes) -> None:
    """The end of a conversation, and what must hold then."""
    session, desk = talk.session, talk.desk
    if desk is None:
        assert talk.to_client == said
    elif not desk.hits and not session.observer.pipeline.skips:
        session.lose_track("the end of the test")
        talk.run()
    while desk is not None and desk.waiting:
        talk.tell()
    for outcome in talk.outcomes:
        outcome.statement.values()
        outcome.column_values()
    talk.close()
    while desk is not None and desk.waiting:
        talk.tell()
    assert desk is None or not desk.open_marks
    ended = [outcome.statement.sequence for outcome in talk.outcomes if outcome.statement.simple]
    assert len(ended) == len(set(ended)), "a statement ended twice"
    assert not len(session.observer.pipeline)


def greet(data: bytes) -> None:
    """Play the bytes against the beginning of a connection."""
    tape = Tape(data)
    greeting = Greeting(tls=bool(tape.number() & 1))
    steps = 0
    try:
        while not tape.over and greeting.result is None and steps < MOST_STEPS:
            steps += 1
            greeting.receive(tampered(tape, FIRST))
            if greeting.upgrade is not None:
                greeting.secured()
    except ProtocolViolation:
        pass


def read_text(data: bytes) -> None:
    """Recognise the bytes as a query string, and ask what rules and cache ask of it."""
    text = text_of(data)
    recognition = Recognition()
    found = recognition(text)
    assert recognition.failures == 0
    plain = normalise.recognise(text)
    assert [item.template.text for item in found] == [item.template.text for item in plain]
    assert [item.slots for item in found] == [item.slots for item in plain]
    for item in found:
        shape_of(item.template)
        effect_of(item)


def read_value(data: bytes) -> None:
    """Decode the bytes as a value of some type, from either side."""
    tape = Tape(data)
    oid = OIDS[tape.number() % len(OIDS)]
    format_code = tape.number() % 3
    value = data[2:]
    comparable(decode(oid, format_code, value))
    comparable(decode_parameter(oid, format_code, value))


OIDS: Final = (
    *tuple(range(15, 30)),
    114,
    142,
    600,
    650,
    700,
    701,
    790,
    869,
    *range(1000, 1300),
    1560,
    1562,
    1700,
    2950,
    3802,
)


def play(data: bytes) -> None:
    """What the first byte says is done with the rest."""
    tape = Tape(data)
    kind = tape.number() % 8
    (read_value if kind == 0 else read_text if kind == 1 else greet if kind == 2 else run)(data[1:])
