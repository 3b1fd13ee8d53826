"""Programs for `differential.converse`: strategies that make up what two clients may send, with little sense and no mercy.

Over the tables of `scripts.common`. All that the server says to them is determined: no clock, no process numbers, no identifiers
of what is made on the way.
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_parse,
    build_query,
)
from support.differential import Turn
from support.raw import COPY_DONE, copy_data, copy_fail, function_call
from support.scripts.common import FLUSH, INT4PL, SYNC

READS: Final = (
    "SELECT id, name FROM item ORDER BY id",
    "SELECT count(*) FROM note",
    "SELECT i.name, n.body FROM item i JOIN note n ON n.id = i.id ORDER BY i.id",
    "SELECT id, body FROM note ORDER BY id LIMIT 3",
)
ASKING: Final = ("SELECT name FROM item WHERE id = $1", "SELECT body FROM note WHERE id = $1")
"""Reads with a parameter."""

WRITES: Final = (
    "UPDATE item SET name = name || 'x' WHERE id = 1",
    "UPDATE item SET name = name || 'y' WHERE id = 2 RETURNING id, name",
    "INSERT INTO note VALUES (3, 'three') ON CONFLICT (id) DO UPDATE SET body = note.body || 'c'",
    "INSERT INTO note VALUES (1, 'again')",
    "DELETE FROM note WHERE id = 3",
    "TRUNCATE note",
    "WITH gone AS (DELETE FROM note WHERE id = 2 RETURNING id) SELECT count(*) FROM gone",
    "UPDATE other.item SET name = name || 'z'",
)
BLOCKS: Final = (
    "BEGIN",
    "BEGIN",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
)
FAILING: Final = ("SELECT 1/0", "SELEC 1", "SELECT * FROM missing", "")
SETTINGS: Final = (
    "SET search_path = other, public",
    "SET search_path = other, public",
    "SET LOCAL search_path = other",
    "SET search_path = public",
    "RESET search_path",
    "RESET ALL",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET bytea_output = 'escape'",
    "SELECT set_config('search_path', 'other', false)",
    "SET ROLE NONE",
)
NAMES: Final = (
    "DEALLOCATE s",
    "DEALLOCATE ALL",
    "PREPARE s AS SELECT name FROM item WHERE id = $1",
    "PREPARE s AS UPDATE item SET name = name || 'p' WHERE id = 2",
    "EXECUTE s",
    "EXECUTE s (1)",
    "DECLARE p CURSOR FOR SELECT id, name FROM item ORDER BY id",
    "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM item ORDER BY id",
    "FETCH 2 FROM p",
    "FETCH ALL FROM p",
    "FETCH 1 FROM c",
    "MOVE 1 IN p",
    "CLOSE c",
    "CLOSE p",
)
ANYTHING: Final = (
    "SELECT touch()",
    "DO $$ BEGIN UPDATE item SET name = name || 'd' WHERE id = 4; RAISE NOTICE 'done'; END $$",
    "ALTER TABLE note ADD COLUMN extra integer DEFAULT 7",
    "ALTER TABLE note DROP COLUMN IF EXISTS extra",
    "CREATE TEMPORARY TABLE item AS SELECT 1 AS id, 'temporary'::text AS name",
    "DROP TABLE IF EXISTS pg_temp.item",
    "DISCARD ALL",
    "LISTEN news",
    "NOTIFY news, 'now'",
    "EXPLAIN (COSTS OFF) SELECT * FROM item WHERE id = 1",
)
"""After these the cache knows little for a while."""

_NAME = st.sampled_from(["", "", "s", "t"])
_PORTAL = st.sampled_from(["", "", "p", "c"])
_VALUE = st.sampled_from([b"1", b"2", b"3"])
_LIMIT = st.sampled_from([0, 0, 0, 1, 2, 10])
_FORMATS = st.sampled_from([(), (), (0,), (1,)])
_END = st.sampled_from([SYNC, SYNC, SYNC, FLUSH, SYNC + SYNC, b""])


def _sql(wild: bool) -> SearchStrategy[str]:
    read, write, setting = st.sampled_from(READS), st.sampled_from(WRITES), st.sampled_from(SETTINGS)
    every = [read, read, write, write, st.sampled_from(BLOCKS), setting, st.sampled_from(FAILING)]
    return st.one_of(*every, st.sampled_from(NAMES), st.sampled_from(ANYTHING)) if wild else st.one_of(*every)


def _parameters(sql: str, value: bytes) -> tuple[bytes, ...]:
    return (value,) if "$1" in sql else ()


def _cycle(
    sql: str, value: bytes, name: str, portal: str, describe: bool, limit: int, results: tuple[int, ...], end: bytes
) -> bytes:
    return (
        build_parse(name, sql)
        + build_bind(portal, name, _parameters(sql, value), (), results)
        + (build_describe("P", portal) if describe else b"")
        + build_execute(portal, limit)
        + end
    )


def _again(name: str, value: bytes | None, portal: str, describe: bool, limit: int, end: bytes) -> bytes:
    return (
        build_bind(portal, name, () if value is None else (value,))
        + (build_describe("P", portal) if describe else b"")
        + build_execute(portal, limit)
        + end
    )


_HOT: Final = (
    *map(build_query, READS),
    *(_cycle(sql, value, "", "", True, 0, (), SYNC) for sql in ASKING for value in (b"1", b"2")),
)
"""What is in the cache, unless something was written."""

_UNNAMED: Final = (
    _again("", b"1", "", True, 0, SYNC),
    _again("", b"2", "", False, 0, SYNC),
    _again("", b"1", "", True, 0, FLUSH),
    build_describe("S", "") + SYNC,
    build_close("S", "") + SYNC,
)
"""What depends on the unnamed statement, which the server may not have."""


def _copy(sql: str, extended: bool, early: bytes, pieces: list[bytes], end: bytes, later: bytes) -> bytes:
    """A COPY FROM STDIN and all that it may need: nothing behind it is taken for its data."""
    ends = end * sql.count("FROM STDIN")
    if not extended:
        return build_query(sql) + early + b"".join(pieces) + ends + later
    begin = build_close("S", "k") + build_parse("k", sql) + build_bind("k", "k") + build_execute("k")
    return begin + early + b"".join(pieces) + ends + later + SYNC


def _copies() -> SearchStrategy[bytes]:
    pieces = st.sampled_from(
        [copy_data("7\tseven"), copy_data("8\teight", "9\tnine"), copy_data("1\tagain"), copy_data("x\ty"), SYNC, FLUSH]
    )
    simple = [
        "COPY note FROM STDIN",
        "COPY guarded FROM STDIN",
        "SELECT 1; COPY note FROM STDIN; SELECT count(*) FROM note",
        "COPY item FROM STDIN; COPY note FROM STDIN",
    ]
    ends = st.sampled_from([COPY_DONE, COPY_DONE, copy_fail("no more")])
    early = st.sampled_from([b"", b"", SYNC, FLUSH, SYNC + SYNC])
    later = st.sampled_from([b"", b"", SYNC])
    data = st.lists(pieces, max_size=4)
    return st.one_of(
        st.builds(_copy, st.sampled_from(simple), st.just(False), early, data, ends, later),
        st.builds(_copy, st.sampled_from(simple[:2]), st.just(True), early, data, ends, later),
        st.just(build_query("COPY item TO STDOUT")),
        st.builds(
            _cycle, st.just("COPY note TO STDOUT"), _VALUE, _NAME, _PORTAL, st.booleans(), _LIMIT, _FORMATS, _END
        ),
    )


def _messages(wild: bool) -> SearchStrategy[bytes]:
    sql = _sql(wild)
    asked = st.one_of(sql, st.sampled_from(ASKING))
    single = st.one_of(
        st.builds(build_parse, _NAME, asked),
        st.builds(lambda portal, name, value: build_bind(portal, name, (value,)), _PORTAL, _NAME, _VALUE),
        st.builds(build_bind, _PORTAL, _NAME),
        st.builds(build_describe, st.just("S"), _NAME),
        st.builds(build_describe, st.just("P"), _PORTAL),
        st.builds(build_execute, _PORTAL, _LIMIT),
        st.builds(build_close, st.just("S"), _NAME),
        st.builds(build_close, st.just("P"), _PORTAL),
        st.just(FLUSH),
        st.just(SYNC),
    )
    tidy = st.builds(_cycle, asked, _VALUE, st.just(""), st.just(""), st.just(True), _LIMIT, _FORMATS, st.just(SYNC))
    cycle = st.builds(_cycle, asked, _VALUE, _NAME, _PORTAL, st.booleans(), _LIMIT, _FORMATS, _END)
    again = st.builds(_again, _NAME, st.one_of(st.none(), _VALUE), _PORTAL, st.booleans(), _LIMIT, _END)
    simple = st.one_of(
        st.builds(build_query, sql),
        st.builds(build_query, sql),
        st.builds(build_query, st.lists(sql, min_size=2, max_size=3).map("; ".join)),
    )
    calls = [function_call(INT4PL, bytes(4), bytes(4)), function_call(INT4PL, bytes(4)), function_call(1)]
    hot, unnamed = st.sampled_from(_HOT), st.sampled_from(_UNNAMED)
    tame = [hot, hot, hot, unnamed, simple, simple, tidy, tidy, cycle, _copies()]
    if not wild:
        return st.one_of(*tame)
    singles = st.lists(single, min_size=1, max_size=5).map(b"".join)
    return st.one_of(*tame, again, singles, simple, st.sampled_from(calls))


def _turn(message: SearchStrategy[bytes], session: int) -> SearchStrategy[Turn]:
    waits = ["settle"] if session else ["settle", "settle", "go on", "go on", "linger"]
    chunks = st.sampled_from([0, 0, 0, 0, 1, 3, 7])
    return st.builds(Turn, message, st.just(session), st.sampled_from(waits), chunks)


def programs(*, wild: bool) -> SearchStrategy[list[Turn]]:
    """`wild`: also with what leaves the cache knowing little for a while, so that fewer of the reads are answered by it."""
    asked = st.sampled_from([*READS, *ASKING])
    other = st.one_of(
        st.builds(build_query, st.sampled_from([*READS, *WRITES])),
        st.builds(_cycle, asked, _VALUE, st.just(""), st.just(""), st.just(True), st.just(0), _FORMATS, st.just(SYNC)),
    )
    alone = st.one_of(*[_turn(_messages(wild), 0)] * 3, _turn(other, 1)).map(lambda turn: [turn])
    return st.lists(st.one_of(alone, alone, alone, _scenes()), min_size=3, max_size=12).map(_joined)


def _joined(parts: list[list[Turn]]) -> list[Turn]:
    return [turn for part in parts for turn in part]


def _scenes() -> SearchStrategy[list[Turn]]:
    """What chance alone seldom puts together: an answer of the cache and what relies on its Parse, without a question between
    them; reads in a block, in a failed one, and behind a setting; one session's write and the other's read."""
    hot = st.sampled_from(_HOT)
    waits = st.sampled_from(["linger", "go on"])

    def debt(message: bytes, wait: str, unnamed: list[bytes]) -> list[Turn]:
        return [Turn(message, wait=wait), *(Turn(each, wait=wait) for each in unnamed), Turn(SYNC)]

    def block(first: str, second: str, message: bytes, last: str) -> list[Turn]:
        return [
            *(Turn(build_query(sql)) for sql in (first, second)),
            Turn(message),
            Turn(build_query(last)),
            Turn(message),
        ]

    def others(sql: str, message: bytes) -> list[Turn]:
        return [Turn(build_query("ROLLBACK")), Turn(build_query(sql), 1), Turn(message), Turn(message, 1)]

    return st.one_of(
        st.builds(debt, hot, waits, st.lists(st.sampled_from(_UNNAMED), min_size=1, max_size=3)),
        st.builds(
            block,
            st.sampled_from(["BEGIN", "SELECT 1"]),
            st.sampled_from([*FAILING, *SETTINGS, *WRITES]),
            hot,
            st.sampled_from(["COMMIT", "ROLLBACK"]),
        ),
        st.builds(others, st.sampled_from(WRITES), hot),
    )


def _reading(session: int) -> list[Turn]:
    return [Turn(message, session) for message in _HOT]


REST: Final = Turn(b"", wait="rest")
WARM: Final = _reading(0) + _reading(1)
"""Before a program, so that the cache has something to answer."""

AUDIT: Final = [
    Turn(build_query("ROLLBACK"), 0),
    REST,
    *_reading(1),
    *_reading(0),
    *_reading(1),
]
"""After a program: what is there now, asked by both sessions."""
