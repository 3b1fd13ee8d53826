"""A session with a cache: what may be answered here, what is owed, and what a write waits for."""

from __future__ import annotations

import pytest

from pgloupe.session.actions import BeginWrite, EndWrite, Fill
from pgloupe.session.gate import KEEP_ALIVE_S, GatedSession
from pgloupe.session.states import Phase
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
)
from support.conversation import (
    BOUND,
    CLOSED,
    COPY_DONE,
    COPY_IN,
    EMPTY,
    FUNCTION_CALL,
    FUNCTION_RESULT,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARSED,
    SUSPENDED,
    Conversation,
    Desk,
    complete,
    copy_data,
    data_row,
    error,
    extended,
    gated,
    parameter_status,
    ready,
    row_description,
)

READ = "SELECT name FROM author WHERE id = 7"
OTHER = "SELECT body FROM post WHERE id = 7"
HEAD = row_description("name")
BODY = data_row("Ada") + complete("SELECT 1")
WRITE = "UPDATE author SET name = 'x' WHERE id = 1"
EXTENDED = "SELECT name FROM author WHERE id = $1"


def desk_of(talk: Conversation) -> Desk:
    assert talk.desk is not None
    return talk.desk


def warm(talk: Conversation, query: str = READ) -> None:
    """Ask by a simple Query, so that its answer is in the cache, and forget what was said."""
    talk.client(build_query(query))
    talk.server(HEAD, BODY, ready())
    talk.taken_server()
    talk.taken_client()
    talk.ends()


def warm_extended(talk: Conversation, *, describe: bool = True, limit: int = 0) -> bytes:
    """The same by `Parse Bind [Describe] Execute Sync`. Gives the reply."""
    reply = PARSED + BOUND + (HEAD if describe else b"") + BODY + ready()
    talk.client(extended(EXTENDED, b"7", oids=(23,), describe=describe, limit=limit))
    talk.server(reply)
    talk.taken_server()
    talk.taken_client()
    talk.ends()
    return reply


def owing_parse() -> Conversation:
    """A session whose unnamed Parse was answered here and never sent."""
    talk = gated()
    warm_extended(talk)
    talk.client(build_query("SELECT 'something else'"))
    talk.server(HEAD, complete("SELECT 0"), ready())
    talk.client(extended(EXTENDED, b"7", oids=(23,)))
    assert desk_of(talk).hits == 1
    talk.taken_server()
    talk.taken_client()
    talk.ends()
    return talk


