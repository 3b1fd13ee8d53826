"""What the rules hold of one session, in bytes, whatever the session does: measured with real frames."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from pgloupe.session.session import Session
from pgloupe.wire.frontend import build_query as query
from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import SessionInfo
from support.conversation import BOUND, PARSED, Conversation, complete, data_row, extended, ready, row_description

MOST_BYTES = 256 * 1024
STATEMENTS = 240


class Client(Conversation):
    """A session whose outcomes go to an engine at once. Inside one transaction, so that nothing ever ends."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(Session(SessionInfo(1, database="d", user="u", client="c:1"), recognise))
        self.engine = engine
        self.statement(query("BEGIN"), complete("BEGIN"), status="T")

    def statement(self, sent: bytes, *answer: bytes, status: str = "T") -> None:
        self.now_s -= 1.999  # a conversation goes on by a second at each turn
        self.client(sent)
        self.server(*answer, ready(status))
        self.to_server = self.to_client = b""
        outcomes, self.outcomes = self.outcomes, []
        for outcome in outcomes:
            self.engine.observe(outcome)

    def simple(self, sql: str, rows: list[bytes], names: list[str]) -> None:
        self.statement(query(sql), row_description(*names), *rows, complete(f"SELECT {len(rows)}"))

    def prepared(self, sql: str, values: list[bytes], rows: list[bytes], names: list[str], tag: str = "SELECT") -> None:
        described = row_description(*names) if names else b"n\x00\x00\x00\x04"
        done = complete(f"{tag} {len(rows)}" if tag == "SELECT" else tag)
        self.statement(extended(sql, *values), PARSED, BOUND, described, *rows, done)


def small_rows(number: int, rows: int) -> list[bytes]:
    return [data_row(str(number * 100 + row), "x") for row in range(rows)]


def new_templates(client: Client, number: int) -> None:
    client.simple(f"SELECT id, a{number} FROM t{number} WHERE k = 4", small_rows(number, 3), ["id", "a"])


def long_templates(client: Client, number: int) -> None:
    columns = ", ".join(f"column_{number}_{place}" for place in range(90))
    client.simple(f"SELECT {columns} FROM t WHERE k = 4", small_rows(number, 1), ["id", "a"])


def templates_that_all_repeat(client: Client, number: int) -> None:
    client.prepared(
        f"SELECT id, b FROM t{number // 2} WHERE k = $1", [b"%d" % number], small_rows(number, 1), ["id", "b"]
    )


def wide_results(client: Client, number: int) -> None:
    rows = [data_row(str(number), "w" * 700, "é" * 300) for _ in range(40)]
    client.simple(f"SELECT id, w, v FROM t{number % 9} WHERE k = {number}", rows, ["id", "w", "v"])


def huge_rows(client: Client, number: int) -> None:
    client.simple(f"SELECT w FROM t WHERE k = {number}", [data_row("w" * 60_000), data_row("w" * 60_000)], ["w"])


def one_row_each(client: Client, number: int) -> None:
    client.prepared(
        "SELECT id, w FROM t WHERE k = $1", [b"%d" % number], [data_row(str(number), "w" * 2000)], ["id", "w"]
    )


def huge_parameters(client: Client, number: int) -> None:
    client.prepared(f"SELECT id, a{number} FROM t WHERE k = $1", [b"p" * 60_000], small_rows(number, 2), ["id", "a"])


def huge_parameters_of_one_template(client: Client, number: int) -> None:
    client.prepared(
        "SELECT id FROM t WHERE k = $1", [b"%d" % number + b"p" * 60_000], small_rows(number, 2), ["id", "a"]
    )


def huge_literals(client: Client, number: int) -> None:
    client.simple(f"SELECT id, a FROM t WHERE k = '{number}{'é' * 20_000}'", small_rows(number, 2), ["id", "a"])


def long_lists(client: Client, number: int) -> None:
    keys = ", ".join(str(number * 1000 + key) for key in range(120))
    client.simple(f"SELECT id, a FROM t WHERE k IN ({keys})", small_rows(number, 5), ["id", "a"])


