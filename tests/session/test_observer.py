"""Attribution: which statement a reply belongs to, whatever the cuts, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from struct import pack

import pytest

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
from pgloupe_rules.types import Outcome
from support.conversation import (
    BOUND,
    CLOSED,
    COPY_BOTH,
    COPY_DONE,
    COPY_FAIL,
    COPY_IN,
    COPY_OUT,
    EMPTY,
    FUNCTION_CALL,
    FUNCTION_RESULT,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARSED,
    SUSPENDED,
    Conversation,
    complete,
    copy_data,
    data_row,
    error,
    extended,
    parameter_description,
    parameter_status,
    plain,
    ready,
    row_description,
)


@pytest.fixture(params=[False, True], ids=["whole", "byte_by_byte"])
def talk(request: pytest.FixtureRequest) -> Conversation:
    return plain(bytewise=request.param)


def on_track(talk: Conversation) -> None:
    """Nothing is outstanding, and the next query is attributed as any other."""
    assert talk.session.trouble == ""
    assert talk.session.idle
    talk.ends()
    talk.client(build_query("SELECT 'still here'"))
    talk.server(row_description("a"), data_row("b"), complete("SELECT 1"), ready())
    assert talk.ends() == [("SELECT 'still here'", "complete", "SELECT 1")]
    assert talk.session.idle


# --- simple query ---


def test_a_simple_query(talk: Conversation) -> None:
    talk.client(build_query("SELECT id, name FROM author WHERE id < 3"))
    rows = data_row("1", "Ada") + data_row("2", None)
    talk.server(row_description("id", "name", oid=25), rows, complete("SELECT 2"), ready())
    (outcome,) = talk.outcomes
    assert outcome.status == "complete"
    assert outcome.rows == 2
    assert outcome.bytes == len(rows) + len(complete("SELECT 2"))
    assert [column.name for column in outcome.columns] == ["id", "name"]
    assert outcome.column_values() == ((1, 2), ("Ada", None))
    assert outcome.cache == ""
    statement = outcome.statement
    assert statement.simple
    assert statement.values() == (3,)
    assert (statement.sequence, statement.serial, statement.status) == (1, True, "I")
    assert (statement.transaction, statement.position) == (0, 0)
    on_track(talk)


def test_times_are_those_of_the_owner_s_clock() -> None:
    talk = plain()
    session = talk.session
    session.receive_frontend(build_query("SELECT 1"), 10.0)
    session.analyse(10.25)
    session.receive_backend(row_description("a") + data_row("1") + complete("SELECT 1"), 13.25)
    session.analyse(13.75)
    (outcome,) = session.take_outcomes()
    assert outcome.statement.received_s == 10.0
    assert (outcome.dispatched_s, outcome.finished_s) == (10.25, 13.25)
    assert (outcome.server_s, outcome.proxy_s) == (3.0, 0.75)
    assert session.take_outcomes() == []


def test_a_query_of_several_statements_is_one_batch(talk: Conversation) -> None:
    talk.client(build_query("INSERT INTO a VALUES (1); SELECT * FROM a; UPDATE a SET b = 2"))
    talk.server(complete("INSERT 0 1"), row_description("b"), data_row("1"), data_row("2"), complete("SELECT 2"))
    talk.server(complete("UPDATE 5"), ready())
    assert [outcome.rows for outcome in talk.outcomes] == [1, 2, 5]
    assert [outcome.column_values() for outcome in talk.outcomes] == [(), ((1, 2),), ()]
    statements = [outcome.statement for outcome in talk.outcomes]
    assert len({statement.batch for statement in statements}) == 1
    assert [statement.serial for statement in statements] == [True, False, False]
    assert [statement.sequence for statement in statements] == [1, 2, 3]
    assert statements[0].query_string == statements[2].query_string
    on_track(talk)
    assert talk.session.info.session == 1


def test_a_client_that_waits_gets_a_new_batch_for_each_statement(talk: Conversation) -> None:
    for _ in range(3):
        talk.client(build_query("SELECT 1"))
        talk.server(row_description("a"), data_row("1"), complete("SELECT 1"), ready())
    assert len({outcome.statement.batch for outcome in talk.outcomes}) == 3
    assert all(outcome.statement.serial for outcome in talk.outcomes)


def test_an_error_in_a_query_of_several_statements_skips_those_behind_it(talk: Conversation) -> None:
    talk.client(build_query("SELECT 1; SELECT 1/0; SELECT 3"))
    talk.server(row_description("a"), data_row("1"), complete("SELECT 1"), error("22012"), ready())
    assert talk.ends() == [
        ("SELECT 1", "complete", "SELECT 1"),
        ("SELECT 1/0", "error", "22012"),
        ("SELECT 3", "skipped", ""),
    ]
    on_track(talk)


def test_an_empty_query_is_no_statement(talk: Conversation) -> None:
    talk.client(build_query(" -- nothing"))
    talk.server(EMPTY, ready())
    assert talk.ends() == []
    on_track(talk)


def test_a_statement_that_the_server_passed_over_is_not_left_without_an_outcome(talk: Conversation) -> None:
    talk.client(build_query("SELECT 1; SELECT 2"))
    talk.server(row_description("a"), data_row("1"), complete("SELECT 1"), ready())
    assert [status for _, status, _ in talk.ends()] == ["complete", "lost"]
    on_track(talk)


def test_more_results_than_statements_do_no_harm(talk: Conversation) -> None:
    talk.client(build_query("SELECT 1"))
    talk.server(complete("SELECT 0"), complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]
    on_track(talk)


# --- extended query ---


def test_an_extended_query_with_text_parameters(talk: Conversation) -> None:
    talk.client(extended("SELECT * FROM author WHERE id = $1 AND name = $2", b"7", b"Ada", oids=(23, 25)))
    talk.server(PARSED, BOUND, row_description("id", oid=23), data_row("7"), complete("SELECT 1"), ready())
    (outcome,) = talk.outcomes
    assert outcome.status == "complete"
    assert outcome.column_values() == ((7,),)
    assert [column.type_oid for column in outcome.columns] == [23]
    assert not outcome.statement.simple
    assert outcome.statement.values() == (7, "Ada")
    assert outcome.statement.prepared_name == ""
    on_track(talk)


def test_binary_parameters_and_results_are_decoded_by_their_types(talk: Conversation) -> None:
    talk.client(
        build_parse("s", "SELECT * FROM item WHERE id = $1 AND price > $2"), build_describe("S", "s"), build_sync()
    )
    talk.server(PARSED, parameter_description(23, 1700), row_description("id", oid=20), ready())
    bind = build_bind("", "s", (pack("!i", 7), b"1.50"), (1, 0), (1,))
    talk.client(bind, build_execute(""), build_sync())
    talk.server(BOUND, data_row(pack("!q", 9)), complete("SELECT 1"), ready())
    (outcome,) = talk.outcomes
    assert outcome.statement.values() == (7, Decimal("1.50"))
    assert outcome.statement.prepared_name == "s"
    assert outcome.column_values() == ((9,),)
    on_track(talk)


def test_several_executes_of_one_prepared_statement_in_one_batch(talk: Conversation) -> None:
    talk.client(
        build_parse("s", "SELECT name FROM author WHERE id = $1", (23,)),
        build_describe("S", "s"),
        *[build_bind("", "s", (str(n).encode(),)) + build_execute("") for n in range(3)],
        build_sync(),
    )
    talk.server(PARSED, parameter_description(23), row_description("name"))
    talk.server(*[BOUND + data_row(f"n{n}") + complete("SELECT 1") for n in range(3)], ready())
    assert [outcome.statement.values() for outcome in talk.outcomes] == [(0,), (1,), (2,)]
    assert [outcome.column_values() for outcome in talk.outcomes] == [(("n0",),), (("n1",),), (("n2",),)]
    assert len({outcome.statement.batch for outcome in talk.outcomes}) == 1
    assert [outcome.statement.serial for outcome in talk.outcomes] == [True, False, False]
    on_track(talk)


def test_pipelined_batches_that_each_end_with_sync(talk: Conversation) -> None:
    talk.client(*[extended(f"SELECT * FROM t{n} WHERE id = $1", b"%d" % n) for n in range(3)])
    for n in range(3):
        talk.server(PARSED, BOUND, row_description("id"), data_row(str(n)), complete("SELECT 1"), ready())
    assert [outcome.statement.template.text[:16] for outcome in talk.outcomes] == [
        "SELECT * FROM t0",
        "SELECT * FROM t1",
        "SELECT * FROM t2",
    ]
    assert [outcome.column_values() for outcome in talk.outcomes] == [((0,),), ((1,),), ((2,),)]
    assert len({outcome.statement.batch for outcome in talk.outcomes}) == 1
    on_track(talk)


def test_a_bind_survives_the_ready_for_query_of_the_batch_before_it(talk: Conversation) -> None:
    talk.client(extended("SELECT 1", describe=False), build_parse("", "SELECT 2"), build_bind("", ""))
    talk.server(PARSED, BOUND, data_row("1"), complete("SELECT 1"), ready())
    talk.client(build_execute(""), build_sync())
    talk.server(PARSED, BOUND, data_row("2"), complete("SELECT 1"), ready())
    assert [end[0] for end in talk.ends()] == ["SELECT 1", "SELECT 2"]
    on_track(talk)


def test_a_portal_does_not_outlive_its_transaction(talk: Conversation) -> None:
    talk.client(build_parse("", "SELECT 1"), build_bind("p", ""), build_sync())
    talk.server(PARSED, BOUND, ready())
    talk.client(build_execute("p"), build_sync())
    talk.server(error("34000"), ready())
    assert talk.ends() == [("", "error", "34000")]
    on_track(talk)


def test_the_time_of_earlier_statements_of_a_pipeline_is_not_counted_again() -> None:
    talk = plain()
    session = talk.session
    session.receive_frontend(extended("SELECT 1", describe=False) + extended("SELECT 2", describe=False), 10.0)
    session.analyse(10.0)
    session.receive_backend(PARSED + BOUND + complete("SELECT 0") + ready(), 14.0)
    session.analyse(14.0)
    session.receive_backend(PARSED + BOUND + complete("SELECT 0") + ready(), 15.0)
    session.analyse(15.0)
    assert [outcome.server_s for outcome in session.take_outcomes()] == [4.0, 1.0]


def test_an_error_skips_everything_up_to_sync(talk: Conversation) -> None:
    talk.client(extended("SELECT 1", sync=False), extended("SELECT 1/0", sync=False), extended("SELECT 3"))
    talk.server(PARSED, BOUND, row_description("a"), data_row("1"), complete("SELECT 1"))
    talk.server(PARSED, BOUND, row_description("a"), error("22012"), ready())
    assert talk.ends() == [
        ("SELECT 1", "complete", "SELECT 1"),
        ("SELECT 1/0", "error", "22012"),
        ("SELECT 3", "skipped", ""),
    ]
    on_track(talk)


def test_a_statement_whose_parse_failed_was_skipped(talk: Conversation) -> None:
    talk.client(extended("SELEKT 1"))
    talk.server(error("42601"), ready())
    assert talk.ends() == [("SELEKT 1", "skipped", "")]
    on_track(talk)


def test_messages_that_come_after_the_error_and_before_sync_are_skipped(talk: Conversation) -> None:
    talk.client(extended("SELECT 1/0", sync=False), build_flush())
    talk.server(PARSED, BOUND, row_description("a"), error("22012"))
    talk.client(extended("SELECT 2", sync=False))
    talk.client(build_query("SELECT 3"))
    talk.client(build_sync(), extended("SELECT 4"))
    talk.server(ready(), PARSED, BOUND, row_description("a"), complete("SELECT 0"), ready())
    assert talk.ends() == [
        ("SELECT 1/0", "error", "22012"),
        ("SELECT 2", "skipped", ""),
        ("SELECT 3", "skipped", ""),
        ("SELECT 4", "complete", "SELECT 0"),
    ]
    on_track(talk)


def test_a_query_in_the_middle_of_a_batch_is_skipped_with_it(talk: Conversation) -> None:
    talk.client(extended("SELECT 1/0", sync=False), build_query("SELECT 2"), build_sync())
    talk.server(PARSED, BOUND, row_description("a"), error("22012"), ready())
    assert [status for _, status, _ in talk.ends()] == ["error", "skipped"]
    on_track(talk)


def test_a_query_in_the_middle_of_a_batch_that_goes_well_has_its_own_ready_for_query(talk: Conversation) -> None:
    talk.client(extended("SELECT 1", sync=False), build_query("SELECT 2"), build_sync())
    talk.server(PARSED, BOUND, row_description("a"), complete("SELECT 0"))
    talk.server(row_description("a"), complete("SELECT 0"), ready(), ready())
    assert [status for _, status, _ in talk.ends()] == ["complete", "complete"]
    on_track(talk)


def test_an_error_at_sync_belongs_to_no_statement(talk: Conversation) -> None:
    talk.client(extended("INSERT INTO a VALUES (1)"))
    talk.server(PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), error("23503"), ready())
    assert talk.ends() == [("INSERT INTO a VALUES (1)", "complete", "INSERT 0 1")]
    on_track(talk)


def test_flush_lets_a_client_wait_within_a_batch(talk: Conversation) -> None:
    for n in (1, 2):
        talk.client(extended(f"SELECT {n}", sync=False), build_flush())
        talk.server(PARSED, BOUND, row_description("a"), data_row(str(n)), complete("SELECT 1"))
    talk.client(build_sync())
    talk.server(ready())
    assert [outcome.statement.serial for outcome in talk.outcomes] == [True, True]
    assert len({outcome.statement.batch for outcome in talk.outcomes}) == 2
    on_track(talk)


def test_an_execute_of_an_empty_query_string(talk: Conversation) -> None:
    talk.client(extended(""))
    talk.server(PARSED, BOUND, NO_DATA, EMPTY, ready())
    assert [status for _, status, _ in talk.ends()] == ["empty"]
    on_track(talk)


def test_a_suspended_portal_is_one_statement_with_several_outcomes(talk: Conversation) -> None:
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.ends()
    talk.client(build_parse("", "SELECT * FROM author"), build_bind("p", ""), build_describe("P", "p"))
    talk.client(build_execute("p", 2), build_sync())
    talk.server(PARSED, BOUND, row_description("id"), data_row("1"), data_row("2"), SUSPENDED, ready("T"))
    talk.now_s += 60.0
    talk.client(build_execute("p", 2), build_sync())
    talk.server(data_row("3"), complete("SELECT 1"), ready("T"))
    first, second = talk.outcomes
    assert first.statement is second.statement
    assert (first.status, second.status) == ("suspended", "complete")
    assert (first.rows, second.rows) == (2, 1)
    assert first.column_values() == ((1, 2),)
    assert second.column_values() == ((3,),)
    assert second.proxy_s < 5.0
    assert second.server_s < 5.0


def test_two_portals_fetched_in_turn(talk: Conversation) -> None:
    talk.client(build_parse("a", "SELECT 1"), build_parse("b", "SELECT 2"), build_bind("p", "a"), build_bind("q", "b"))
    talk.client(*[build_execute(name, 1) for name in "pqpq"], build_sync())
    talk.server(PARSED, PARSED, BOUND, BOUND, *[data_row("1") + SUSPENDED] * 4, ready())
    assert [end[0] for end in talk.ends()] == ["SELECT 1", "SELECT 2", "SELECT 1", "SELECT 2"]
    on_track(talk)


# --- transactions ---


def test_statements_know_their_place_in_a_transaction_block(talk: Conversation) -> None:
    def run(query: str, tag: str, status: str) -> Outcome:
        talk.client(build_query(query))
        talk.server(complete(tag), ready(status))
        return talk.outcomes[-1]

    seen = []
    for query, tag, status in [
        ("SELECT 0", "SELECT 0", "I"),
        ("BEGIN", "BEGIN", "T"),
        ("SELECT 1", "SELECT 0", "T"),
        ("BEGIN", "BEGIN", "T"),
        ("SELECT 2", "SELECT 0", "T"),
        ("COMMIT", "COMMIT", "I"),
        ("SELECT 3", "SELECT 0", "I"),
        ("START TRANSACTION", "START TRANSACTION", "T"),
        ("SELECT 4", "SELECT 0", "T"),
    ]:
        statement = run(query, tag, status).statement
        seen.append((query, statement.status, statement.transaction, statement.position))
    assert seen == [
        ("SELECT 0", "I", 0, 0),
        ("BEGIN", "I", 0, 0),
        ("SELECT 1", "T", 1, 1),
        ("BEGIN", "T", 1, 2),
        ("SELECT 2", "T", 1, 3),
        ("COMMIT", "T", 1, 4),
        ("SELECT 3", "I", 0, 0),
        ("START TRANSACTION", "I", 0, 0),
        ("SELECT 4", "T", 2, 1),
    ]


def test_a_failed_block_and_its_rollback(talk: Conversation) -> None:
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_query("SELECT 1/0"))
    talk.server(error("22012"), ready("E"))
    talk.client(build_query("ROLLBACK"))
    talk.server(complete("ROLLBACK"), ready("I"))
    assert [outcome.statement.status for outcome in talk.outcomes] == ["I", "T", "E"]
    on_track(talk)


# --- COPY, function calls, replication ---


def test_copy_in_by_simple_query(talk: Conversation) -> None:
    talk.client(build_query("COPY a FROM STDIN"))
    talk.server(COPY_IN)
    talk.client(copy_data(b"1\n"), copy_data(b"2\n"), COPY_DONE)
    talk.server(complete("COPY 2"), ready())
    assert talk.outcomes[0].rows == 2
    assert talk.ends() == [("COPY a FROM STDIN", "complete", "COPY 2")]
    on_track(talk)


def test_copy_in_by_extended_query_with_the_sync_sent_early(talk: Conversation) -> None:
    talk.client(extended("COPY a FROM STDIN", describe=False))
    talk.server(PARSED, BOUND, COPY_IN)
    talk.client(copy_data(b"1\n"), build_flush(), build_sync(), COPY_DONE, build_sync())
    talk.server(complete("COPY 1"), ready())
    assert talk.ends() == [("COPY a FROM STDIN", "complete", "COPY 1")]
    on_track(talk)


def test_copy_in_all_sent_before_the_first_answer(talk: Conversation) -> None:
    talk.client(extended("COPY a FROM STDIN", describe=False), copy_data(b"1\n"), COPY_DONE, build_sync())
    talk.client(extended("SELECT 1", describe=False))
    talk.server(PARSED, BOUND, COPY_IN, complete("COPY 1"), ready())
    talk.server(PARSED, BOUND, complete("SELECT 0"), ready())
    assert [end[2] for end in talk.ends()] == ["COPY 1", "SELECT 0"]
    on_track(talk)


def test_two_copies_in_one_query_all_sent_before_the_first_answer(talk: Conversation) -> None:
    talk.client(build_query("COPY a FROM STDIN; COPY b FROM STDIN"))
    talk.client(copy_data(b"1\n"), COPY_DONE, copy_data(b"2\n"), COPY_DONE)
    talk.server(COPY_IN, complete("COPY 1"), COPY_IN, complete("COPY 1"), ready())
    assert len(talk.ends()) == 2
    on_track(talk)


@pytest.mark.parametrize("simple", [True, False])
def test_copy_that_the_client_gives_up(simple: bool, talk: Conversation) -> None:
    query = "COPY a FROM STDIN"
    talk.client(build_query(query) if simple else extended(query, describe=False, sync=False))
    talk.server(b"" if simple else PARSED + BOUND, COPY_IN)
    talk.client(copy_data(b"1\n"), COPY_FAIL, b"" if simple else build_sync())
    talk.server(error("57014"), ready())
    assert talk.ends() == [(query, "error", "57014")]
    on_track(talk)


@pytest.mark.parametrize("simple", [True, False])
def test_an_error_in_the_middle_of_copied_data(simple: bool, talk: Conversation) -> None:
    query = "COPY a FROM STDIN"
    talk.client(build_query(query) if simple else extended(query, describe=False, sync=False))
    talk.server(b"" if simple else PARSED + BOUND, COPY_IN)
    talk.client(copy_data(b"1\n"))
    talk.server(error("22P02"), ready() if simple else b"")
    talk.client(copy_data(b"2\n"), COPY_DONE)  # dropped by the server
    if not simple:
        talk.client(build_sync())
        talk.server(ready())
    assert talk.ends() == [(query, "error", "22P02")]
    on_track(talk)


def test_an_error_in_copied_data_whose_end_was_sent_already(talk: Conversation) -> None:
    talk.client(build_query("COPY a FROM STDIN"), copy_data(b"x\n"), COPY_DONE)
    talk.server(error("42P01"), ready())
    assert talk.ends() == [("COPY a FROM STDIN", "error", "42P01")]
    assert talk.session.idle
    on_track(talk)


def test_ends_of_copies_that_never_began_are_not_kept(talk: Conversation) -> None:
    talk.client(*[COPY_DONE] * 50)
    assert talk.session.idle
    on_track(talk)


@pytest.mark.parametrize("simple", [True, False])
def test_copy_out(simple: bool, talk: Conversation) -> None:
    query = "COPY a TO STDOUT"
    talk.client(build_query(query) if simple else extended(query, describe=False))
    data = copy_data(b"1\n") * 3
    talk.server(b"" if simple else PARSED + BOUND, COPY_OUT, data, COPY_DONE, complete("COPY 3"), ready())
    assert talk.outcomes[0].rows == 3
    assert talk.outcomes[0].bytes == len(data) + len(COPY_DONE) + len(complete("COPY 3"))
    on_track(talk)


def test_replication_passes_in_both_directions(talk: Conversation) -> None:
    talk.client(build_query("START_REPLICATION SLOT s LOGICAL 0/0"))
    talk.server(COPY_BOTH, copy_data(b"w..."))
    talk.client(copy_data(b"r..."))
    talk.server(copy_data(b"k..."))
    talk.client(COPY_DONE)
    talk.server(COPY_DONE, complete("COPY 0"), complete("START_REPLICATION"), ready())
    assert [end[1] for end in talk.ends()] == ["complete"]
    on_track(talk)


def test_a_function_call_has_a_reply_of_its_own(talk: Conversation) -> None:
    talk.client(FUNCTION_CALL, build_query("SELECT 1"))
    talk.server(FUNCTION_RESULT, ready(), complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]
    talk.client(FUNCTION_CALL)
    talk.server(error("42883"), ready())
    on_track(talk)


# --- what comes at any time ---


def test_notices_notifications_and_parameters_belong_to_no_request(talk: Conversation) -> None:
    aside = NOTICE + NOTIFICATION + parameter_status("TimeZone", "UTC")
    talk.server(aside)
    talk.client(extended("SELECT 1"))
    talk.server(aside, PARSED, aside, BOUND, aside, row_description("a"), aside, data_row("1"), aside, data_row("2"))
    talk.server(aside, complete("SELECT 2"), aside, ready(), aside)
    assert [outcome.rows for outcome in talk.outcomes] == [2]
    assert talk.outcomes[0].column_values() == ((1, 2),)
    talk.server(parameter_status("application_name", "worker"))
    assert talk.session.info.application_name == "worker"
    on_track(talk)


def test_an_error_without_a_request_says_why_the_server_goes(talk: Conversation) -> None:
    talk.server(error("57P01", "FATAL"))
    assert talk.session.phase == Phase.READY
    assert not talk.session.can_inject


# --- names ---


def test_a_parse_of_an_existing_name_that_fails_leaves_the_old_meaning(talk: Conversation) -> None:
    talk.client(build_parse("s", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_parse("s", "SELECT 2"), build_parse("s", "SELECT 3"), build_sync())
    talk.server(error("42P05"), ready())
    talk.client(extended(None, name="s", describe=False))
    talk.server(BOUND, complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]


def test_a_failed_unnamed_parse_destroys_the_unnamed_statement(talk: Conversation) -> None:
    talk.client(build_parse("", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_parse("", "SELEKT 2"), build_sync())
    talk.server(error("42601"), ready())
    talk.client(extended(None, describe=False))
    talk.server(error("26000"), ready())
    assert talk.ends() == [("", "skipped", "")]


def test_an_unnamed_parse_or_a_query_that_was_skipped_leaves_the_unnamed_statement(talk: Conversation) -> None:
    talk.client(build_parse("", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_bind("", "nobody"), build_parse("", "SELECT 2"), build_query("SELECT 3"), build_sync())
    talk.server(error("26000"), ready())
    talk.client(build_bind("", "nobody"), build_flush())
    talk.server(error("26000"))
    talk.client(build_parse("", "SELECT 4"), build_query("SELECT 5"), build_sync())
    talk.server(ready())
    talk.ends()
    talk.client(extended(None, describe=False))
    talk.server(BOUND, complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]


def test_a_query_destroys_the_unnamed_statement_even_if_it_fails(talk: Conversation) -> None:
    talk.client(build_parse("", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_query("SELEKT"))
    talk.server(error(), ready())
    talk.ends()
    talk.client(extended(None, describe=False))
    talk.server(error("26000"), ready())
    assert talk.ends() == [("", "skipped", "")]


def test_a_close_in_a_failed_batch_did_not_happen(talk: Conversation) -> None:
    talk.client(build_parse("s", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    talk.client(build_bind("", "nobody"), build_close("S", "s"), build_parse("s", "SELECT 2"), build_sync())
    talk.server(error("26000"), ready())
    talk.client(extended(None, name="s", describe=False))
    talk.server(BOUND, complete("SELECT 0"), ready())
    assert talk.ends() == [("SELECT 1", "complete", "SELECT 0")]


def test_a_closed_name_means_nothing_and_may_be_used_again(talk: Conversation) -> None:
    talk.client(build_parse("s", "SELECT 1"), build_close("S", "s"), build_parse("s", "SELECT 2"), build_sync())
    talk.server(PARSED, CLOSED, PARSED, ready())
    talk.client(extended(None, name="s", describe=False), build_close("P", ""), build_sync())
    talk.server(BOUND, complete("SELECT 0"), ready(), CLOSED, ready())
    assert talk.ends() == [("SELECT 2", "complete", "SELECT 0")]


@pytest.mark.parametrize(
    "command", ["DEALLOCATE s", "DEALLOCATE PREPARE S", 'DEALLOCATE "s"', "DEALLOCATE ALL", "DISCARD ALL"]
)
def test_commands_that_drop_names(command: str, talk: Conversation) -> None:
    talk.client(build_parse("s", "SELECT 1"), build_sync())
    talk.server(PARSED, ready())
    tag = "DEALLOCATE" if command[-1] in 'sS"' else command
    talk.client(build_query(command))
    talk.server(complete(tag), ready())
    talk.ends()
    talk.client(extended(None, name="s", describe=False))
    talk.server(error("26000"), ready())
    assert talk.ends() == [("", "skipped", "")]


def test_a_name_prepared_by_sql_is_a_statement_that_nobody_recognises(talk: Conversation) -> None:
    talk.client(build_query("PREPARE Q AS SELECT 1"))
    talk.server(complete("PREPARE"), ready())
    talk.ends()
    talk.client(extended(None, name="q", describe=False))
    talk.server(BOUND, complete("SELECT 0"), ready())
    assert talk.ends() == [("", "complete", "SELECT 0")]


# --- what cannot be understood ---


def large(code: int) -> bytes:
    return build_frame(code, b"x" * (1 << 20) + b"\0" * 8)


@pytest.mark.parametrize("code", [0x50, 0x42, 0x44, 0x45, 0x43], ids=["Parse", "Bind", "Describe", "Execute", "Close"])
@pytest.mark.parametrize("make", [large, lambda code: build_frame(code, b"x")], ids=["oversized", "malformed"])
def test_a_message_that_cannot_be_read_keeps_its_place(code: int, make: Callable[[int], bytes]) -> None:
    talk = plain()
    reply = {0x50: PARSED, 0x42: BOUND, 0x44: NO_DATA, 0x45: complete("SELECT 0"), 0x43: CLOSED}[code]
    data = make(code)
    talk.client_chunks([data[:100_000], data[100_000:]])
    talk.client(build_sync())
    assert talk.taken_server() == data + build_sync()
    talk.server(reply, ready())
    assert [(statement, status) for statement, status, _ in talk.ends()] == ([("", "complete")] if code == 0x45 else [])
    on_track(talk)


def test_an_oversized_query_is_an_unknown_statement() -> None:
    talk = plain()
    data = build_query("SELECT '" + "x" * (1 << 20) + "'")
    talk.client_chunks([data[:1000], data[1000:]])
    talk.server(row_description("a"), data_row("1"), complete("SELECT 1"), ready())
    assert talk.ends() == [("", "complete", "SELECT 1")]
    on_track(talk)


def test_an_oversized_row_is_counted_and_not_kept() -> None:
    talk = plain()
    talk.client(build_query("SELECT a FROM b"))
    row = data_row("x" * (1 << 20))
    talk.server(row_description("a"))
    talk.server_chunks([row[:5], row[5:1000], row[1000:]])
    talk.server(data_row("second"), complete("SELECT 2"), ready())
    (outcome,) = talk.outcomes
    assert outcome.rows == 2
    assert outcome.bytes == len(row) + len(data_row("second")) + len(complete("SELECT 2"))
    assert outcome.column_values() == ()  # what was kept would not be the first rows
    on_track(talk)


def test_an_oversized_error_is_one_error() -> None:
    talk = plain()
    talk.client(extended("SELECT 1", describe=False))
    data = build_frame(0x45, b"SERROR\0VERROR\0C22000\0M" + b"x" * (1 << 20) + b"\0\0")
    talk.server(PARSED, BOUND)
    talk.server_chunks([data[:1000], data[1000:]])
    talk.server(ready())
    assert [status for _, status, _ in talk.ends()] == ["error"]
    on_track(talk)


@pytest.mark.parametrize(
    "reply", [PARSED, BOUND, data_row("1"), complete("SELECT 1"), ready(), row_description("a"), COPY_IN, SUSPENDED]
)
def test_a_reply_to_nothing_makes_the_session_opaque(reply: bytes, talk: Conversation) -> None:
    talk.server(reply)
    assert talk.session.phase == Phase.OPAQUE
    assert talk.session.trouble
    assert not talk.session.must_close
    talk.client(b"any")
    talk.server(b"thing")
    assert talk.to_server == b"any"
    assert talk.to_client == reply + b"thing"


@pytest.mark.parametrize("reply", [BOUND, CLOSED, data_row("1"), complete("SELECT 1"), ready(), build_frame(0x3F)])
def test_a_reply_that_does_not_fit_makes_the_session_opaque(reply: bytes, talk: Conversation) -> None:
    talk.client(extended("SELECT 1"))
    talk.server(reply)
    assert talk.session.phase == Phase.OPAQUE
    assert [status for _, status, _ in talk.ends()] == ["lost"]
    assert talk.to_client == reply


def test_an_unknown_message_of_the_client_makes_the_session_opaque(talk: Conversation) -> None:
    talk.client(build_frame(0x3F, b"what"), build_query("SELECT 1"))
    assert talk.session.phase == Phase.OPAQUE
    assert talk.to_server == build_frame(0x3F, b"what") + build_query("SELECT 1")


def test_what_was_outstanding_is_lost_when_the_session_ends(talk: Conversation) -> None:
    talk.client(extended("SELECT 1"), build_query("SELECT 2; SELECT 3"), build_terminate())
    talk.close()
    assert talk.ends() == [("SELECT 1", "lost", ""), ("SELECT 2", "lost", ""), ("SELECT 3", "lost", "")]
    assert talk.session.phase == Phase.CLOSED


def test_what_is_lost_with_the_track_ends_at_the_time_at_which_it_was_lost() -> None:
    talk = plain()
    talk.client(build_query("SELECT 1"))
    talk.server(PARSED)
    assert [outcome.finished_s for outcome in talk.outcomes] == [talk.now_s]
