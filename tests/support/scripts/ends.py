"""Messages that nobody expects, that are too long, and the ends of a connection."""

from __future__ import annotations

from pgloupe.wire.frontend import (
    build_bind,
    build_describe,
    build_execute,
    build_frame,
    build_parse,
    build_query,
    build_terminate,
)
from support.raw import COPY_DONE, copy_data
from support.scripts.common import SELECT_ALL, SELECT_ONE, SYNC, Case, ask, run

CASES: dict[str, Case] = {
    # some of these end a session of which nobody can say what it wrote: what it may have been is not answered for a while
    "a query during copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta") + build_query("SELECT 1"), "end"),
        ],
        writes=True,
    ),
    "a message of unknown type": Case([(build_frame(0x79, b"what"), "end")]),
    "a length that cannot be": Case([(b"Q\xff\xff\xff\xff" + b"x" * 20, "end")]),
    "a Query that is longer than a frame may be kept": Case(
        [(build_query("SELECT 1 /*" + "x" * (3 << 20) + "*/"), 1), (build_query(SELECT_ALL), 1)]
    ),
    "a Bind that is longer than a frame may be kept": Case(
        [
            (ask("", "SELECT length($1)", b"x" * (3 << 20)) + SYNC, 1),
            (build_bind("", "", (b"abc",)) + build_execute("") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a value that is longer than a frame may be kept": Case(
        [(build_query("SELECT repeat('x', 3000000) FROM item WHERE id < 3"), 1), (build_query(SELECT_ALL), 1)]
    ),
    "Terminate": Case([(build_terminate(), "end")]),
    "Terminate behind a query": Case([(build_query(SELECT_ALL) + build_terminate(), "end")]),
    "a password that nobody asked for": Case([(build_frame(0x70, b"secret\0"), "end")]),
    "the beginning of a message of unknown type": Case([(b"y", "end")]),
    "a start-up message in a session": Case([(b"\0\0\0\x08\x04\xd2\x16\x2f", "end")]),
    "Terminate in the middle of a batch": Case([(ask("", SELECT_ONE, b"3") + build_terminate(), "end")]),
    "Terminate in the middle of a transaction": Case(
        [
            (build_query("BEGIN; UPDATE item SET name = 'never'"), 1),
            (build_query(SELECT_ALL) + build_terminate(), "end"),
        ],
        writes=True,
    ),
    "Terminate in the middle of copy in": Case(
        [(build_query("COPY note FROM STDIN"), "G"), (copy_data("1\ta") + build_terminate(), "end")], writes=True
    ),
    "Terminate, and messages behind it": Case([(build_terminate() + build_query(SELECT_ALL), "end")]),
    "a session that ends itself": Case(
        [(build_query(SELECT_ALL), 1), (build_query("SELECT pg_terminate_backend(pg_backend_pid())"), "end")]
    ),
    "a Parse that is longer than a frame may be kept": Case(
        [
            (build_parse("s", "SELECT 1 /*" + "x" * (3 << 20) + "*/") + build_describe("S", "s") + SYNC, 1),
            (run("s") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "copied data that is longer than a frame may be kept": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\t" + "x" * (3 << 20)) + COPY_DONE, 1),
            (build_query("SELECT id, length(body) FROM note"), 1),
            (build_query("COPY note TO STDOUT"), 1),
        ],
        writes=True,
    ),
    "an error that is longer than a frame may be kept": Case(
        [(build_query("SELECT repeat('x', 3000000)::integer"), 1), (build_query(SELECT_ALL), 1)]
    ),
}
