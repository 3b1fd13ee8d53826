"""COPY in both directions, by both sub-protocols, as it should be and as it should not."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_bind,
    build_execute,
    build_parse,
    build_query,
)
from support.raw import COPY_DONE, copy_data, copy_fail
from support.scripts.common import FLUSH, SELECT_ALL, SELECT_ONE, SYNC, Case, ask, run

CASES: dict[str, Case] = {
    "copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta", "2\tb"), None),
            (copy_data("3\tc") + COPY_DONE, 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
        ],
        writes=True,
    ),
    "copy in, sent without waiting": Case(
        [
            (build_query("COPY note FROM STDIN") + copy_data("1\ta") + COPY_DONE + build_query("TABLE note"), 2),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "Sync and Flush during copy in are ignored": Case(
        [
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + SYNC, "G"),
            (copy_data("1\ta") + FLUSH + SYNC, None),
            (copy_data("2\tb") + COPY_DONE + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "CopyFail": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta") + copy_fail("no more"), 1),
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + FLUSH, "G"),
            (copy_data("1\ta") + copy_fail("no more") + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "an error in the middle of copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta", "x\tb"), 1),
            (copy_data("3\tc") + COPY_DONE, None),
            (build_query("TABLE note"), 1),
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + FLUSH, "G"),
            (copy_data("1\ta", "x\tb"), "E"),
            (copy_data("3\tc") + COPY_DONE + build_query("SELECT 1"), None),
            (SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "copy out": Case(
        [
            (build_query("COPY item TO STDOUT"), 1),
            (build_parse("", "COPY item TO STDOUT") + build_bind("", "") + build_execute("") + SYNC, 1),
            (build_query("COPY item TO STDOUT; SELECT 1; COPY (SELECT 1/0) TO STDOUT; SELECT 2"), 1),
        ]
    ),
    "an early Sync and a copy whose data is wrong": Case(
        [
            (build_parse("", "COPY note FROM STDIN") + run("") + SYNC, "G"),
            (copy_data("1\ta", "x\tb") + COPY_DONE + SYNC, 1),
            (build_query("TABLE note"), 1),
            (build_parse("", "COPY note FROM STDIN") + run("") + SYNC, "G"),
            (copy_data("x\tb"), "E"),
            (copy_data("3\tc") + copy_fail("no more") + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "an early Sync and a copy that is refused before its data is read": Case(
        [
            (build_parse("", "COPY guarded FROM STDIN") + run("") + SYNC, 1),
            (copy_data("1\ta") + COPY_DONE + SYNC, 1),
            (build_query("SELECT 1"), 1),
            (build_parse("", "COPY guarded FROM STDIN") + run("") + SYNC + copy_data("1\ta") + COPY_DONE + SYNC, 2),
            (build_query("SELECT 2"), 1),
        ]
    ),
    "an early Sync and a copy that cannot begin": Case(
        [
            (build_parse("", "COPY none FROM STDIN") + run("") + SYNC, 1),
            (copy_data("1\ta") + COPY_DONE + SYNC, 1),
            (build_query("COPY none FROM STDIN") + copy_data("1\ta") + COPY_DONE, 1),
            (build_query("SELECT 1"), 1),
        ]
    ),
    "Syncs everywhere in a copy that fails": Case(
        [
            (build_parse("", "COPY note FROM STDIN") + run("") + SYNC * 2, "G"),
            (SYNC + copy_data("1\ta") + SYNC + FLUSH + copy_data("x\tb") + SYNC + SYNC + COPY_DONE + SYNC, 3),
            (build_query("TABLE note"), 1),
            (build_query("COPY note FROM STDIN") + SYNC + copy_data("x\tb") + SYNC + COPY_DONE + SYNC, 3),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "a copy whose rows are refused at its end": Case(
        [
            (build_query("COPY note FROM STDIN") + copy_data("1\ta", "1\tb") + COPY_DONE, 1),
            (build_parse("", "COPY note FROM STDIN") + run("") + copy_data("1\ta", "1\tb") + COPY_DONE + SYNC, 1),
            (build_parse("", "COPY late FROM STDIN") + run("") + copy_data("1", "1") + COPY_DONE + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "a copy among several statements": Case(
        [
            (build_query("SELECT 1; COPY note FROM STDIN; SELECT count(*) FROM note; COPY note TO STDOUT"), "G"),
            (copy_data("1\ta") + COPY_DONE, 1),
            (build_query("COPY note FROM STDIN; COPY item FROM STDIN; SELECT 1"), "G"),
            (copy_data("2\tb") + COPY_DONE, "G"),
            (copy_data("30\tthirty") + COPY_DONE, 1),
            (build_query(SELECT_ALL), 1),
            (build_query("COPY note FROM STDIN; SELECT 1"), "G"),
            (copy_fail("no more"), 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "two copies in one batch": Case(
        [
            (
                build_parse("a", "COPY note FROM STDIN")
                + build_parse("b", "COPY item FROM STDIN")
                + run("a")
                + copy_data("1\ta")
                + COPY_DONE
                + run("b")
                + copy_data("40\tforty")
                + COPY_DONE
                + SYNC,
                1,
            ),
            (build_query(SELECT_ALL), 1),
            (run("a") + copy_data("1\ta") + COPY_DONE + run("b") + copy_data("50\tfifty") + COPY_DONE + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a copy, and a batch behind it on its way": Case(
        [
            (
                build_parse("", "COPY note FROM STDIN")
                + run("")
                + copy_data("1\ta")
                + COPY_DONE
                + SYNC
                + ask("", SELECT_ONE, b"3")
                + SYNC
                + build_query("TABLE note"),
                3,
            )
        ],
        writes=True,
    ),
    "a copy in a transaction that is rolled back": Case(
        [
            (build_query("BEGIN; COPY note FROM STDIN"), "G"),
            (copy_data("1\ta") + COPY_DONE, 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("ROLLBACK"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("BEGIN; COPY note FROM STDIN"), "G"),
            (copy_fail("no more"), 1),
            (build_query("COPY note FROM STDIN"), 1),
            (copy_data("1\ta") + COPY_DONE + build_query("ROLLBACK"), 1),
        ],
        writes=True,
    ),
    "copied data in the wrong place": Case(
        [
            (copy_data("1\ta") + COPY_DONE + copy_fail("what"), None),
            (build_query(SELECT_ALL), 1),
            (ask("", SELECT_ONE, b"3") + copy_data("1\ta") + COPY_DONE + SYNC, 1),
            (build_query("COPY item TO STDOUT") + COPY_DONE + copy_fail("what"), 1),
        ]
    ),
    "a copy of nothing, and of all at once": Case(
        [
            (build_query("COPY note FROM STDIN") + COPY_DONE, 1),
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data(*[f"{n}\t{'x' * 50}" for n in range(2000)]) + COPY_DONE, 1),
            (build_query("SELECT count(*) FROM note"), 1),
            (build_query("COPY note TO STDOUT"), 1),
        ],
        writes=True,
    ),
    "copies in other formats": Case(
        [
            (build_query("COPY note FROM STDIN WITH (FORMAT csv, HEADER)"), "G"),
            (copy_data("id,body", "1,a", '2,"b', 'c"') + COPY_DONE, 1),
            (build_query("COPY (SELECT * FROM note ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)"), 1),
            (build_query("COPY item TO STDOUT WITH (FORMAT binary)"), 1),
            (build_query("COPY note FROM STDIN WITH (FORMAT binary)"), "G"),
            (copy_data("no header") + COPY_DONE, 1),
        ],
        writes=True,
    ),
    "an error in the middle of copy out": Case(
        [
            (build_query("COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) n) TO STDOUT"), 1),
            (ask("", "COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) n) TO STDOUT") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a read behind copied data": Case(
        [
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\tone") + COPY_DONE, 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_parse("", "COPY note FROM STDIN") + run("") + SYNC, "G"),
            (copy_data("2\ttwo") + COPY_DONE + SYNC, 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
        ],
        writes=True,
    ),
}
