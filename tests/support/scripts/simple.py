"""Simple Query: several statements, errors, empty ones, notices, notifications, function calls."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_frame,
    build_query,
)
from support.raw import function_call
from support.scripts.common import INT4PL, SELECT_ALL, SELECT_ONE, SYNC, Case, ask, run

CASES: dict[str, Case] = {
    "one simple query": Case([(build_query(SELECT_ALL), 1)], hits=1),
    "one simple query, again and again": Case([(build_query(SELECT_ALL), 1)] * 3, hits=3),
    "simple queries sent without waiting": Case([(build_query(SELECT_ALL) * 4, 4)]),
    "several statements in a query": Case([(build_query(f"{SELECT_ALL}; SELECT 1; SELECT count(*) FROM item"), 1)]),
    "an error among several statements": Case(
        [(build_query("INSERT INTO note VALUES (1, 'a'); SELECT 1/0; SELECT 2"), 1), (build_query(SELECT_ALL), 1)],
        writes=True,
    ),
    "several statements with a block of their own": Case(
        [
            (build_query("BEGIN; INSERT INTO note VALUES (1, 'a'); COMMIT; INSERT INTO note VALUES (1, 'b')"), 1),
            (build_query("SELECT * FROM note"), 1),
        ],
        writes=True,
    ),
    "an empty query": Case([(build_query(""), 1), (build_query(" ; /* nothing */ ;"), 1), (ask("", "") + SYNC, 1)]),
    "a syntax error": Case([(build_query("SELEC 1"), 1), (build_query(SELECT_ALL), 1)]),
    "an unterminated query string": Case([(build_frame(0x51, b"SELECT 1"), 1), (build_query("SELECT 2"), 1)]),
    "very many queries in one write": Case([(build_query(SELECT_ALL) * 300 + build_query("SELECT 1"), 301)]),
    "very many statements in one query": Case([(build_query("SELECT 1;" * 300 + SELECT_ALL), 1)]),
    "queries of several statements behind a cached one": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query(f"{SELECT_ALL}; {SELECT_ALL}") + build_query(SELECT_ALL), 2),
        ],
        hits=1,
    ),
    "comments, semicolons and quotes": Case(
        [
            (
                build_query(
                    "/* a /* nested */ ; */ SELECT ';', $$;$$, $a$;$a$, E'\\';' -- ;\n ; SELECT \"id\" FROM item"
                ),
                1,
            ),
            (build_query(";;" + SELECT_ALL + ";;"), 1),
            (build_query(SELECT_ALL + ";"), 1),
        ]
    ),
    "text that is no UTF-8": Case(
        [(build_frame(0x51, b"SELECT '\xff\xfe'\0"), 1), (build_frame(0x51, b"SELECT 'caf\xc3\xa9'\0"), 1)]
    ),
    "another encoding": Case(
        [
            (build_query("SET client_encoding = 'LATIN1'"), 1),
            (build_frame(0x51, b"SELECT 'caf\xe9'\0"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("SET client_encoding = 'SJIS'"), 1),
            (build_frame(0x51, b"SELECT '\x83\x5c', 1\0"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("RESET client_encoding"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "results without columns and without rows": Case(
        [
            (build_query("SELECT FROM item"), 1),
            (build_query("SELECT id FROM item WHERE false"), 1),
            (ask("", "SELECT FROM item") + SYNC, 1),
            (ask("", "SELECT id FROM item WHERE false") + SYNC, 1),
        ]
        * 2
    ),
    "a result of very many rows": Case(
        [(build_query("SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n"), 1)]
    ),
    "a function call": Case(
        [
            (function_call(INT4PL, (2).to_bytes(4, "big"), (3).to_bytes(4, "big")), 1),
            (function_call(INT4PL, (2).to_bytes(4, "big")), 1),
            (function_call(1), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "function calls without waiting, among queries": Case(
        [
            (
                build_query("SELECT 1")
                + function_call(INT4PL, bytes(4), bytes(4))
                + build_query(SELECT_ALL)
                + function_call(1)
                + ask("", "SELECT 2")
                + SYNC,
                5,
            )
        ]
    ),
    "a function call in a failed transaction": Case(
        [
            (build_query("BEGIN"), 1),
            (build_query("SELECT 1/0"), 1),
            (function_call(INT4PL, bytes(4), bytes(4)), 1),
            (build_query("ROLLBACK"), 1),
            (function_call(INT4PL, bytes(4), bytes(4)), 1),
        ]
    ),
    "a function call in the middle of an extended batch": Case(
        [
            (ask("", SELECT_ONE, b"3") + function_call(INT4PL, bytes(4), bytes(4)) + run("", b"4") + SYNC, 2),
            (ask("", "SELECT 1/0") + function_call(INT4PL, bytes(4), bytes(4)) + SYNC, 1),
        ]
    ),
    "a notification to oneself": Case(
        [
            (build_query("LISTEN news"), 1),
            (build_query("NOTIFY news, 'now'"), 1),
            (build_query("BEGIN; NOTIFY news, 'later'"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "notices and reported settings": Case(
        [
            (build_query("SET application_name = 'other'"), 1),
            (build_query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"), 1),
            (build_query("SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("RESET ALL"), 1),
        ]
    ),
    "notices before, between and behind rows": Case(
        [
            (
                build_query(
                    "CREATE OR REPLACE FUNCTION say(n integer) RETURNS integer LANGUAGE plpgsql AS"
                    " $$ BEGIN RAISE NOTICE 'said %', n; RETURN n; END $$"
                ),
                1,
            ),
            (build_query("SELECT say(n) FROM generate_series(1, 5) n"), 1),
            (ask("", "SELECT say(n) FROM generate_series(1, 5) n", limit=2) + SYNC, 1),
            (build_query("SELECT 1/0; SELECT 2"), 1),
            # not in pg_temp: PostgreSQL 18 tells its number
            (build_query("DROP FUNCTION say(integer)"), 1),
        ]
    ),
    "a notification that a rollback forgets": Case(
        [
            (build_query("LISTEN news"), 1),
            (build_query("BEGIN; NOTIFY news, 'never'; ROLLBACK; NOTIFY news, 'now'"), 1),
            (ask("", "SELECT pg_notify('news', $1)", b"extended") + SYNC, 1),
            (build_query("UNLISTEN *; NOTIFY news, 'nobody'"), 1),
        ]
    ),
}
