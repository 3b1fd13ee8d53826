"""Forms in which drivers ask: what belongs to one question, and what the answer to each is."""

from __future__ import annotations

import pytest

from pgloupe.wire.codes import BackendCode
from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_flush,
    build_frame,
    build_parse,
    build_sync,
)
from support.conversation import (
    BOUND,
    CLOSED,
    PARSED,
    Conversation,
    Desk,
    complete,
    data_row,
    gated,
    ready,
    row_description,
)

READ = "SELECT name FROM author"
CYCLE = (build_parse("", READ), build_bind("", ""), build_describe("P", ""), build_execute(""), build_sync())
HEAD = row_description("name")
BODY = data_row("Ada") + complete("SELECT 1")
NO_PARAMETERS = build_frame(BackendCode.PARAMETER_DESCRIPTION, b"\0\0")


def desk_of(talk: Conversation) -> Desk:
    assert talk.desk is not None
    return talk.desk


@pytest.mark.parametrize("bytewise", [False, True])
def test_a_close_of_the_portal_in_a_cycle_is_answered_with_it(bytewise: bool) -> None:
    cycle = (*CYCLE[:-1], build_close("P", ""), build_sync())
    talk = gated(bytewise=bytewise)
    talk.client(*cycle)
    talk.server(PARSED, BOUND, HEAD, BODY, CLOSED, ready())
    expected = talk.taken_client()
    for asked in (cycle, CYCLE):
        talk.client(*asked)
        assert talk.taken_client() == (expected if asked is cycle else expected.replace(CLOSED, b""))
    assert desk_of(talk).hits == 2


@pytest.mark.parametrize("place", range(4))
def test_a_flush_in_a_cycle_changes_nothing(place: int) -> None:
    talk = gated()
    talk.client(*CYCLE)
    talk.server(PARSED, BOUND, HEAD, BODY, ready())
    expected = talk.taken_client()
    talk.client(*CYCLE[: place + 1], build_flush(), *CYCLE[place + 1 :])
    assert talk.taken_client() == expected
    assert desk_of(talk).hits == 1


@pytest.mark.parametrize("place", range(4))
def test_what_a_flush_asks_for_is_not_held(place: int) -> None:
    talk = gated()
    talk.taken_server()
    messages = b"".join([*CYCLE[: place + 1], build_flush()])
    talk.client(messages)
    assert talk.taken_server() == messages
    assert desk_of(talk).asks == 0


@pytest.mark.parametrize("last", [build_close("S", ""), build_close("P", "other"), build_describe("P", "")])
def test_another_message_in_front_of_the_sync_makes_it_no_cycle(last: bytes) -> None:
    talk = gated()
    talk.client(*CYCLE[:-1], last, build_sync())
    assert desk_of(talk).asks == 0


def test_a_named_statement_of_which_a_portal_was_described_is_answered_without_a_describe() -> None:
    """pgjdbc leaves it out from the second execution on, and may ask for other formats then."""
    talk = gated()
    binary = HEAD[:-2] + b"\0\1"
    talk.client(build_parse("s", READ), build_bind("", "s", (), (), (1,)), *CYCLE[2:])
    talk.server(PARSED, BOUND, binary, BODY, ready())
    later = (build_bind("", "s"), build_execute(""), build_sync())
    talk.client(*later)
    talk.server(BOUND, BODY, ready())
    expected = talk.taken_client()[-len(BOUND + BODY + ready()) :]
    talk.client(*later)
    assert talk.taken_client() == expected
    assert (desk_of(talk).asks, desk_of(talk).hits) == (2, 1)


def test_the_unnamed_statement_that_was_described_before_is_answered_without_a_describe() -> None:
    """asyncpg without its cache of statements parses it once to describe it and once more to run it."""
    talk = gated()
    for number in range(3):
        talk.client(build_parse("", READ), build_describe("S", ""), build_sync())
        talk.server(PARSED, NO_PARAMETERS, HEAD, ready())
        talk.client(build_parse("", READ), build_bind("", ""), build_execute(""), build_sync())
        if number == 0:
            talk.server(PARSED, BOUND, BODY, ready())
    assert (desk_of(talk).asks, desk_of(talk).hits) == (3, 2)
