"""Portals and cursors: suspension, several at once, WITH HOLD, FETCH of what was bound."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_parse,
    build_query,
)
from support.scripts.common import FLUSH, SELECT_ALL, SELECT_ONE, SYNC, Case, ask

CASES: dict[str, Case] = {
    "a suspended portal": Case(
        [
            (build_parse("", SELECT_ALL) + build_bind("", "") + build_execute("", 4) + FLUSH, "s"),
            (build_execute("", 4) + FLUSH, "s"),
            (build_execute("", 4) + FLUSH, "C"),
            (build_execute("", 4) + FLUSH, "C"),
            (SYNC, 1),
        ]
    ),
    "a suspended portal in a transaction block": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("", SELECT_ALL) + build_bind("p", "") + build_execute("p", 4) + SYNC, 1),
            (build_execute("p", 4) + SYNC, 1),
            (build_execute("p", 0) + SYNC, 1),
            (build_query("COMMIT"), 1),
            (build_execute("p", 0) + SYNC, 1),
        ]
    ),
    "a row limit, and the portal ends with Sync": Case(
        [(ask("", SELECT_ALL, limit=n) + SYNC, 1) for n in (1, 2, 9, 10, 1)], hits=5
    ),
    "a portal that ended with Sync": Case([(ask("", SELECT_ALL, limit=2) + SYNC, 1), (build_execute("", 2) + SYNC, 1)]),
    "several portals at once": Case(
        [
            (
                build_parse("a", SELECT_ALL)
                + build_parse("b", SELECT_ONE)
                + build_bind("p", "a")
                + build_bind("q", "b", (b"3",))
                + build_execute("p", 2)
                + build_execute("q")
                + build_execute("p", 3)
                + build_close("P", "p")
                + build_execute("p")
                + SYNC,
                1,
            ),
        ]
    ),
    "a cursor WITH HOLD": Case(
        [
            (build_query("BEGIN; DECLARE c CURSOR WITH HOLD FOR " + SELECT_ALL + "; FETCH 2 FROM c; COMMIT"), 1),
            (build_query("FETCH 2 FROM c"), 1),
            (build_describe("P", "c") + build_execute("c", 2) + SYNC, 1),
            (build_query("CLOSE c"), 1),
        ]
    ),
    "a portal that is suspended again and again": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("", "SELECT n FROM generate_series(1, 7) n") + build_bind("p", "") + SYNC, 1),
            *[(build_execute("p", 3) + SYNC, 1)] * 4,
            (build_describe("P", "p") + build_execute("p", 0) + SYNC, 1),
            (build_query("COMMIT"), 1),
        ]
    ),
    "a row limit that is exactly the number of rows": Case(
        [
            (build_parse("", SELECT_ALL) + build_bind("", "") + build_execute("", 9) + build_execute("", 9) + SYNC, 1),
            (ask("", SELECT_ALL, limit=-1) + SYNC, 1),
        ]
    ),
    "several portals of one statement in a block": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("s", SELECT_ALL) + b"".join(build_bind(p, "s") for p in ("p", "q", "")) + SYNC, 1),
            (build_execute("p", 2) + build_execute("q", 3) + build_execute("", 4) + SYNC, 1),
            (build_execute("q", 3) + build_execute("p", 2) + SYNC, 1),
            (build_bind("p", "s") + SYNC, 1),
            (build_query("ROLLBACK"), 1),
            (build_execute("q", 1) + SYNC, 1),
        ]
    ),
    "portals outlive the statement that they were made of": Case(
        [
            (build_query("BEGIN"), 1),
            (
                build_parse("s", SELECT_ALL)
                + build_bind("p", "s")
                + build_close("S", "s")
                + build_execute("p", 2)
                + SYNC,
                1,
            ),
            (build_execute("p", 2) + SYNC, 1),
            (build_query("COMMIT"), 1),
        ]
    ),
    "portals and savepoints": Case(
        [
            (build_query("BEGIN; SAVEPOINT a"), 1),
            (build_parse("", SELECT_ALL) + build_bind("p", "") + build_execute("p", 2) + SYNC, 1),
            (build_query("ROLLBACK TO a"), 1),
            (build_execute("p", 2) + SYNC, 1),
            (build_query("ROLLBACK"), 1),
        ]
    ),
    "an unnamed portal in a block and a simple query": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("", SELECT_ALL) + build_bind("", "") + build_execute("", 2) + SYNC, 1),
            (build_query("SELECT 1"), 1),
            (build_execute("", 2) + SYNC, 1),
            (build_query("ROLLBACK"), 1),
        ]
    ),
    "a write that is suspended": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("BEGIN"), 1),
            (
                build_parse("", "UPDATE item SET name = 'w' RETURNING id")
                + build_bind("p", "")
                + build_execute("p", 2)
                + SYNC,
                1,
            ),
            (build_execute("p", 2) + SYNC, 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "FETCH of a portal that was bound, which writes": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("BEGIN"), 1),
            (build_parse("", "DELETE FROM item WHERE id > 6 RETURNING id") + build_bind("p", "") + SYNC, 1),
            (build_query("FETCH 1 FROM p"), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "MOVE of a portal that was bound, which writes": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("BEGIN"), 1),
            (build_parse("", "UPDATE item SET name = 'm' WHERE id = 6 RETURNING id") + build_bind("p", "") + SYNC, 1),
            (build_query("MOVE ALL FROM p"), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "cursors by SQL, fetched by the protocol and the other way round": Case(
        [
            (build_query(f"BEGIN; DECLARE c SCROLL CURSOR FOR {SELECT_ALL}"), 1),
            (build_execute("c", 2) + SYNC, 1),
            (build_query("FETCH BACKWARD 1 FROM c; MOVE 2 IN c; FETCH RELATIVE 1 FROM c; FETCH ABSOLUTE -1 FROM c"), 1),
            (build_parse("", SELECT_ALL) + build_bind("p", "") + SYNC, 1),
            (build_query("FETCH 2 FROM p; FETCH ALL FROM p; CLOSE p"), 1),
            (build_execute("p") + SYNC, 1),
            (build_query("ROLLBACK"), 1),
        ]
    ),
    "a cursor WITH HOLD sees what was, not what is": Case(
        [
            (build_query(f"BEGIN; DECLARE c CURSOR WITH HOLD FOR {SELECT_ALL}; COMMIT"), 1),
            (build_query("UPDATE item SET name = 'new'"), 1),
            (build_query("FETCH 3 FROM c"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "FETCH 2 FROM c") + SYNC, 1),
            (build_query("CLOSE ALL"), 1),
            (build_query("FETCH 1 FROM c"), 1),
        ],
        writes=True,
    ),
    "a cursor through which rows are changed": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("BEGIN; DECLARE c CURSOR FOR SELECT * FROM item WHERE id = 2 FOR UPDATE; FETCH 1 FROM c"), 1),
            (build_query("UPDATE item SET name = 'current' WHERE CURRENT OF c"), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a limit on what is copied, called and set": Case(
        [
            (build_parse("", "COPY item TO STDOUT") + build_bind("", "") + build_execute("", 1) + SYNC, 1),
            (ask("", "SET search_path = public", limit=1) + SYNC, 1),
            (ask("", "SHOW search_path", limit=1) + SYNC, 1),
            (ask("", "EXPLAIN (COSTS OFF) SELECT 1", limit=1) + SYNC, 1),
        ]
    ),
}
