"""Names of prepared statements: what makes them, what takes them away, and what they mean in between."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_parse,
    build_query,
)
from support.raw import function_call
from support.scripts.common import FLUSH, INT4PL, SELECT_ALL, SELECT_ONE, SYNC, Case, again, ask, run

CASES: dict[str, Case] = {
    "a prepared statement": Case(
        [
            (build_parse("s", SELECT_ONE) + build_describe("S", "s") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"4",)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"3",), (0,), (1,)) + build_describe("P", "") + build_execute("") + SYNC, 1),
            (build_close("S", "s") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "the unnamed statement is used again": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_describe("P", "") + build_execute("") + SYNC, 1),
            (build_describe("S", "") + SYNC, 1),
            (build_bind("p", "", (b"5",)) + build_execute("p") + SYNC, 1),
        ],
        hits=2,
    ),
    "a simple query destroys the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
            (build_describe("S", "") + SYNC, 1),
        ],
    ),
    "Close of the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_close("S", "") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "a Parse that fails destroys the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_parse("", "SELEC") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "the same name is prepared twice": Case(
        [
            (build_parse("s", SELECT_ONE) + SYNC, 1),
            (build_parse("s", "SELECT 1") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_describe("P", "") + build_execute("") + SYNC, 1),
        ],
        hits=1,
    ),
    "names that SQL takes away": Case(
        [
            (build_parse("s", SELECT_ONE) + build_parse("t", SELECT_ALL) + SYNC, 1),
            (build_query("DEALLOCATE s"), 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
            (build_bind("", "t") + build_execute("") + SYNC, 1),
            (build_query("DISCARD ALL"), 1),
            (build_bind("", "t") + build_execute("") + SYNC, 1),
        ],
    ),
    "a name whose second Parse fails, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", "DELETE FROM item WHERE id = 1") + SYNC, 1),
            (build_parse("s", "SELECT 1") + SYNC + build_bind("", "s") + build_execute("") + SYNC, 2),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a name whose Close and Parse are skipped, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", "DELETE FROM item WHERE id = 2") + SYNC, 1),
            (
                ask("", "SELECT 1/0")
                + build_close("S", "s")
                + build_parse("s", "SELECT 1")
                + SYNC
                + build_bind("", "s")
                + build_execute("")
                + SYNC,
                2,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "an unnamed Parse that is skipped, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("", "DELETE FROM item WHERE id = 3") + SYNC, 1),
            (
                build_bind("", "missing")
                + build_parse("", "SELECT 1")
                + SYNC
                + build_bind("", "")
                + build_execute("")
                + SYNC,
                2,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a named statement survives a Parse of its name that fails": Case(
        [
            (build_parse("s", SELECT_ONE) + build_describe("S", "s") + SYNC, 1),
            (build_parse("s", "SELEC") + SYNC, 1),
            (build_parse("s", "SELECT 2") + SYNC, 1),
            (run("s", b"3") + SYNC, 1),
            (run("s", b"3") + SYNC, 1),
        ],
        hits=1,
    ),
    "the unnamed statement is destroyed by a query that is answered by the cache": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("", SELECT_ONE) + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (run("", b"3") + SYNC, 1),
            (build_parse("", SELECT_ONE) + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_describe("S", "") + SYNC, 1),
            (build_parse("", SELECT_ONE) + SYNC + build_query(SELECT_ALL) + run("", b"3") + SYNC, 3),
        ],
    ),
    "what is answered by the cache, and what may lie between it and the next use of the unnamed statement": Case(
        [
            step
            for behind in (
                b"",
                FLUSH,
                build_describe("S", ""),
                run("", b"4"),
                build_bind("", "none") + run("", b"4"),
                build_parse("s", "SELECT 1") + run("", b"4") + build_close("S", "s"),
                ask("", "SELECT 1/0") + SYNC + build_parse("", SELECT_ONE),
                build_parse("", "SELEC") + SYNC + build_parse("", SELECT_ONE),
                build_parse("", SELECT_ONE),
                build_close("S", "") + build_parse("", SELECT_ONE),
            )
            for step in (
                (ask("", SELECT_ONE, b"3") + SYNC, 1),
                (behind + SYNC, 1 + behind.count(SYNC)),
                (run("", b"5") + SYNC, 1),
            )
        ],
        hits=4,
    ),
    "a use of the unnamed statement that a cached answer has destroyed": Case(
        [
            step
            for behind in (
                build_close("S", ""),
                build_parse("", "SELEC"),
                build_query("SELECT 1"),
                function_call(INT4PL, bytes(4), bytes(4)),
                build_query(SELECT_ALL) + build_query(SELECT_ALL),
            )
            for step in (
                (build_query(SELECT_ALL), 1),
                (ask("", SELECT_ONE, b"3") + SYNC, 1),
                (behind + SYNC, 1 + behind.count(b"Q\0\0\0") + behind.count(b"F\0\0\0")),
                (run("", b"5") + SYNC, 1),
            )
        ]
    ),
    "SQL and protocol share their names": Case(
        [
            (build_query("PREPARE s AS SELECT name FROM item WHERE id = $1"), 1),
            (run("s", b"3") + SYNC, 1),
            (build_parse("s", "SELECT 1") + SYNC, 1),
            (build_parse("t", SELECT_ONE) + SYNC, 1),
            (build_query("EXECUTE t (3)"), 1),
            (build_query("PREPARE t AS SELECT 1"), 1),
            (build_close("S", "s") + SYNC, 1),
            (build_query("EXECUTE s (3)"), 1),
            (build_query("DEALLOCATE t; DEALLOCATE t"), 1),
            (build_describe("S", "t") + SYNC, 1),
            (build_query("DEALLOCATE PREPARE ALL"), 1),
        ]
    ),
    "names with capitals and quotes": Case(
        [
            (
                build_parse("Big", SELECT_ONE) + build_parse("big", "SELECT 1") + build_parse('a"b', SELECT_ALL) + SYNC,
                1,
            ),
            (build_query("DEALLOCATE Big"), 1),
            (run("Big", b"3") + SYNC, 1),
            (run("big") + SYNC, 1),
            (build_query('DEALLOCATE "a""b"'), 1),
            (run('a"b') + SYNC, 1),
        ]
    ),
    "DEALLOCATE and PREPARE of a name, and its Bind on its way": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", SELECT_ALL) + SYNC, 1),
            (build_query("DEALLOCATE s; PREPARE s AS DELETE FROM item WHERE id = 4") + run("s") + SYNC, 2),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "Close and Parse of a name, and its Bind on its way": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", SELECT_ALL) + SYNC, 1),
            (
                build_close("S", "s")
                + build_parse("s", "DELETE FROM item WHERE id = 5")
                + run("s")
                + SYNC
                + build_query(SELECT_ALL),
                2,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "DEALLOCATE by SQL and Parse of the name on its way": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", SELECT_ALL) + SYNC, 1),
            (
                build_query("DEALLOCATE s")
                + build_parse("s", "DELETE FROM item WHERE id = 6")
                + SYNC
                + run("s")
                + SYNC,
                3,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a block of code that prepares a name anew": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", SELECT_ALL) + SYNC, 1),
            (
                build_query(
                    "DO $$ BEGIN EXECUTE 'DEALLOCATE s'; EXECUTE 'PREPARE s AS DELETE FROM item WHERE id = 7'; END $$"
                ),
                1,
            ),
            (run("s") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a query longer than may be kept that prepares a name anew": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", SELECT_ALL) + SYNC, 1),
            (
                build_query(
                    "SELECT 1; DEALLOCATE s; PREPARE s AS DELETE FROM item WHERE id = 8 /*" + "x" * (2 << 20) + "*/"
                ),
                1,
            ),
            (run("s") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "names do not roll back": Case(
        [
            (build_query("BEGIN; PREPARE s AS SELECT 1; ROLLBACK"), 1),
            (run("s") + SYNC, 1),
            (build_query("BEGIN; DEALLOCATE s; SELECT 1/0"), 1),
            (build_query("ROLLBACK"), 1),
            (run("s") + SYNC, 1),
        ]
    ),
    "DISCARD ALL, and what is there afterwards": Case(
        [
            (ask("s", SELECT_ONE, b"3") + SYNC, 1),
            (ask("", "DISCARD ALL") + SYNC, 1),
            (run("s", b"3") + SYNC, 1),
            (run("") + SYNC, 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query("DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP"), 1),
            (run("", b"3") + SYNC, 1),
        ]
    ),
    "a statement whose tables change under it": Case(
        [
            (build_query("CREATE TEMPORARY TABLE mine AS SELECT 1 AS id"), 1),
            (build_parse("s", "SELECT id FROM mine") + build_describe("P", "") + SYNC, 1),
            (build_parse("s", "SELECT * FROM mine") + SYNC + run("s") + SYNC, 2),
            (build_query("ALTER TABLE mine ADD COLUMN more text"), 1),
            (run("s") + SYNC, 1),
            (build_query("DROP TABLE mine"), 1),
            (run("s") + SYNC, 1),
        ]
    ),
    "a plan whose result no longer fits": Case(
        [
            (build_parse("s", "TABLE note") + build_describe("S", "s") + SYNC, 1),
            (run("s") + SYNC, 1),
            (build_query("ALTER TABLE note ADD COLUMN extra integer"), 1),
            (run("s") + SYNC, 1),
            (again("s") + SYNC, 1),
            (build_query("ALTER TABLE note DROP COLUMN extra"), 1),
            (run("s") + SYNC, 1),
        ]
    ),
}