def owing_close() -> Conversation:
    """A session that prepared the unnamed statement for real and whose simple Query was answered here."""
    talk = gated()
    warm(talk)
    talk.client(build_parse("", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1
    talk.taken_server()
    talk.taken_client()
    talk.ends()
    return talk


OWED = build_parse("", EXTENDED, (23,))


# --- hits ---


@pytest.mark.parametrize("bytewise", [False, True])
def test_a_simple_query_is_answered_with_the_bytes_of_the_server(bytewise: bool) -> None:
    talk = gated(bytewise=bytewise)
    warm(talk)
    talk.client(build_query(READ))
    assert talk.taken_server() == b""
    assert talk.taken_client() == HEAD + BODY + ready()
    (outcome,) = talk.outcomes
    assert (outcome.cache, outcome.status, outcome.rows, outcome.command_tag) == ("hit", "complete", 1, "SELECT 1")
    assert outcome.column_values() == (("Ada",),)
    assert outcome.server_s == 0.0


@pytest.mark.parametrize("bytewise", [False, True])
def test_an_extended_query_is_answered_with_the_reply_that_was_asked_for(bytewise: bool) -> None:
    talk = gated(bytewise=bytewise)
    reply = warm_extended(talk)
    talk.client(extended(EXTENDED, b"7", oids=(23,)))
    assert talk.taken_server() == b""
    assert talk.taken_client() == reply
    (outcome,) = talk.outcomes
    assert (outcome.cache, outcome.rows) == ("hit", 1)
    assert outcome.statement.values() == (7,)
    assert outcome.column_values() == (("Ada",),)


def described(talk: Conversation, columns: bytes) -> None:
    """Prepare `s` and have it described, as asyncpg does, and forget what was said."""
    talk.client(build_parse("s", EXTENDED, (23,)), build_describe("S", "s"), build_sync())
    talk.server(PARSED, build_frame(0x74, b"\0\1\0\0\0\x17"), columns, ready())
    talk.taken_server()
    talk.taken_client()
    talk.ends()


def test_rows_without_a_description_are_those_of_the_description_that_the_client_has() -> None:
    """After ALTER TABLE a statement that was described before means other columns than one that was described later."""
    before, after = gated(), gated()
    after.desk = before.desk
    described(before, HEAD)
    described(after, HEAD.replace(b"name", b"nome"))
    cycle = extended(None, b"7", name="s", describe=False)
    before.client(cycle)
    before.server(BOUND, BODY, ready())
    before.client(cycle)
    assert desk_of(before).hits == 1
    after.taken_server()
    after.client(cycle)
    assert after.taken_server() == cycle
    assert desk_of(before).hits == 1


def test_rows_of_which_the_client_was_told_nothing_are_the_server_s() -> None:
    talk = gated()
    for _ in range(3):
        warm_extended(talk, describe=False)
    assert desk_of(talk).hits == 0


def test_a_session_that_lives_on_answers_asks_the_server_now_and_then() -> None:
    talk = gated()
    warm_extended(talk)
    cycle = extended(EXTENDED, b"7", oids=(23,))
    talk.client(cycle)
    assert desk_of(talk).hits == 1
    talk.now_s += KEEP_ALIVE_S
    talk.client(cycle)
    assert talk.taken_server() == cycle
    talk.server(PARSED, BOUND, HEAD, BODY, ready())
    talk.client(cycle)
    assert desk_of(talk).hits == 2


def test_a_bind_without_its_parse_is_answered_without_a_parse_complete() -> None:
    talk = gated()
    warm_extended(talk)
    talk.client(extended(None, b"7"))
    assert talk.taken_server() == b""
    assert talk.taken_client() == BOUND + HEAD + BODY + ready()
    talk.client(build_parse("s", EXTENDED, (23,)), build_sync())
    talk.server(PARSED, ready())
    talk.taken_server()
    talk.taken_client()
    talk.client(extended(None, b"7", name="s"))
    assert talk.taken_server() == b""
    assert talk.taken_client() == BOUND + HEAD + BODY + ready()


def test_a_first_answer_is_a_miss_and_another_value_is_another_question() -> None:
    talk = gated()
    talk.client(extended(EXTENDED, b"7"))
    talk.server(PARSED, BOUND, HEAD, BODY, ready())
    assert [outcome.cache for outcome in talk.outcomes] == ["miss"]
    talk.client(extended(EXTENDED, b"8"))
    assert desk_of(talk).hits == 0
    assert talk.to_server == extended(EXTENDED, b"7") + extended(EXTENDED, b"8")


def test_describe_formats_and_limits_are_part_of_the_question() -> None:
    talk = gated()
    warm_extended(talk)
    for other in (
        extended(EXTENDED, b"7", oids=(23,), describe=False),
        extended(EXTENDED, b"7", oids=(23,), limit=1),
        extended(EXTENDED, b"7", oids=(23,), results=(1,)),
        extended(EXTENDED, b"7", oids=(23,), results=(0, 0)),  # which the server may refuse
        extended(EXTENDED, b"7", oids=(23,), formats=(1,)),
        extended(EXTENDED, b"7", oids=(20,)),
    ):
        talk.client(other)
        assert desk_of(talk).hits == 0
        talk.server(error(), ready())
        talk.taken_server()
    talk.client(extended(EXTENDED, b"7", oids=(23,)))
    assert desk_of(talk).hits == 1


def test_a_read_with_a_row_limit_is_answered_as_far_as_its_limit() -> None:
    talk = gated()
    reply = PARSED + BOUND + HEAD + data_row("Ada") + SUSPENDED + ready()
    for _ in range(2):
        talk.client(extended(EXTENDED, b"7", limit=1))
        if not desk_of(talk).hits:
            talk.server(reply)
        assert talk.taken_client() == reply
    assert [(outcome.status, outcome.rows) for outcome in talk.outcomes] == [("suspended", 1)] * 2


def test_pipelined_reads_are_answered_one_after_the_other() -> None:
    talk = gated()
    warm(talk)
    warm(talk, OTHER)
    talk.client(build_query(READ), build_query(OTHER), build_query(READ))
    assert desk_of(talk).hits == 3
    assert talk.taken_client() == (HEAD + BODY + ready()) * 3
    assert talk.taken_server() == b""


def test_nothing_is_answered_while_a_reply_is_outstanding() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("SELECT pg_sleep(1)"), build_query(READ))
    assert talk.taken_server() == build_query("SELECT pg_sleep(1)") + build_query(READ)
    assert talk.taken_client() == b""
    assert desk_of(talk).hits == 0


@pytest.mark.parametrize("status", ["T", "E"])
def test_nothing_is_answered_in_a_transaction_block(status: str) -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready(status))
    asks = desk_of(talk).asks
    talk.client(build_query(READ))
    assert desk_of(talk).asks == asks
    assert talk.to_server.endswith(build_query(READ))


def test_a_sync_that_is_due_goes_to_the_server_behind_an_answer() -> None:
    """The server has begun a transaction for the Parse: it must get the Sync that ends it, and says that it is ready."""
    talk = gated()
    warm_extended(talk)
    talk.client(build_parse("s", EXTENDED, (23,)), build_describe("S", "s"), build_flush())
    talk.server(PARSED, build_frame(0x74, b"\0\1\0\0\0\x17"), HEAD)
    talk.taken_server()
    talk.taken_client()
    talk.client(extended(None, b"7", name="s"))
    assert talk.taken_server() == build_sync()
    assert talk.taken_client() == BOUND + HEAD + BODY
    assert desk_of(talk).hits == 1
    talk.server(ready())
    assert talk.taken_client() == ready()
    talk.client(extended(None, b"7", name="s"))
    assert talk.taken_server() == b""
    assert talk.taken_client() == BOUND + HEAD + BODY + ready()
    assert desk_of(talk).hits == 2


