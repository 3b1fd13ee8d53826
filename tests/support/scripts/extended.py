"""Extended query: batches, errors and what they skip, Flush, formats, Describe, messages that do not fit."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_frame,
    build_parse,
    build_query,
)
from support.scripts.common import FLUSH, SELECT_ALL, SELECT_ONE, SYNC, Case, again, ask, run

CASES: dict[str, Case] = {
    "one extended query": Case([(ask("", SELECT_ONE, b"3") + SYNC, 1)] * 2, hits=2),
    "an extended query without Describe": Case(
        [(build_parse("", SELECT_ONE) + build_bind("", "", (b"3",)) + build_execute("") + SYNC, 1)] * 2
    ),
    "an extended query, each message by itself": Case(
        [
            (build_parse("", SELECT_ONE), None),
            (build_bind("", "", (b"3",)), None),
            (build_describe("P", ""), None),
            (build_execute(""), None),
            (SYNC, 1),
        ]
    ),
    "Sync alone": Case([(SYNC, 1), (SYNC + SYNC, 2)]),
    "binary results and text results of one statement": Case(
        [
            (
                build_parse("", SELECT_ALL)
                + build_bind("", "", (), (), f)
                + build_describe("P", "")
                + build_execute("")
                + SYNC,
                1,
            )
            for f in ((), (0,), (1,), (0, 1), (1, 0))
        ],
        hits=5,
    ),
    "binary parameters": Case(
        [
            (
                build_parse("", SELECT_ONE, (23,))
                + build_bind("", "", ((3).to_bytes(4, "big"),), (1,))
                + build_describe("P", "")
                + build_execute("")
                + SYNC,
                1,
            )
        ]
        * 2,
        hits=2,
    ),
    "a parameter that is no number": Case(
        [(ask("", SELECT_ONE, b"x") + SYNC, 1), (ask("", SELECT_ONE, b"3") + SYNC, 1)], hits=1
    ),
    "after an error everything up to Sync is skipped": Case(
        [
            (
                ask("", SELECT_ONE, b"3")
                + ask("", "SELECT 1/0")
                + ask("", "SELECT 2")
                + build_query("SELECT 3")
                + build_describe("S", "none")
                + SYNC
                + ask("", SELECT_ONE, b"4")
                + SYNC,
                2,
            ),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
        ],
        hits=1,
    ),
    "what comes after an error, before Sync, is skipped": Case(
        [
            (ask("", "SELECT 1/0") + FLUSH, "E"),
            (ask("", "SELECT 2") + build_query("SELECT 3"), None),
            (FLUSH, None),
            (SYNC, 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
        ],
    ),
    "Flush without Sync is answered": Case(
        [
            (build_parse("", SELECT_ONE) + build_describe("S", "") + FLUSH, "T"),
            (build_bind("", "", (b"3",)) + FLUSH, "2"),
            (build_execute("") + FLUSH, "C"),
            (build_bind("", "", (b"4",)) + build_execute("") + FLUSH, "C"),
            (SYNC, 1),
            (ask("", SELECT_ONE, b"3") + FLUSH, "C"),
            (SYNC, 1),
        ]
    ),
    "a query in the middle of an extended batch": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("s", SELECT_ONE) + build_bind("p", "s", (b"3",)), None),
            (build_query("SAVEPOINT a"), 1),
            (build_execute("p") + SYNC, 1),
            (build_parse("", SELECT_ONE) + build_query("SELECT 1") + build_bind("", "", (b"3",)) + SYNC, 2),
            (build_query("ROLLBACK TO a; COMMIT"), 1),
        ]
    ),
    "a query right behind an answered cycle": Case(
        [(ask("", SELECT_ONE, b"3") + SYNC + build_query(SELECT_ALL) + ask("", SELECT_ONE, b"4") + SYNC, 3)] * 2
    ),
    "no data": Case(
        [(ask("", "INSERT INTO note VALUES ($1, $2)", b"1", b"x") + SYNC, 1), (ask("", "BEGIN") + SYNC, 1)],
        writes=True,
    ),
    "very many cycles in one write": Case([(b"".join(ask("", SELECT_ONE, b"%d" % n) + SYNC for n in range(300)), 300)]),
    "very many Binds in one batch": Case(
        [(build_parse("s", SELECT_ONE) + b"".join(run("s", b"%d" % (n % 9)) for n in range(500)) + SYNC, 1)]
    ),
    "very many Syncs": Case([(SYNC * 500, 500), (build_query(SELECT_ALL), 1)]),
    "Flush in all places": Case(
        [
            (FLUSH, None),
            (
                FLUSH.join(
                    [
                        build_parse("", SELECT_ONE),
                        build_describe("S", ""),
                        build_bind("", "", (b"3",)),
                        build_describe("P", ""),
                        build_execute(""),
                        SYNC,
                        b"",
                    ]
                ),
                1,
            ),
            (FLUSH + SYNC + FLUSH, 1),
            (ask("", SELECT_ONE, b"3") + FLUSH + FLUSH, "C"),
            (FLUSH + SYNC, 1),
        ]
    ),
    "Flush, and a cached cycle behind it": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_parse("s", SELECT_ONE) + build_describe("S", "s") + FLUSH, "T"),
            (again("s", b"3") + SYNC, 1),
            (build_parse("t", SELECT_ALL) + build_describe("S", "t") + FLUSH, "T"),
            (again("t") + FLUSH, "C"),
            (again("s", b"3") + SYNC, 1),
        ]
    ),
    "an error is told without a Flush only at Sync": Case(
        [(ask("", "SELECT 1/0"), None), (run("", b"1"), None), (SYNC, 1), (ask("", SELECT_ONE, b"3") + SYNC, 1)]
    ),
    "an error in each kind of message": Case(
        [
            (build_parse("", "SELEC") + SYNC, 1),
            (build_bind("", "none") + SYNC, 1),
            (build_describe("S", "none") + SYNC, 1),
            (build_describe("P", "none") + SYNC, 1),
            (build_execute("none") + SYNC, 1),
            (build_close("S", "none") + build_close("P", "none") + SYNC, 1),
        ]
    ),
    "a batch that fails, and batches behind it on their way": Case(
        [
            (
                ask("", SELECT_ONE, b"1")
                + ask("", "SELECT 1/0")
                + SYNC
                + ask("", SELECT_ONE, b"2")
                + SYNC
                + build_bind("", "none")
                + ask("s", SELECT_ONE, b"3")
                + SYNC
                + build_describe("S", "s")
                + SYNC,
                4,
            )
        ]
    ),
    "Describe of a statement in each way": Case(
        [
            (build_parse("a", "SELECT $1::integer, $2::text") + build_describe("S", "a") + SYNC, 1),
            (build_parse("b", "UPDATE item SET name = $1 WHERE false") + build_describe("S", "b") + SYNC, 1),
            (
                build_parse("c", "UPDATE item SET name = $1 WHERE false RETURNING id")
                + build_describe("S", "c")
                + SYNC,
                1,
            ),
            (build_parse("d", "") + build_describe("S", "d") + build_bind("", "d") + build_describe("P", "") + SYNC, 1),
            (build_parse("e", "SHOW server_version_num") + build_describe("S", "e") + SYNC, 1),
            (build_parse("f", "BEGIN") + build_describe("S", "f") + SYNC, 1),
        ]
    ),
    "Binds with wrong counts and formats": Case(
        [
            (build_parse("s", SELECT_ONE) + SYNC, 1),
            (run("s") + SYNC, 1),
            (run("s", b"1", b"2") + SYNC, 1),
            (build_bind("", "s", (b"1",), (0, 0)) + SYNC, 1),
            (build_bind("", "s", (b"1",), (7,)) + SYNC, 1),
            (build_bind("", "s", (b"1",), (), (0, 0, 1)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"1",), (), (9,)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"12345",), (1,)) + build_execute("") + SYNC, 1),
            (again("s", None) + SYNC, 1),
            (again("s", b"3") + SYNC, 1),
        ]
    ),
    "parameter types that do not fit": Case(
        [
            (ask("", SELECT_ONE, b"3", oids=(25,)) + SYNC, 1),
            (ask("", SELECT_ONE, b"3", oids=(20,)) + SYNC, 1),
            (ask("", SELECT_ONE, b"3", oids=(23,)) + SYNC, 1),
            (ask("", SELECT_ONE, b"3", oids=(99999999,)) + SYNC, 1),
            (ask("", SELECT_ONE, b"3", oids=(23, 23)) + SYNC, 1),
        ]
        * 2
    ),
    "values that are null, empty and large": Case(
        [
            (ask("", "SELECT $1::text, $2::text, $3::text", None, b"", b"x" * 70_000) + SYNC, 1),
            (ask("", "SELECT name FROM item WHERE name = $1", None) + SYNC, 1),
            (ask("", "SELECT name FROM item WHERE name = $1", b"") + SYNC, 1),
            (ask("", "SELECT name FROM item WHERE name = $1", b"item 1") + SYNC, 1),
        ],
        hits=3,
    ),
    "several statements in one Parse": Case(
        [(ask("", f"{SELECT_ALL}; SELECT 1") + SYNC, 1), (ask("", "SELECT 1;") + SYNC, 1)]
    ),
    "Describe behind Execute, and twice": Case(
        [
            (
                build_parse("", SELECT_ONE)
                + build_bind("", "", (b"3",))
                + build_describe("P", "")
                + build_describe("P", "")
                + build_execute("")
                + build_describe("P", "")
                + SYNC,
                1,
            )
        ]
        * 2
    ),
    "each reply is waited for, in a block": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("", SELECT_ONE) + FLUSH, "1"),
            (build_bind("p", "", (b"3",)) + FLUSH, "2"),
            (build_describe("P", "p") + FLUSH, "T"),
            (build_execute("p") + FLUSH, "C"),
            (build_close("P", "p") + FLUSH, "3"),
            (SYNC, 1),
            (build_query("COMMIT"), 1),
        ]
    ),
    "a Sync in the middle of a cycle": Case(
        [
            (build_parse("", SELECT_ONE) + SYNC + build_bind("", "", (b"3",)) + SYNC + build_execute("") + SYNC, 3),
            (build_parse("s", SELECT_ONE) + SYNC + again("s", b"3") + SYNC, 2),
        ]
    ),
    "messages with bytes too many and too few": Case(
        [
            (build_frame(0x50, b"\0SELECT 1\0\0\0x") + SYNC, 1),
            (build_frame(0x42, b"\0\0\0\0") + SYNC, 1),
            (build_frame(0x45, b"\0\0\0") + SYNC, 1),
            (build_frame(0x44, b"S") + SYNC, 1),
            (build_frame(0x44, b"X\0") + SYNC, 1),
            (build_frame(0x43, b"X\0") + SYNC, 1),
            (build_frame(0x53, b"xx") + build_query(SELECT_ALL), 2),
        ]
    ),
    "every type of value in text and binary": Case(
        [
            (
                ask(
                    "",
                    "SELECT id, name, id::bigint, id::smallint, id::numeric / 3, id::float8, true, NULL::text,"
                    " '2020-02-03'::date, '2020-02-03 04:05:06.789'::timestamp, '\\x00ff'::bytea,"
                    " '{1,NULL,3}'::integer[], '{\"a\": 1}'::jsonb, '00000000-0000-0000-0000-000000000001'::uuid"
                    " FROM item WHERE id < 4 ORDER BY item.id",
                    results=(code,),
                )
                + SYNC,
                1,
            )
            for code in (0, 1, 0, 1)
        ],
        hits=4,
    ),
}
