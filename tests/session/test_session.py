"""A session without a cache: bytes out are bytes in, at once, whatever they are; and its memory is bounded."""

from __future__ import annotations

import tracemalloc
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.session.pipeline import MAX_OUTSTANDING
from pgloupe.session.session import Session
from pgloupe.session.states import Phase, advance
from pgloupe.wire.codes import MAX_FRAME_BYTES
from pgloupe.wire.frontend import build_bind, build_frame, build_parse, build_query, build_sync, build_terminate
from pgloupe_rules.types import SessionInfo
from support.conversation import (
    AUTHENTICATION_OK,
    BOUND,
    GREETING,
    NOTICE,
    PARSED,
    Conversation,
    byte_by_byte,
    complete,
    cut,
    data_row,
    error,
    extended,
    parameter_status,
    plain,
    ready,
    recognise,
    row_description,
)

PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [
            *(
                GREETING,
                AUTHENTICATION_OK,
                PARSED,
                BOUND,
                NOTICE,
                ready(),
                ready("T"),
                error(),
                error("57P01", "FATAL"),
            ),
            *(row_description("a"), data_row("1"), complete("SELECT 1"), build_query("SELECT 1"), build_sync()),
            *(extended("SELECT $1", b"x"), build_terminate(), parameter_status("a", "b"), build_frame(0x70, b"x\0")),
        ]
    ),
)


def fresh() -> Session:
    return Session(SessionInfo(1), recognise)


@given(st.lists(st.tuples(st.booleans(), PIECES), max_size=25), st.booleans())
def test_bytes_out_are_bytes_in_before_they_are_looked_at(turns: list[tuple[bool, bytes]], analysed: bool) -> None:
    session = fresh()
    for now_s, (frontend, data) in enumerate(turns):
        if frontend:
            session.receive_frontend(data, now_s)
        else:
            session.receive_backend(data, now_s)
        assert session.data_to_backend() == (data if frontend else b"")
        assert session.data_to_frontend() == (b"" if frontend else data)
        if analysed:
            session.analyse(now_s)
            assert session.actions == []
            assert session.data_to_backend() == session.data_to_frontend() == b""
    session.analyse(100.0)
    session.close(101.0)
    assert session.phase == Phase.CLOSED
    assert session.data_to_backend() == session.data_to_frontend() == b""


@given(st.lists(st.integers(0, 400), max_size=30))
def test_outcomes_are_the_same_in_every_cut(points: list[int]) -> None:
    client = extended("SELECT a FROM b WHERE c = $1", b"1") + build_query("SELECT 1; SELECT 2") + extended("SELECT 3")
    server = (
        PARSED + BOUND + row_description("a") + data_row("x") * 3 + complete("SELECT 3") + ready()
        + complete("SELECT 0") + NOTICE + error("22012") + ready() + PARSED + error("22023") + ready()
    )  # fmt: skip
    seen = []
    for cuts in ([client], byte_by_byte(client), cut(client, points)):
        for back in ([server], byte_by_byte(server), cut(server, points)):
            talk = plain()
            talk.client_chunks(cuts)
            talk.server_chunks(back)
            assert talk.session.trouble == ""
            seen.append(
                [
                    (
                        *(
                            o.statement.sequence,
                            o.statement.batch,
                            o.status,
                            o.rows,
                            o.bytes,
                            o.command_tag,
                            o.sqlstate,
                        ),
                        *(o.columns, o.column_values(), o.statement.values()),
                    )
                    for o in talk.outcomes
                ]
            )
    assert len(seen[0]) == 4
    assert all(each == seen[0] for each in seen)


# --- phases ---


def test_a_session_becomes_ready_by_its_first_ready_for_query() -> None:
    talk = Conversation(fresh(), greeting=b"")
    assert not talk.session.idle
    talk.client(build_frame(0x70, b"secret\0"))
    talk.server(build_frame(0x52, pack("!i", 5) + b"salt"))
    assert talk.session.phase == Phase.AUTHENTICATING
    talk.server(AUTHENTICATION_OK)
    assert talk.session.phase == Phase.STARTING
    talk.server(parameter_status("application_name", "app"), build_frame(0x4B, bytes(8)), ready())
    assert talk.session.phase == Phase.READY
    assert talk.session.idle
    assert talk.session.info.application_name == "app"


def test_a_query_sent_before_the_session_is_ready_is_attributed() -> None:
    talk = Conversation(fresh(), greeting=b"")
    talk.client(build_query("SELECT 1"))
    talk.server(GREETING, complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]