def test_a_query_in_a_batch_that_has_begun_goes_to_the_server() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_parse("s", EXTENDED, (23,)), build_flush())
    talk.server(PARSED)
    talk.taken_server()
    talk.client(build_query(READ))
    assert talk.taken_server() == build_query(READ)


def test_nothing_is_answered_while_the_server_skips() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_bind("", "nobody"), build_flush())
    talk.server(error("26000"))
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 0
    assert talk.to_server.endswith(build_query(READ))


def test_nothing_is_put_into_the_middle_of_a_message_of_the_server() -> None:
    talk = gated()
    warm(talk)
    talk.server(NOTIFICATION[:9])
    talk.client(build_query(READ))
    assert talk.taken_client() == NOTIFICATION[:9]
    assert talk.taken_server() == build_query(READ)
    talk.server(NOTIFICATION[9:], HEAD, BODY, ready())
    assert talk.taken_client() == NOTIFICATION[9:] + HEAD + BODY + ready()


def test_nothing_is_put_into_a_message_that_began_while_the_cache_was_asked() -> None:
    talk = gated(later=True)
    talk.client(build_query(READ))
    talk.tell()
    talk.server(HEAD, BODY, ready())
    talk.client(build_query(READ))
    talk.server(NOTIFICATION[:9])
    talk.taken_server()
    talk.taken_client()
    talk.tell()
    assert talk.taken_client() == b""
    assert talk.taken_server() == build_query(READ)
    talk.server(NOTIFICATION[9:])
    talk.server(HEAD, BODY, ready())
    assert talk.taken_client() == NOTIFICATION[9:] + HEAD + BODY + ready()


def test_an_answer_for_settings_that_changed_while_the_cache_was_asked_is_not_used() -> None:
    talk = gated(later=True)
    talk.client(build_query(READ))
    talk.tell()
    talk.server(HEAD, BODY, ready())
    talk.client(build_query(READ))
    talk.server(parameter_status("TimeZone", "CET"))
    talk.taken_server()
    talk.tell()
    assert talk.taken_server() == build_query(READ)
    entries = len(desk_of(talk).entries)
    talk.server(HEAD, data_row("other zone"), complete("SELECT 1"), ready())
    assert len(desk_of(talk).entries) == entries


def test_nothing_is_answered_after_the_server_said_goodbye() -> None:
    talk = gated()
    warm(talk)
    talk.server(error("57P01", "FATAL"))
    talk.taken_client()
    talk.client(build_query(READ))
    assert talk.taken_client() == b""
    assert talk.taken_server() == build_query(READ)


@pytest.mark.parametrize(
    "message",
    [
        build_query(READ + "; " + READ),
        build_query("SELECT name FROM elsewhere"),
        build_query(READ + " FOR UPDATE"),
        extended(EXTENDED, b"7", name="named"),
        extended(EXTENDED, b"7", sync=False) + build_flush(),
        build_parse("", EXTENDED) + build_bind("portal", "", (b"7",)) + build_execute("portal") + build_sync(),
        build_parse("", EXTENDED)
        + build_describe("S", "")
        + build_bind("", "", (b"7",))
        + build_execute("")
        + build_sync(),
        build_parse("", EXTENDED)
        + build_bind("", "", (b"7",))
        + build_describe("S", "")
        + build_execute("")
        + build_sync(),
        build_parse("", EXTENDED) + build_bind("", "", (b"7",)) + build_execute("")[:-1] + b"\0\0" + build_sync(),
        extended(EXTENDED, b"7", sync=False) + build_frame(0x53, b"?"),
        build_parse("", READ + ";" + READ) + extended(None),
    ],
)
def test_what_is_no_cycle_goes_on_at_once_and_as_it_is(message: bytes) -> None:
    talk = gated()
    talk.client(message)
    assert talk.to_server == message
    assert desk_of(talk).asks == 0
    assert isinstance(talk.session, GatedSession)
    assert not talk.session.holding


# --- cycles that are not whole ---


def test_the_beginning_of_a_cycle_is_held_until_the_rest_comes() -> None:
    talk = gated()
    reply = warm_extended(talk)
    session = talk.session
    assert isinstance(session, GatedSession)
    for message in (OWED, build_bind("", "", (b"7",)), build_describe("P", ""), build_execute("")):
        talk.client(message)
        assert session.holding
        assert talk.to_server == b""
    talk.client(build_sync())
    assert not session.holding
    assert talk.to_server == b""
    assert talk.to_client == reply


