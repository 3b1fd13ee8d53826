"""Memory of one session, whatever is sent to it."""

from __future__ import annotations

import tracemalloc

import pytest

from pgloupe.session.actions import BeginWrite
from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.session.observer import MAX_KEPT_BYTES
from pgloupe.session.session import UNREADY_BYTES, Session
from pgloupe.session.states import Phase
from pgloupe.wire.frontend import build_bind, build_execute, build_frame, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_startup
from pgloupe_rules.types import SessionInfo
from support.conversation import (
    AUTHENTICATION_OK,
    BOUND,
    PARSED,
    POLICY,
    Conversation,
    Desk,
    complete,
    error,
    gated,
    parameter_status,
    plain,
    ready,
    recognise,
)

MEGABYTE = 1 << 20


def unready(*, cache: bool) -> Conversation:
    """A session of a client that has not logged in."""
    info = SessionInfo(1)
    session = GatedSession(info, recognise, Context({}), POLICY) if cache else Session(info, recognise)
    return Conversation(session, Desk(), greeting=b"")


def long_text(number: int) -> str:
    return f"SELECT {number} /*{'x' * (MEGABYTE - 100)}*/"


@pytest.mark.parametrize("skipped", [False, True])
def test_texts_of_unanswered_messages_are_bounded_in_all(skipped: bool) -> None:
    talk = plain()
    if skipped:
        talk.client(build_bind("", "nobody"))
        talk.server(error("26000"))
    frames = [build_parse(f"s{number}", long_text(number)) for number in range(60)]
    tracemalloc.start()
    try:
        for frame in frames:
            talk.client(frame)
            talk.to_server = b""
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # bytes, their text, and what the recognition of texts remembers
    assert kept < 4 * MAX_KEPT_BYTES


@pytest.mark.parametrize("crowded", [False, True])
def test_what_was_not_kept_is_unknown_and_may_have_written_anything(crowded: bool) -> None:
    talk = gated()
    count = MAX_KEPT_BYTES // MEGABYTE if crowded else 1
    for number in range(count):
        talk.client(build_parse(f"s{number}", long_text(number)))
    talk.client(build_parse("t", f"SELECT name FROM author WHERE id IN ({', '.join(['7'] * 300)})"), build_sync())
    talk.server(PARSED * (count + 1), ready())
    desk = talk.desk
    assert desk is not None
    talk.client(build_bind("", "t"), build_execute(""), build_sync())
    marks = [action.tables for action in desk.log if isinstance(action, BeginWrite)]
    assert marks == ([None] if crowded else [])


def test_what_was_answered_is_no_longer_counted() -> None:
    talk = plain()
    for number in range(30):
        talk.client(build_parse("", long_text(number)), build_bind("", ""), build_execute(""), build_sync())
        talk.server(PARSED, BOUND, complete("SELECT 0"), ready())
        assert talk.ends()[0][0].startswith(f"SELECT {number}")
    assert talk.session.observer.pipeline.kept_bytes == 0


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("answers", [b"", AUTHENTICATION_OK])
def test_a_session_that_is_not_ready_keeps_little_of_a_message(cache: bool, answers: bytes) -> None:
    talk = unready(cache=cache)
    talk.server(answers)
    half = build_frame(0x70, b"x" * MEGABYTE)[: MEGABYTE // 2]
    short = build_frame(0x70, b"x" * (UNREADY_BYTES - 100))[:-1]
    for beginning in (half, short):
        talk = unready(cache=cache)
        talk.server(answers)
        tracemalloc.start()
        try:
            talk.client(beginning)
            talk.to_server = b""
            talk.server(beginning.replace(b"p", b"N", 1))
            talk.to_client = b""
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert kept < 3 * UNREADY_BYTES


@pytest.mark.parametrize("cache", [False, True])
def test_a_message_of_any_length_passes_before_the_session_is_ready(cache: bool) -> None:
    talk = unready(cache=cache)
    password = build_frame(0x70, b"x" * MEGABYTE)
    notice = build_frame(0x4E, b"x" * MEGABYTE)
    setting = parameter_status("long", "x" * MEGABYTE)
    talk.client(password)
    talk.server(notice, AUTHENTICATION_OK, setting, ready())
    assert talk.taken_server() == password
    assert talk.taken_client() == notice + AUTHENTICATION_OK + setting + ready()
    assert talk.session.phase == Phase.READY


def test_once_ready_longer_messages_are_kept() -> None:
    talk = plain()
    query = f"SELECT '{'x' * (4 * UNREADY_BYTES)}'"
    talk.client(build_query(query))
    talk.server(complete("SELECT 0"), ready())
    assert talk.ends() == [(query, "complete", "SELECT 0")]


def test_a_second_start_up_message_is_refused_although_it_is_never_whole() -> None:
    """As a message it would be one of type 0 and of an absurd length."""
    talk = unready(cache=True)
    again = build_startup({"user": "someone", "database": "x" * 100})
    talk.client(again)
    assert talk.session.must_close
    assert talk.session.can_inject
    assert "0x00" in talk.session.trouble


def test_without_a_cache_a_second_start_up_message_reaches_the_server() -> None:
    talk = unready(cache=False)
    again = build_startup({"user": "someone"})
    talk.client(again)
    assert talk.taken_server() == again


def test_the_beginning_of_a_message_of_unknown_type_reaches_the_server() -> None:
    """It refuses the type without waiting for the rest."""
    talk = gated()
    talk.client(b"y\0\0\1")
    assert talk.taken_server() == b"y\0\0\1"
    assert talk.session.phase == Phase.OPAQUE
