"""A COPY FROM that fails, and the Syncs that the client sent during it: the server has read them as part of the data, or not.

What is right is what the server does (postgres.c, copyfromparse.c): whichever of them it answers, the session is followed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgloupe.session.states import Phase
from pgloupe.wire.frontend import build_flush, build_parse, build_query, build_sync
from support.conversation import (
    BOUND,
    COPY_DONE,
    COPY_FAIL,
    COPY_IN,
    NOTICE,
    PARSED,
    Conversation,
    complete,
    copy_data,
    data_row,
    error,
    extended,
    gated,
    plain,
    ready,
    row_description,
)

COPY = "COPY a FROM STDIN"
EARLY = extended(COPY, describe=False)
"""With its Sync, before there is any data."""

MAKERS: list[Callable[[], Conversation]] = [plain, gated]


@pytest.fixture(params=MAKERS)
def talk(request: pytest.FixtureRequest) -> Conversation:
    made: Conversation = request.param()
    return made


def goes_on(talk: Conversation, query: str = "SELECT 'still here'") -> None:
    """The next two queries are attributed as any other, and then nothing is outstanding."""
    for _ in range(2):
        talk.ends()
        talk.client(build_query(query))
        reply = row_description("a") + data_row("b") + complete("SELECT 1") + ready()
        talk.taken_client()
        talk.server(reply)
        assert talk.taken_client() == reply
        assert talk.ends() == [(query, "complete", "SELECT 1")]
    assert talk.session.trouble == ""
    assert len(talk.session.observer.pipeline) == 0


@pytest.mark.parametrize("answered", [1, 2])
def test_an_early_sync_and_a_copy_that_fails(talk: Conversation, answered: int) -> None:
    """1: the error came behind the early Sync; 2: before it, from a trigger, a timeout or a cancel request."""
    talk.client(EARLY)
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(copy_data(b"nonsense\n"), COPY_DONE, build_sync())
    talk.server(error("22P02"), *[ready()] * answered)
    assert talk.ends() == [(COPY, "error", "22P02")]
    assert talk.session.idle
    goes_on(talk)


@pytest.mark.parametrize("answered", [1, 2, 3])
def test_a_copy_that_fails_when_all_was_sent_already(talk: Conversation, answered: int) -> None:
    talk.client(EARLY, copy_data(b"nonsense\n"), build_sync(), build_flush(), COPY_DONE, build_sync())
    talk.server(PARSED, BOUND, COPY_IN, error("22P02"), *[ready()] * answered)
    goes_on(talk)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_client_that_hears_of_the_failure_first(talk: Conversation, answered: int) -> None:
    talk.client(EARLY)
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(copy_data(b"nonsense\n"))
    talk.server(error("22P02"), *[ready()] * answered)
    talk.client(COPY_FAIL, build_sync())
    talk.server(ready())
    goes_on(talk)


@pytest.mark.parametrize("answered", [0, 1])
def test_an_early_sync_and_a_copy_by_simple_query_that_fails(talk: Conversation, answered: int) -> None:
    talk.client(build_query(COPY))
    talk.server(COPY_IN)
    talk.client(copy_data(b"1\n"), build_sync(), copy_data(b"nonsense\n"))
    talk.server(error("22P02"), ready(), *[ready()] * answered)
    talk.client(COPY_DONE)
    goes_on(talk)


def test_a_copy_that_goes_well_has_read_all_syncs_before_the_end_of_its_data(talk: Conversation) -> None:
    talk.client(EARLY)
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(build_sync(), copy_data(b"1\n"), build_sync(), COPY_DONE, build_sync(), build_query("SELECT 2"))
    talk.server(complete("COPY 1"), ready())
    assert talk.ends() == [(COPY, "complete", "COPY 1")]
    talk.server(row_description("a"), complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 2", "complete", "SELECT 0")]
    goes_on(talk)


def test_two_copies_of_one_query_and_the_syncs_between_them(talk: Conversation) -> None:
    talk.client(build_query(f"{COPY}; COPY b FROM STDIN"))
    talk.server(COPY_IN)
    talk.client(build_sync(), COPY_DONE)
    talk.server(complete("COPY 0"), COPY_IN)
    talk.client(build_sync(), copy_data(b"nonsense\n"))
    talk.server(error("22P02"), ready())
    goes_on(talk)


def test_a_notice_says_nothing_of_a_doubtful_sync(talk: Conversation) -> None:
    talk.client(EARLY)
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(COPY_FAIL, build_sync())
    talk.server(error("57014"), NOTICE, ready(), NOTICE)
    assert len(talk.session.observer.pipeline) == 1
    goes_on(talk)


def test_what_may_be_skipped_or_not_ends_the_looking() -> None:
    """Behind a failed copy without its own Sync nobody can tell what becomes of a query: relayed, and everything marked."""
    for make in MAKERS:
        talk = make()
        talk.client(EARLY)
        talk.server(PARSED, BOUND, COPY_IN)
        talk.client(copy_data(b"nonsense\n"))
        talk.server(error("22P02"))
        talk.taken_server()
        message = build_parse("", "SELECT 1")
        talk.client(message)
        assert talk.session.phase == Phase.OPAQUE
        assert talk.taken_server() == message


def test_nothing_is_answered_while_a_doubtful_sync_may_be() -> None:
    talk = gated()
    read = build_query("SELECT name FROM author WHERE id = 7")
    reply = row_description("name") + data_row("Ada") + complete("SELECT 1")
    talk.client(read)
    talk.server(reply, ready())
    talk.client(EARLY)
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(COPY_FAIL, build_sync())
    talk.server(error("57014"), ready())
    talk.taken_server()
    talk.client(read)
    assert talk.taken_server() == read
    talk.taken_client()
    talk.server(ready(), reply, ready())  # the early one was answered after all
    assert talk.taken_client() == ready() + reply + ready()
    desk = talk.desk
    assert desk is not None
    talk.client(read)
    assert desk.hits == 1


def test_what_is_owed_behind_a_failed_copy_is_swallowed_all_the_same() -> None:
    talk = gated()
    query = extended("SELECT name FROM author WHERE id = $1", b"7", oids=(23,))
    reply = row_description("name") + data_row("Ada") + complete("SELECT 1")
    talk.client(query)
    talk.server(PARSED, BOUND, reply, ready())
    talk.client(build_parse("k", COPY), build_sync())
    talk.server(PARSED, ready())
    talk.client(query)  # answered here: the Parse is owed
    desk = talk.desk
    assert desk is not None
    assert desk.hits == 1
    talk.client(extended(None, name="k", describe=False))
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(COPY_FAIL, build_sync())
    talk.server(error("57014"), ready())
    talk.client(query)
    talk.taken_client()
    talk.server(PARSED, BOUND, reply, ready())
    assert talk.taken_client() == PARSED + BOUND + reply + ready()
    assert talk.session.trouble == ""