def test_what_is_held_goes_on_when_the_rest_does_not_come() -> None:
    talk = gated()
    session = talk.session
    assert isinstance(session, GatedSession)
    talk.client(build_parse("", EXTENDED), build_bind("", "", (b"7",)))
    assert session.holding
    talk.release()
    assert not session.holding
    assert talk.taken_server() == build_parse("", EXTENDED) + build_bind("", "", (b"7",))
    talk.client(build_execute(""), build_sync())
    assert talk.taken_server() == build_execute("") + build_sync()
    talk.release()
    talk.server(PARSED, BOUND, BODY, ready())
    assert session.trouble == ""
    assert talk.to_client == PARSED + BOUND + BODY + ready()


def test_what_is_held_goes_on_when_it_is_no_cycle_after_all() -> None:
    talk = gated()
    session = talk.session
    assert isinstance(session, GatedSession)
    talk.client(build_parse("", EXTENDED), build_bind("", "", (b"7",)))
    assert session.holding
    talk.client(build_flush())
    assert not session.holding
    assert talk.to_server == build_parse("", EXTENDED) + build_bind("", "", (b"7",)) + build_flush()


def test_what_cannot_be_cached_is_not_held() -> None:
    talk = gated()
    message = build_parse("", "SELECT * FROM elsewhere WHERE id = $1")
    talk.client(message)
    assert talk.to_server == message


# --- debts ---


def test_a_bind_to_a_statement_that_was_answered_here_gets_its_parse() -> None:
    talk = owing_parse()
    message = build_bind("", "", (b"9",)) + build_execute("", 5) + build_flush() + build_sync()
    talk.client(message)
    assert talk.taken_server() == OWED + message
    talk.server(PARSED, BOUND, data_row("Bob"), complete("SELECT 1"), ready())
    assert talk.taken_client() == BOUND + data_row("Bob") + complete("SELECT 1") + ready()
    assert talk.ends() == [(EXTENDED, "complete", "SELECT 1")]
    talk.client(message)
    assert talk.taken_server() == message


@pytest.mark.parametrize("at", range(1, 30, 3))
def test_what_is_swallowed_is_swallowed_in_any_cut(at: int) -> None:
    talk = owing_parse()
    talk.client(build_bind("", "", (b"9",)), build_execute(""), build_flush(), build_sync())
    reply = PARSED + BOUND + data_row("Bob") + complete("SELECT 1") + ready()
    talk.server_chunks([reply[:at], reply[at:]])
    assert talk.taken_client() == reply[len(PARSED) :]


def test_a_describe_of_a_statement_that_was_answered_here_gets_its_parse() -> None:
    talk = owing_parse()
    talk.client(build_describe("S", ""), build_sync())
    assert talk.taken_server() == OWED + build_describe("S", "") + build_sync()


def test_an_owed_parse_that_fails_tells_the_client_so() -> None:
    talk = owing_parse()
    talk.client(build_bind("", "", (b"9",)), build_execute(""), build_flush(), build_sync())
    talk.server(error("42P01"), ready())
    assert talk.taken_client() == error("42P01") + ready()
    assert talk.session.trouble == ""


@pytest.mark.parametrize(
    "message",
    [build_parse("", "SELECT 2"), build_close("S", ""), build_query("SELECT 2")],
    ids=["Parse", "Close", "Query"],
)
@pytest.mark.parametrize("owing", [owing_parse, owing_close])
def test_a_debt_is_forgotten_when_the_unnamed_statement_is_made_anew(owing: object, message: bytes) -> None:
    assert callable(owing)
    talk = owing()
    talk.client(message)
    assert talk.taken_server() == message
    after = build_bind("", "") + build_sync()
    talk.client(after)
    assert talk.taken_server() == after


def test_after_a_query_that_was_answered_here_the_unnamed_statement_is_gone() -> None:
    talk = owing_close()
    message = build_bind("", "") + build_execute("") + build_sync()
    talk.client(message)
    assert talk.taken_server() == build_close("S", "") + message
    talk.server(CLOSED, error("26000"), ready())
    assert talk.taken_client() == error("26000") + ready()
    assert talk.session.trouble == ""
    assert talk.ends() == [("", "skipped", "")]


def test_a_debt_is_not_lost_in_a_batch_that_fails() -> None:
    """Otherwise the second batch would run what the server last had under that name."""
    talk = owing_parse()
    first = build_bind("", "nobody") + build_bind("", "", (b"9",)) + build_execute("") + build_sync()
    second = build_bind("", "", (b"9",)) + build_execute("", 3) + build_flush() + build_sync()
    talk.client(first, second)
    sent = talk.taken_server()
    assert sent.count(OWED) == 1
    assert sent.replace(OWED, b"") == first + second
    assert sent.index(OWED) == 0  # nothing stands before it that could fail
    talk.server(PARSED, error("26000"), ready(), BOUND, BODY, ready())
    assert talk.taken_client() == error("26000") + ready() + BOUND + BODY + ready()
    assert talk.session.trouble == ""


