"""Transactions and settings, and what is read behind them: the cache must have noticed."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_query,
)
from support.scripts.common import FLUSH, SELECT_ALL, SELECT_ONE, SYNC, Case, ask

CASES: dict[str, Case] = {
    "a write and the read behind it": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'new' WHERE id = 2"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "UPDATE item SET name = $1 WHERE id = 3", b"newer") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "writes and reads in one pipeline": Case(
        [
            (
                ask("", "UPDATE item SET name = 'a' WHERE id = 1")
                + SYNC
                + build_query("SELECT name FROM item WHERE id = 1")
                + ask("", "UPDATE item SET name = 'b' WHERE id = 1")
                + SYNC
                + build_query("SELECT name FROM item WHERE id = 1")
                + build_query("UPDATE item SET name = 'c' WHERE id = 1")
                + build_query("SELECT name FROM item WHERE id = 1"),
                6,
            )
        ],
        writes=True,
    ),
    "a failed transaction": Case(
        [
            (build_query("BEGIN"), 1),
            (build_query("INSERT INTO note VALUES (1, 'a')"), 1),
            (build_query("SELECT 1/0"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query("COMMIT"), 1),
            (build_query("SELECT * FROM note"), 1),
        ],
        writes=True,
    ),
    "settings change what is read": Case(
        [
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
            (build_query("SET bytea_output = 'escape'"), 1),
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
        ],
        hits=3,
    ),
    "an implicit transaction of several statements that fails": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'u' WHERE id = 1; SELECT 1/0"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'u' WHERE id = 1; COMMIT; SELECT 1/0"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "BEGIN in the middle of several statements": Case(
        [
            (
                build_query(
                    "UPDATE item SET name = 'one' WHERE id = 1; BEGIN; UPDATE item SET name = 'two' WHERE id = 2"
                ),
                1,
            ),
            (build_query(SELECT_ALL), 1),
            (build_query("ROLLBACK"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "COMMIT AND CHAIN": Case(
        [
            (build_query("BEGIN; UPDATE item SET name = 'chained' WHERE id = 1; COMMIT AND CHAIN"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'undone' WHERE id = 1; ROLLBACK AND CHAIN"), 1),
            (build_query("SELECT 1/0"), 1),
            (build_query("COMMIT AND CHAIN"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("COMMIT AND CHAIN"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "savepoints": Case(
        [
            (build_query("BEGIN"), 1),
            (build_query("INSERT INTO note VALUES (1, 'kept'); SAVEPOINT a; INSERT INTO note VALUES (2, 'undone')"), 1),
            (build_query("SELECT 1/0"), 1),
            (build_query("TABLE note"), 1),
            (build_query("ROLLBACK TO SAVEPOINT a"), 1),
            (build_query("INSERT INTO note VALUES (3, 'kept too'); RELEASE SAVEPOINT a"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("COMMIT"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("BEGIN; SAVEPOINT a; DELETE FROM note; SAVEPOINT b; RELEASE a; ROLLBACK TO b"), 1),
            (build_query("ROLLBACK TO a"), 1),
            (build_query("COMMIT"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
        ],
        writes=True,
    ),
    "two-phase commit": Case(
        [
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("BEGIN; INSERT INTO note VALUES (1, 'prepared')"), 1),
            (build_query("PREPARE TRANSACTION 'two phases'"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("COMMIT PREPARED 'two phases'"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("BEGIN; DELETE FROM note; PREPARE TRANSACTION 'two phases'"), 1),
            (build_query("ROLLBACK PREPARED 'two phases'"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("COMMIT PREPARED 'nothing'"), 1),
        ],
        writes=True,
    ),
    "transactions by extended query in one pipeline": Case(
        [
            (build_query(SELECT_ALL), 1),
            (
                b"".join(
                    ask("", sql) + SYNC
                    for sql in ("BEGIN", "UPDATE item SET name = 'a' WHERE id = 1", "COMMIT", SELECT_ALL, "BEGIN")
                ),
                5,
            ),
            (ask("", "UPDATE item SET name = 'b' WHERE id = 1") + ask("", "ROLLBACK") + ask("", SELECT_ALL) + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "COMMIT without Sync in the middle of a batch that fails": Case(
        [
            (build_query(SELECT_ALL), 1),
            (
                ask("", "UPDATE item SET name = 'kept' WHERE id = 1")
                + ask("", "COMMIT")
                + ask("", "UPDATE item SET name = 'lost' WHERE id = 2")
                + ask("", "SELECT 1/0")
                + SYNC,
                1,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a write without Sync that a simple query commits": Case(
        [
            (build_query(SELECT_ALL), 1),
            (ask("", "UPDATE item SET name = 'early' WHERE id = 1") + FLUSH, "C"),
            (build_query(SELECT_ALL), 1),
            (SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a constraint that fails at Sync": Case(
        [
            (ask("", "INSERT INTO late VALUES (1)") + ask("", "INSERT INTO late VALUES (1)") + SYNC, 1),
            (build_query("TABLE late"), 1),
            (build_query("BEGIN; INSERT INTO late VALUES (1), (1)"), 1),
            (build_query("SET CONSTRAINTS ALL IMMEDIATE"), 1),
            (build_query("COMMIT"), 1),
            (ask("", "INSERT INTO late VALUES (1), (1)") + SYNC + ask("", SELECT_ONE, b"3") + SYNC, 2),
            (build_query("TABLE late"), 1),
        ],
        writes=True,
    ),
    "isolation levels and read only": Case(
        [
            (build_query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " + SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'no'"), 1),
            (build_query("ROLLBACK"), 1),
            (build_query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), 1),
            (build_query("UPDATE item SET name = 'no'"), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "warnings of commands that do not fit": Case(
        [
            (build_query("COMMIT"), 1),
            (build_query("ROLLBACK"), 1),
            (build_query("BEGIN; BEGIN"), 1),
            (build_query("COMMIT; COMMIT"), 1),
            (build_query("SAVEPOINT a"), 1),
            (build_query("SET LOCAL search_path = other"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a setting decides which table is read": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("SET search_path = other"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query("RESET search_path"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
        ],
        hits=5,
    ),
    "a setting that is rolled back": Case(
        [
            (build_query("BEGIN; SET search_path = other"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("ROLLBACK"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("SET search_path = other; SELECT 1/0"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "SET search_path = other") + ask("", "SELECT 1/0") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "SET search_path = other") + ask("", "COMMIT") + ask("", "SELECT 1/0") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a setting that is rolled back to a savepoint": Case(
        [
            (build_query("BEGIN; SAVEPOINT a; SET search_path = other; ROLLBACK TO a; COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("BEGIN; SAVEPOINT a; SET search_path = other; RELEASE a; COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("DISCARD ALL"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "settings of one transaction, by function, and for ever": Case(
        [
            (build_query("BEGIN; SET LOCAL search_path = other; COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("SELECT set_config('search_path', 'other', true)"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "SELECT set_config($1, $2, false)", b"search_path", b"other") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_query("DISCARD ALL"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a setting and the read behind it on their way": Case(
        [
            (build_query(SELECT_ALL), 1),
            (
                build_query("SET search_path = other")
                + build_query(SELECT_ALL)
                + build_query("RESET search_path")
                + build_query(SELECT_ALL),
                4,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        hits=2,
    ),
    "reported settings in the middle of a batch": Case(
        [
            (
                ask("", "SET TimeZone = 'Asia/Tokyo'")
                + ask("", SELECT_ONE, b"3")
                + ask("", "SET application_name = 'batch'")
                + SYNC
                + ask("", SELECT_ONE, b"3")
                + SYNC,
                2,
            ),
            (build_query("BEGIN; SET TimeZone = 'Europe/Paris'; SET IntervalStyle = 'iso_8601'"), 1),
            (build_query("ROLLBACK"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a temporary table in front of the real one": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("CREATE TEMPORARY TABLE item AS SELECT 1 AS id, 'temporary'::text AS name"), 1),
            (build_query("SELECT count(*) FROM item"), 1),
            (build_query("DROP TABLE pg_temp.item"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "writes in each form": Case(
        [
            step
            for sql in (
                "UPDATE item SET name = name || '.' WHERE id = 1",
                "INSERT INTO item VALUES (20, 'new') ON CONFLICT DO NOTHING",
                "DELETE FROM item WHERE id = 20",
                "WITH w AS (UPDATE item SET name = 'cte' WHERE id = 2 RETURNING id) SELECT count(*) FROM w",
                "SELECT touch()",
                "DO $$ BEGIN UPDATE item SET name = 'code' WHERE id = 4; END $$",
                "MERGE INTO item USING (SELECT 5 AS id) s ON item.id = s.id WHEN MATCHED THEN UPDATE SET name = 'merged'",
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) DELETE FROM item WHERE id = 6",
                "PREPARE w AS UPDATE item SET name = 'executed' WHERE id = 7; EXECUTE w; DEALLOCATE w",
                "COPY (DELETE FROM item WHERE id = 8 RETURNING id) TO STDOUT",
                "TRUNCATE item",
            )
            for step in ((build_query(SELECT_ALL), 1), (build_query(sql), 1), (build_query(SELECT_ALL), 1))
        ],
        writes=True,
    ),
}