@pytest.mark.parametrize("nonsense", [build_frame(0x3F), b"GET / HTTP/1.1\r\n\r\n"], ids=["unknown", "http"])
def test_nonsense_before_the_session_is_ready_closes_it(nonsense: bytes) -> None:
    talk = Conversation(fresh(), greeting=b"")
    talk.client(nonsense)
    assert talk.session.must_close
    assert talk.session.trouble


def test_ready_before_authentication_closes_the_session() -> None:
    talk = Conversation(fresh(), greeting=b"")
    talk.server(ready())
    assert talk.session.must_close


def test_nonsense_in_a_ready_session_is_relayed() -> None:
    talk = plain()
    talk.client(build_query("SELECT 1"))
    talk.server(b"D" + pack("!I", 1) + b"??")
    talk.server(b"more")
    assert talk.session.phase == Phase.OPAQUE
    assert not talk.session.must_close
    assert not talk.session.idle
    assert not talk.session.can_inject
    assert talk.to_client == b"D" + pack("!I", 1) + b"??" + b"more"
    assert talk.ends() == [("SELECT 1", "lost", "")]


def test_phases_go_forward_only() -> None:
    order = (Phase.AUTHENTICATING, Phase.STARTING, Phase.READY, Phase.OPAQUE, Phase.CLOSED)
    for at in order:
        for to in order:
            assert advance(at, to) in (at, to)
            assert advance(at, to) >= at
    assert advance(Phase.AUTHENTICATING, Phase.READY) == Phase.AUTHENTICATING
    assert advance(Phase.CLOSED, Phase.OPAQUE) == Phase.CLOSED


# --- where an error of our own may be put in ---


def test_the_client_s_stream_can_be_written_to_between_messages_only() -> None:
    talk = plain()
    assert talk.session.can_inject
    talk.server(NOTICE[:-1])
    assert not talk.session.can_inject
    talk.server(NOTICE[-1:])
    assert talk.session.can_inject


@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
def test_nothing_is_put_in_behind_a_farewell(severity: str) -> None:
    talk = plain()
    talk.server(error("57P01", severity))
    assert not talk.session.can_inject
    talk = plain()
    talk.client(build_terminate())
    assert not talk.session.can_inject


# --- memory ---


def test_a_frame_of_a_gigabyte_passes_in_constant_memory() -> None:
    session = Session(SessionInfo(1), recognise)
    session.receive_backend(GREETING, 0.0)
    session.analyse(0.0)
    session.data_to_frontend()
    chunk = bytes(1 << 16)
    tracemalloc.start()
    try:
        for feed, take in (
            (session.receive_frontend, session.data_to_backend),
            (session.receive_backend, session.data_to_frontend),
        ):
            feed(b"d" + pack("!I", MAX_FRAME_BYTES - 1), 1.0)
            take()
            for _ in range(300):
                feed(chunk, 1.0)
                assert take() == chunk
                session.analyse(1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert session.phase == Phase.READY
    assert peak < 6 * len(chunk)


def test_requests_without_end_make_the_session_congested() -> None:
    talk = plain()
    some = build_parse("", "SELECT 1") * 1000
    for _ in range(MAX_OUTSTANDING // 1000):
        talk.client(some)
        assert not talk.session.congested
    talk.client(build_parse("", "SELECT 1"))
    assert talk.session.congested
    talk.server(PARSED)
    assert not talk.session.congested


def test_large_values_of_unanswered_binds_are_not_kept() -> None:
    talk = plain()
    talk.client(build_parse("s", "INSERT INTO a VALUES ($1)", (17,)))
    bind = build_bind("", "s", (bytes(1 << 18),)) + extended(None, describe=False, sync=False)[-14:]
    tracemalloc.start()
    try:
        for _ in range(100):
            talk.session.receive_frontend(bind, 1.0)
            talk.session.data_to_backend()
            talk.session.analyse(1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(bind)


def test_names_in_a_batch_that_was_given_up_are_not_collected_without_end() -> None:
    talk = plain()
    talk.client(build_bind("", "nobody"))
    talk.server(error("26000"))
    some = b"".join(build_parse(f"s{number}", "SELECT 1") for number in range(500))
    tracemalloc.start()
    try:
        talk.client(some)
        first = tracemalloc.get_traced_memory()[0]
        talk.to_server = b""
        for _ in range(20):
            talk.client(some)
            talk.to_server = b""
        last = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert last < first + 50_000
    talk.client(build_sync())
    talk.server(ready())
    assert talk.session.idle