def test_messages_that_do_not_touch_the_unnamed_statement_leave_the_debt() -> None:
    talk = owing_parse()
    talk.client(build_sync(), FUNCTION_CALL)
    assert talk.taken_server() == build_sync() + FUNCTION_CALL
    talk.server(ready(), FUNCTION_RESULT, ready())
    talk.client(build_bind("", ""), build_sync())
    assert talk.taken_server() == OWED + build_bind("", "") + build_sync()


# --- capture ---


@pytest.mark.parametrize(
    "reply",
    [
        PARSED + BOUND + HEAD + NOTICE + BODY + ready(),
        PARSED + BOUND + NOTICE + HEAD + BODY + ready(),
        PARSED + BOUND + HEAD + BODY + NOTICE + ready(),
        PARSED + BOUND + HEAD + BODY + parameter_status("TimeZone", "CET") + ready(),
        PARSED + BOUND + HEAD + data_row("Ada") + error("57014") + ready(),
        PARSED + error("42P01") + ready(),
        PARSED + BOUND + NO_DATA + complete("SELECT 0") + ready(),
        PARSED + BOUND + HEAD + data_row("Ada") + complete("FETCH 1") + ready(),
        PARSED + BOUND + HEAD + BODY + ready("T"),
        PARSED + BOUND + HEAD + BODY + error("40001") + ready(),
        PARSED + BOUND + HEAD + data_row("x" * (1 << 20)) + complete("SELECT 1") + ready(),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_an_unusual_answer_is_not_stored(reply: bytes, bytewise: bool) -> None:
    if bytewise and len(reply) > 10_000:
        chunks = [reply[at : at + 50_000] for at in range(0, len(reply), 50_000)]
    else:
        chunks = [reply[at : at + 1] for at in range(len(reply))] if bytewise else [reply]
    talk = gated()
    talk.client(extended(EXTENDED, b"7"))
    talk.server_chunks(chunks)
    assert talk.to_client == reply
    assert desk_of(talk).entries == {}
    assert not [action for action in desk_of(talk).log if isinstance(action, Fill)]
    assert talk.session.trouble == ""


def test_an_answer_over_the_limit_is_not_stored() -> None:
    for limit, stored in ((len(HEAD + BODY), 1), (len(HEAD + BODY) - 1, 0)):
        talk = gated()
        desk_of(talk).limit_bytes = limit
        talk.client(build_query(READ))
        talk.server(HEAD, BODY, ready())
        assert len(desk_of(talk).entries) == stored


def test_what_is_stored_is_the_description_and_the_rows_with_their_tag() -> None:
    talk = gated()
    warm_extended(talk)
    (fill,) = [action for action in desk_of(talk).log if isinstance(action, Fill)]
    assert (fill.capture.row_description, b"".join(fill.capture.body), fill.capture.rows) == (HEAD, BODY, 1)
    assert fill.server_s == 1.0


# --- context ---


@pytest.mark.parametrize(
    ("query", "tag"),
    [("SET search_path = a", "SET"), ("SET ROLE reader", "SET"), ("SET app.tenant = '1'", "SET")],
)
def test_a_setting_of_the_session_is_another_question(query: str, tag: str) -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query(query))
    talk.server(complete(tag), ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (2, 0)
    talk.server(HEAD, data_row("Bob"), complete("SELECT 1"), ready())
    talk.client(build_query("DISCARD ALL"))
    talk.server(complete("DISCARD ALL"), ready())
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1


def test_a_setting_counts_only_if_its_transaction_was_committed() -> None:
    for query in ("SET LOCAL search_path = a", "SET search_path = a"):
        talk = gated()
        warm(talk)
        for each, tag, status in (("BEGIN", "BEGIN", "T"), (query, "SET", "T"), ("ROLLBACK", "ROLLBACK", "I")):
            talk.client(build_query(each))
            talk.server(complete(tag), ready(status))
        talk.client(build_query(READ))
        assert desk_of(talk).hits == 1


def test_a_setting_that_was_committed_before_an_error_of_the_same_query_counts() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("SET search_path = a; COMMIT; SELECT 1/0"))
    talk.server(complete("SET"), complete("COMMIT"), error("22012"), ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (2, 0)


def test_a_setting_in_a_query_that_fails_does_not_count() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("SET search_path = a; SELECT 1/0"))
    talk.server(complete("SET"), error("22012"), ready())
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1


@pytest.mark.parametrize(
    ("query", "tag"),
    [
        ("SELECT f()", "SELECT 1"),
        ("DO $$ BEGIN END $$", "DO"),
        ("CALL p()", "CALL"),
        ("CREATE TEMP TABLE author (id int)", "CREATE TABLE"),
        ("EXECUTE plan", "SELECT 1"),
        ("SELECT set_config('search_path', 'a' || 'b', false)", "SELECT 1"),
    ],
)
def test_a_session_in_which_anything_may_have_happened_is_not_answered(query: str, tag: str) -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query(query))
    talk.server(complete(tag), ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (1, 0)
    talk.server(HEAD, BODY, ready())
    talk.client(build_query("DISCARD ALL"))
    talk.server(complete("DISCARD ALL"), ready())
    warm(talk)
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1


@pytest.mark.parametrize("limits", [[1], [1, 0], [1, 1, 1]])
def test_a_statement_with_unknown_effects_counts_also_if_it_is_never_fetched_to_its_end(limits: list[int]) -> None:
    talk = gated()
    warm(talk)
    query = "SELECT set_config('search_path', 'a' || 'b', false)"
    talk.client(
        build_parse("", query), build_bind("", ""), *[build_execute("", limit) for limit in limits], build_sync()
    )
    replies = [data_row("a") + SUSPENDED if limit else complete("SELECT 0") for limit in limits]
    talk.server(PARSED, BOUND, *replies, ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (1, 0)


def test_a_procedure_that_committed_and_failed_counts_as_well() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("CALL p()"))
    talk.server(error("P0001"), ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (1, 0)


def test_a_function_that_failed_has_done_nothing() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query("SELECT f()"))
    talk.server(error("P0001"), ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (2, 0)  # it might have written


def test_a_function_called_by_the_fast_path_costs_the_trust() -> None:
    talk = gated()
    warm(talk)
    talk.client(FUNCTION_CALL)
    talk.server(FUNCTION_RESULT, ready())
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (1, 0)


def test_what_the_server_reports_is_part_of_the_question() -> None:
    talk = gated()
    warm(talk)
    talk.server(parameter_status("DateStyle", "German"))
    talk.client(build_query(READ))
    assert (desk_of(talk).asks, desk_of(talk).hits) == (2, 0)


def test_statements_with_unknown_effects_are_not_remembered_for_ever() -> None:
    talk = gated()
    talk.client(build_bind("", "nobody"), build_flush())
    talk.server(error("26000"))
    for _ in range(50):
        talk.client(build_execute(""))
    talk.client(build_sync())
    talk.server(ready())
    assert talk.session.observer.unknown_effect == set()


# --- writes ---


def extended_write(sync: bool = True) -> bytes:
    return extended("UPDATE author SET name = $1", b"x", describe=False, sync=sync)


@pytest.mark.parametrize("bytewise", [False, True])
def test_no_byte_of_a_write_goes_on_before_its_tables_are_marked(bytewise: bool) -> None:
    talk = gated(later=True, bytewise=bytewise)
    talk.client(build_query(WRITE), build_query("SELECT 1"))
    assert talk.to_server == b""
    (begin,) = desk_of(talk).waiting
    assert begin == BeginWrite(frozenset({"author"}), None)
    assert talk.session.frontend_blocked
    talk.tell()
    assert talk.to_server == build_query(WRITE) + build_query("SELECT 1")
    assert not talk.session.frontend_blocked


def test_an_execute_waits_and_what_stands_before_it_does_not() -> None:
    talk = gated(later=True)
    message = extended_write()
    talk.client(message)
    execute = message.index(build_execute(""))
    assert talk.to_server == message[:execute]
    talk.tell()
    assert talk.to_server == message


@pytest.mark.parametrize("bytewise", [False, True])
def test_the_client_does_not_see_the_end_of_its_write_before_it_is_unmarked(bytewise: bool) -> None:
    talk = gated(later=True, bytewise=bytewise)
    talk.client(build_query(WRITE))
    talk.tell()
    talk.server(complete("UPDATE 1"), ready(), NOTICE)
    assert talk.to_client == complete("UPDATE 1")
    (end,) = desk_of(talk).waiting
    assert isinstance(end, EndWrite)
    assert (end.again, end.lost) == (False, False)
    assert talk.session.backend_blocked
    talk.tell()
    assert talk.to_client == complete("UPDATE 1") + ready() + NOTICE
    assert not talk.session.backend_blocked
    assert desk_of(talk).open_marks == []
    assert desk_of(talk).waiting == []


def test_a_mark_stays_until_the_end_of_the_transaction_block() -> None:
    talk = gated()
    warm(talk)
    for query, tag, status in (("BEGIN", "BEGIN", "T"), (WRITE, "UPDATE 1", "T"), (READ, "SELECT 0", "T")):
        talk.client(build_query(query))
        talk.server(complete(tag), ready(status))
    assert len(desk_of(talk).open_marks) == 1
    talk.client(build_query("UPDATE post SET body = 'x'"))
    talk.server(complete("UPDATE 1"), ready("T"))
    (mark,) = desk_of(talk).open_marks
    assert mark.tables == frozenset({"author", "post"})
    talk.client(build_query("COMMIT"))
    assert len(desk_of(talk).open_marks) == 1
    talk.server(complete("COMMIT"), ready("I"))
    assert desk_of(talk).open_marks == []
    assert desk_of(talk).entries == {}
    hits = desk_of(talk).hits
    talk.client(build_query(READ))
    assert desk_of(talk).hits == hits


def test_a_table_that_is_marked_already_is_not_marked_again() -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    for _ in range(3):
        talk.client(build_query(WRITE))
        talk.server(complete("UPDATE 1"), ready("T"))
    assert len([action for action in desk_of(talk).log if isinstance(action, BeginWrite)]) == 1


@pytest.mark.parametrize("status", ["T", "I"])
def test_a_write_that_failed_is_ended_as_well(status: str) -> None:
    talk = gated()
    talk.client(build_query(WRITE))
    talk.server(error("23505"), ready())
    assert desk_of(talk).open_marks == []


def test_pipelined_writes_renew_the_mark() -> None:
    talk = gated(later=True)
    talk.client(extended_write(), extended_write())
    talk.tell()
    assert talk.to_server == extended_write() * 2
    reply = PARSED + BOUND + complete("UPDATE 1") + ready()
    talk.server(reply, reply)
    first = desk_of(talk).waiting[0]
    assert isinstance(first, EndWrite)
    assert first.again
    assert first.tables == frozenset({"author"})
    assert talk.to_client == reply[: -len(ready())]
    talk.tell()
    assert talk.to_client == reply + reply[: -len(ready())]
    assert len(desk_of(talk).open_marks) == 1
    last = desk_of(talk).waiting[0]
    assert isinstance(last, EndWrite)
    assert not last.again
    talk.tell()
    assert talk.to_client == reply + reply
    assert desk_of(talk).open_marks == []


def test_a_ready_for_query_that_passes_while_the_next_write_waits_leaves_the_mark_on() -> None:
    talk = gated(later=True)
    talk.client(build_query(WRITE), build_query("UPDATE post SET body = 'x'"))
    talk.tell()
    assert talk.to_server == build_query(WRITE)
    talk.server(complete("UPDATE 1"), ready())
    assert len(desk_of(talk).open_marks) == 1
    talk.tell()
    talk.server(complete("UPDATE 1"), ready())
    while desk_of(talk).waiting:
        talk.tell()
    assert talk.to_server == build_query(WRITE) + build_query("UPDATE post SET body = 'x'")
    assert talk.to_client == (complete("UPDATE 1") + ready()) * 2
    assert desk_of(talk).open_marks == []


def test_what_the_client_sends_while_its_write_is_unmarked_waits() -> None:
    talk = gated(later=True)
    talk.client(build_query(WRITE))
    talk.tell()
    talk.server(complete("UPDATE 1"), ready())
    talk.taken_server()
    talk.client(build_query(WRITE), build_query(READ))
    assert talk.to_server == b""
    talk.tell()
    assert talk.to_server == b""
    assert isinstance(desk_of(talk).waiting[0], BeginWrite)
    talk.tell()
    assert talk.to_server == build_query(WRITE) + build_query(READ)


@pytest.mark.parametrize(
    "message",
    [
        build_query("SELECT f()"),
        build_query("DO $$ BEGIN END $$"),
        build_query("SELECT 1; " + WRITE + "; TRUNCATE a CASCADE"),
        FUNCTION_CALL,
        extended(None, name="prepared by nobody"),
        build_execute("nobody"),
        build_frame(0x51, b"no terminator"),
        build_frame(0x45, b"x"),
    ],
)
def test_what_may_write_anything_marks_everything(message: bytes) -> None:
    talk = gated(later=True)
    talk.client(message)
    (begin,) = desk_of(talk).waiting
    assert begin == BeginWrite(None, None)


@pytest.mark.parametrize("query", ["", "-- ping", ";"])
def test_an_empty_query_marks_nothing(query: str) -> None:
    talk = gated()
    warm(talk)
    talk.client(extended(query))
    talk.server(PARSED, BOUND, NO_DATA, EMPTY, ready())
    talk.client(build_query(query))
    talk.server(EMPTY, ready())
    assert desk_of(talk).marks == []
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1


def test_an_oversized_write_waits_as_well() -> None:
    talk = gated(later=True)
    data = build_query("INSERT INTO author VALUES ('" + "x" * (1 << 20) + "')")
    talk.client_chunks([data[:1000], data[1000:]])
    assert talk.to_server == b""
    assert desk_of(talk).waiting == [BeginWrite(None, None)]
    talk.tell()
    assert talk.to_server == data
    talk.server(complete("INSERT 0 1"), ready())
    talk.tell()
    assert talk.to_client == complete("INSERT 0 1") + ready()


def test_copied_data_is_a_write() -> None:
    talk = gated()
    talk.client(build_query("COPY author FROM STDIN"), copy_data(b"1\n") * 3, COPY_DONE)
    (mark,) = desk_of(talk).open_marks
    assert mark.tables == frozenset({"author"})
    talk.server(COPY_IN)
    assert mark.open
    talk.server(complete("COPY 3"), ready())
    assert not mark.open
    assert talk.to_server == build_query("COPY author FROM STDIN") + copy_data(b"1\n") * 3 + COPY_DONE
    assert talk.to_client == COPY_IN + complete("COPY 3") + ready()


def test_a_read_behind_a_write_is_answered_only_after_the_write_is_unmarked() -> None:
    talk = gated()
    warm(talk)
    talk.client(build_query(WRITE), build_query(READ))
    assert desk_of(talk).hits == 0
    talk.server(complete("UPDATE 1"), ready(), HEAD, data_row("x"), complete("SELECT 1"), ready())
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 0
    talk.server(HEAD, data_row("x"), complete("SELECT 1"), ready())
    talk.taken_client()
    talk.client(build_query(READ))
    assert desk_of(talk).hits == 1
    assert talk.taken_client() == HEAD + data_row("x") + complete("SELECT 1") + ready()


# --- ends ---


def test_a_session_that_ends_with_a_mark_loses_it() -> None:
    talk = gated()
    talk.client(build_query(WRITE))
    talk.close()
    end = desk_of(talk).log[-1]
    assert isinstance(end, EndWrite)
    assert end.lost
    assert desk_of(talk).open_marks == []
    assert talk.ends() == [(WRITE, "lost", "")]


@pytest.mark.parametrize("failed", [False, True])
def test_a_session_that_ends_in_an_open_transaction_has_surely_rolled_back(failed: bool) -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_query(WRITE))
    talk.server(*((error("23505"), ready("E")) if failed else (complete("UPDATE 1"), ready("T"))))
    talk.client(build_terminate())
    talk.close()
    end = desk_of(talk).log[-1]
    assert isinstance(end, EndWrite)
    assert (end.lost, end.again, end.refused) == (False, False, False)
    assert desk_of(talk).open_marks == []


@pytest.mark.parametrize("message", [build_query("COMMIT"), build_parse("", "COMMIT") + build_bind("", "")])
def test_a_session_that_ends_with_something_unanswered_in_its_transaction_loses_its_mark(message: bytes) -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_query(WRITE))
    talk.server(complete("UPDATE 1"), ready("T"))
    talk.client(message)
    talk.close()
    end = desk_of(talk).log[-1]
    assert isinstance(end, EndWrite)
    assert end.lost
    assert desk_of(talk).open_marks == []


