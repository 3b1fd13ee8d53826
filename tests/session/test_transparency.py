"""No client can tell: the same program, directly and through a session with a cache, gives the same bytes.

The programs are random, the cuts of both directions too, and so is when the server's bytes arrive and when the cache has
an answer. What may not differ: what the client reads, and what the tables hold in the end.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgloupe.session.actions import EndWrite
from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_flush,
    build_parse,
    build_query,
    build_sync,
)
from pgloupe_rules.types import SessionInfo
from support.conversation import (
    GREETING,
    NOTICE,
    NOTIFICATION,
    POLICY,
    Conversation,
    Desk,
    complete,
    cut,
    extended,
    ready,
    recognise,
)
from support.model_server import ModelServer

READS = ["SELECT * FROM author", "SELECT * FROM author WHERE id = $1", "SELECT * FROM post", "SELECT * FROM elsewhere"]
OTHERS = [
    "UPDATE author SET n = 1",
    "UPDATE post SET n = 1",
    "SET search_path = a",
    "SET search_path = b",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SELECT wrong",
    "",
]
QUERY = st.sampled_from(READS * 3 + OTHERS)
NAME = st.sampled_from(["", "", "", "s"])
VALUE = st.sampled_from([b"1", b"2"])


def values(query: str | None, value: bytes) -> tuple[bytes, ...]:
    return (value,) if query is None or "$1" in query else ()


def cycle(query: str | None, value: bytes, name: str, describe: bool, limit: int) -> bytes:
    return extended(query, *values(query, value), name=name, describe=describe, limit=limit)


WARM = [
    build_query(READS[0]),
    build_query(READS[2]),
    cycle(READS[0], b"", "", True, 0),
    cycle(READS[1], b"1", "", True, 0),
    cycle(READS[1], b"2", "", False, 0),
    cycle(READS[1], b"1", "", True, 2),
]
"""Every program begins with these, so that the cache has something to answer."""
CYCLE = st.one_of(
    st.builds(cycle, QUERY, VALUE, st.just(""), st.booleans(), st.sampled_from([0, 0, 1, 2, 3])),
    st.sampled_from(WARM),
    st.sampled_from(WARM),
)
AGAIN = st.builds(cycle, st.none(), VALUE, NAME, st.booleans(), st.just(0))
SIMPLE = st.builds(build_query, st.one_of(QUERY, st.builds("{}; {}".format, QUERY, QUERY)))
SINGLE = st.one_of(
    st.builds(build_parse, NAME, QUERY),
    st.builds(lambda name, value: build_bind("", name, (value,)), NAME, VALUE),
    st.builds(lambda name: build_bind("", name), NAME),
    st.builds(build_describe, st.sampled_from("SP"), NAME),
    st.builds(build_execute, st.just(""), st.sampled_from([0, 1])),
    st.builds(build_close, st.sampled_from("SP"), NAME),
    st.just(build_flush()),
    st.just(build_sync()),
)
TURN = st.one_of(CYCLE, CYCLE, SIMPLE, SIMPLE, AGAIN, SINGLE, st.lists(SINGLE, max_size=4).map(b"".join))
PROGRAM = st.lists(TURN, min_size=1, max_size=14)
CHOICES = st.lists(st.integers(0, 1 << 16), max_size=60)


def play(program: list[bytes], choices: list[int], *, later: bool, waits: bool) -> tuple[Conversation, ModelServer]:
    """The program through a session. Each choice decides what happens next; with `waits` the client reads every answer
    before it sends on."""
    server = ModelServer()
    session = GatedSession(SessionInfo(1), recognise, Context({}), POLICY)
    talk = Conversation(session, Desk(later=later))
    desk = talk.desk
    assert desk is not None
    pick = iter(choices)
    arriving = b""
    leaving = b""

    def exchange(everything: bool) -> None:
        nonlocal arriving
        while True:
            arriving += server.receive(talk.taken_server())
            choice = 1 << 15 if everything else next(pick, 1 << 15)
            if desk.waiting and (everything or choice % 2):
                talk.tell()
            elif arriving and not session.backend_blocked:
                size = len(arriving) if everything else choice % (len(arriving) + 1)
                talk.server_chunks(cut(arriving[:size], [choice]))
                arriving = arriving[size:]
                if not everything:
                    return
            elif everything and session.holding:
                talk.release()
            elif not talk.to_server:
                return

    for turn in WARM:
        talk.client(turn)
        exchange(True)
    for turn in program:
        leaving += turn
        while leaving and not session.frontend_blocked:
            size = next(pick, 0) % len(leaving) or len(leaving)
            talk.client_chunks([leaving[:size]])
            leaving = leaving[size:]
            exchange(waits and not leaving)
    while True:
        exchange(True)
        if not leaving:
            break
        if not session.frontend_blocked:
            talk.client_chunks([leaving])
            leaving = b""
    assert not desk.waiting
    assert not arriving
    return talk, server


def compare(program: list[bytes], choices: list[int], *, later: bool, waits: bool) -> Conversation:
    ends = build_sync()  # so that nothing stays in the server's buffer
    direct = ModelServer()
    expected = b"".join(direct.receive(turn) for turn in [*WARM, *program, ends])
    talk, server = play([*program, ends], choices, later=later, waits=waits)
    assert talk.session.trouble == ""
    assert talk.to_client == expected
    assert server.tables == direct.tables
    assert server.settings == direct.settings
    desk = talk.desk
    assert desk is not None
    if expected.endswith(b"I"):
        assert desk.open_marks == []
    return talk


def check(later: bool, waits: bool) -> Callable[[list[bytes], list[int]], None]:
    def test(program: list[bytes], choices: list[int]) -> None:
        compare(program, choices, later=later, waits=waits)

    return test


FEW = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

test_a_client_that_waits_cannot_tell = FEW(given(PROGRAM, CHOICES)(check(later=False, waits=True)))
test_a_client_that_does_not_wait_cannot_tell = FEW(given(PROGRAM, CHOICES)(check(later=False, waits=False)))
test_nor_can_one_if_the_cache_takes_its_time = FEW(given(PROGRAM, CHOICES)(check(later=True, waits=True)))
test_nor_one_that_does_not_wait_if_the_cache_takes_its_time = FEW(
    given(PROGRAM, CHOICES)(check(later=True, waits=False))
)


def test_the_comparison_sees_answers_of_the_cache_and_debts() -> None:
    """The programs above would prove nothing if the cache never answered in them."""
    read = cycle(READS[1], b"1", "", True, 0)
    program = [read, cycle(None, b"1", "", True, 0), cycle(None, b"2", "", True, 0), build_query(READS[0])]
    program += [cycle(None, b"1", "", True, 0), build_query(OTHERS[0]), read, read]
    talk = compare(program, [], later=False, waits=True)
    desk = talk.desk
    assert desk is not None
    assert desk.hits == 4
    # that of the UPDATE, and that of the Bind to the statement that is gone, of which nobody knows what it was
    assert len([action for action in desk.log if isinstance(action, EndWrite)]) == 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=24)), max_size=20), CHOICES)
def test_any_bytes_pass_both_ways_in_order(turns: list[tuple[bool, bytes]], choices: list[int]) -> None:
    session = GatedSession(SessionInfo(1), recognise, Context({}), POLICY)
    talk = Conversation(session, Desk())
    sent = {True: b"", False: b""}
    for frontend, data in turns:
        sent[frontend] += data
        (talk.client_chunks if frontend else talk.server_chunks)(cut(data, choices))
    if talk.session.trouble:
        assert talk.to_server == sent[True]
        assert talk.to_client == sent[False]
    else:
        assert sent[True].startswith(talk.to_server)
        assert sent[False].startswith(talk.to_client)
        session.lose_track("the end of the test")
        talk.run()
        assert (talk.to_server, talk.to_client) == (sent[True], sent[False])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(SIMPLE, CYCLE, AGAIN, SINGLE), max_size=8), CHOICES)
def test_without_answers_of_the_cache_every_byte_passes_unchanged(program: list[bytes], choices: list[int]) -> None:
    """The desk forgets everything, so nothing is ever answered here and nothing owed."""
    server = ModelServer()
    session = GatedSession(SessionInfo(1), recognise, Context({}), POLICY)
    talk = Conversation(session, Desk())
    desk = talk.desk
    assert desk is not None
    desk.limit_bytes = 0
    data = b"".join(program) + build_sync()
    answer = b""
    for chunk in cut(data, choices):
        before = len(talk.to_server)
        talk.client_chunks([chunk])
        reply = server.receive(talk.to_server[before:])
        answer += reply
        talk.server_chunks(cut(reply, choices))
    assert desk.hits == 0
    assert talk.to_server == data
    assert talk.to_client == answer
    assert talk.session.trouble == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2000), max_size=30), st.integers(0, 400), st.booleans())
def test_looking_at_the_backend_first_may_begin_and_end_in_the_middle_of_a_message(
    points: list[int], when: int, mark: bool
) -> None:
    """The server is talking (notices) when the client writes, which makes the session look at each message first."""
    session = GatedSession(SessionInfo(1), recognise, Context({}), POLICY)
    talk = Conversation(session, Desk(), greeting=GREETING)
    aside = (NOTICE + NOTIFICATION) * 3
    query = OTHERS[0] if mark else READS[3]
    whole = aside + NOTICE + complete("UPDATE 1") + NOTICE + ready() + aside
    written = False
    position = 0
    when = min(when, len(aside))
    for chunk in cut(whole, [*points, when]):
        if not written and position >= when:
            talk.client(build_query(query))
            written = True
        talk.server_chunks([chunk])
        position += len(chunk)
    assert talk.session.trouble == ""
    assert talk.to_client == whole
    assert talk.to_server == build_query(query)