def rows_of_many_columns_written(client: Client, number: int) -> None:
    marks = ", ".join(f"${place}" for place in range(1, 121))
    client.prepared(f"INSERT INTO t VALUES ({marks})", [b"v%d" % number] * 120, [], [], "INSERT 0 1")


def moments_and_amounts_as_text(client: Client, number: int) -> None:
    values = [
        b"%d" % number,
        b"2024-01-01 10:00:00.%06d+05" % number,
        b"%d.1234567890123456789012345678901234500" % number,
    ]
    client.prepared(
        f"SELECT id FROM t{number % 40} WHERE k = $1 AND at = $2 AND amount = $3",
        values,
        small_rows(number, 2),
        ["id", "a"],
    )


def texts_written(client: Client, number: int) -> None:
    client.prepared(
        f"INSERT INTO t{number % 40} (a, b, c) VALUES ($1, $2, $3)",
        [b"%d" % number, b"a" * 95, "é".encode() * 95],
        [],
        [],
        "INSERT 0 1",
    )


def writes_and_reads_by_turns(client: Client, number: int) -> None:
    if number % 2:
        client.prepared(f"UPDATE t{number} SET a = $1", [b"x" * 500], [], [], "UPDATE 7")
    else:
        client.simple(f"SELECT a FROM t{number % 40} WHERE k = {number}", small_rows(number, 1), ["id", "a"])


def tags_without_end(client: Client, number: int) -> None:
    tags = ",".join(f"k{number}_{place}='{'é' * 200}'" for place in range(15))
    client.simple(f"SELECT a FROM t WHERE k = {number} /*{tags}*/", small_rows(number, 1), ["id", "a"])


def cursors_without_end(client: Client, number: int) -> None:
    text = "x" * 5000
    client.statement(
        query(f"DECLARE c{number} CURSOR FOR SELECT '{text}', a{number} FROM t"), complete("DECLARE CURSOR")
    )
    client.simple(f"FETCH 5 FROM c{number}", small_rows(number, 5), ["id", "a"])


@pytest.mark.parametrize(
    "traffic",
    [
        new_templates,
        long_templates,
        templates_that_all_repeat,
        wide_results,
        huge_rows,
        one_row_each,
        huge_parameters,
        huge_parameters_of_one_template,
        huge_literals,
        long_lists,
        rows_of_many_columns_written,
        texts_written,
        moments_and_amounts_as_text,
        writes_and_reads_by_turns,
        tags_without_end,
        cursors_without_end,
    ],
    ids=lambda traffic: traffic.__name__,
)
def test_a_session_holds_less_than_256_kb(traffic: Callable[[Client, int], None]) -> None:
    failures: list[Exception] = []
    engine = Engine(Settings(), on_failure=lambda name, error: failures.append(error))
    client = Client(engine)
    traffic(client, 0)
    tracemalloc.start()
    most = 0
    try:
        for number in range(1, STATEMENTS):
            traffic(client, number)
            if number % 40 == 39:
                gc.collect()
                most = max(most, tracemalloc.get_traced_memory()[0])
        engine._sessions.clear()
        engine._pools.clear()
        gc.collect()
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert not failures
    assert most - left < MOST_BYTES, most - left
    # what is left is the session's and the memos', and not the rules'
    assert left < 1_500_000


def test_the_same_over_everything_by_turns() -> None:
    """A unit of work that had all of it still finds the loop that comes last."""
    engine = Engine(Settings())
    client = Client(engine)
    everything = [new_templates, wide_results, huge_parameters, huge_literals, texts_written, long_lists]
    for number in range(240):
        everything[number % len(everything)](client, number)
    client.simple("SELECT id, a FROM visit", [data_row(str(key), "x") for key in range(7000, 7012)], ["id", "a"])
    for key in range(7000, 7012):
        client.simple(f"SELECT b FROM note WHERE visit_id = {key}", [data_row("x")], ["b"])
    found = [finding for finding in engine.close() if finding.tables == ("note",)]
    assert [(finding.count, finding.confidence.value) for finding in found] == [(12, "proven")]