@pytest.mark.parametrize("again", [False, True])
def test_a_session_closed_while_it_waits_leaves_no_mark(again: bool) -> None:
    message = extended_write() * (2 if again else 1)
    for steps in range(3):
        talk = gated(later=True)
        talk.client(message)
        if steps > 0:
            talk.tell()
            talk.server(PARSED, BOUND, complete("UPDATE 1"), ready())
        if steps > 1:
            talk.tell()
        talk.close()
        while desk_of(talk).waiting:
            talk.tell()
        assert desk_of(talk).open_marks == []


def test_an_answer_for_a_session_that_is_gone_is_dropped() -> None:
    talk = gated(later=True)
    talk.client(build_query(READ))
    talk.close()
    talk.tell()
    assert talk.to_client == b""
    assert talk.session.actions == []


def test_terminate_goes_on() -> None:
    talk = gated()
    talk.client(build_terminate())
    assert talk.to_server == build_terminate()


@pytest.mark.parametrize("waits", [False, True])
def test_a_session_that_lost_track_marks_everything_until_it_ends(waits: bool) -> None:
    talk = gated(later=waits)
    talk.server(ready())
    assert talk.session.phase == Phase.OPAQUE
    if waits:
        talk.tell()
    (mark,) = desk_of(talk).open_marks
    assert mark.tables is None
    talk.client(b"any", b"thing")
    talk.server(b"goes")
    assert (talk.to_server, talk.to_client) == (b"anything", ready() + b"goes")
    talk.close()
    while desk_of(talk).waiting:
        talk.tell()
    assert desk_of(talk).open_marks == []


@pytest.mark.parametrize("moment", ["asking", "marking", "unmarking"])
def test_losing_track_while_something_is_awaited_loses_no_byte_and_no_mark(moment: str) -> None:
    talk = gated(later=True)
    sent = build_query(READ if moment == "asking" else WRITE)
    talk.client(sent)
    shown = b""
    if moment == "unmarking":
        talk.tell()
        shown = complete("UPDATE 1") + ready()
        talk.server(shown)
    more = build_query("SELECT 2") + b"Q\0\0"
    talk.client(more)
    talk.session.lose_track("a fault of the test")
    talk.run()
    assert talk.to_server == sent + more
    assert talk.to_client == shown
    while desk_of(talk).waiting:
        talk.tell()
    assert len(desk_of(talk).open_marks) == 1
    talk.close()
    while desk_of(talk).waiting:
        talk.tell()
    assert desk_of(talk).open_marks == []
    assert (talk.to_server, talk.to_client) == (sent + more, shown)


@pytest.mark.parametrize("at", range(1, 40, 4))
def test_losing_track_by_the_server_loses_and_doubles_nothing(at: int) -> None:
    talk = gated()
    talk.client(build_query(WRITE))  # so that the backend is looked at first
    data = complete("UPDATE 1") + b"Z" + bytes(4) + b"nonsense and more of it"
    talk.server_chunks([data[:at], data[at:], b"end"])
    assert talk.session.phase == Phase.OPAQUE
    assert talk.to_client == data + b"end"
