"""What counts as a query of a unit of work."""

from __future__ import annotations

import pytest

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.tally import MAX_TEMPLATES, MAX_TRACES, Tally
from pgloupe_rules.unit_of_work import UnitOfWork
from support.traces import Player

Counted = tuple[int, int, dict[str, int]]


class Units:
    """Plays statements and keeps what the engine said of each unit of work: queries, others, templates with counts."""

    def __init__(self) -> None:
        self.seen: list[Counted] = []
        self.traces: list[dict[str, int]] = []
        self.player = Player(Engine(Settings(), on_unit=self._unit))

    def _unit(self, unit: UnitOfWork, tally: Tally) -> None:
        parts = tally.parts.values()
        counts = {calls.template.text: calls.count for part in parts for calls in part.calls.values()}
        self.seen.append((sum(part.queries for part in parts), sum(part.others for part in parts), counts))
        self.traces.append({trace: part.queries for trace, part in tally.parts.items() if part.queries})

    def played(self) -> list[Counted]:
        self.player.close()
        return self.seen


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM post WHERE id = 1",
        "INSERT INTO post (id) VALUES (1)",
        "WITH old AS (DELETE FROM post RETURNING id) SELECT count(*) FROM old",
        "CALL archive(2020)",
        "SELECT archive(2020)",
        "SELECT nextval('post_id_seq')",
        "SELECT now()",
        "FETCH 100 FROM cursor_1",
        "CREATE TABLE t (id int)",
        "LOCK TABLE post",
        "SELECT p.id FROM post p JOIN pg_catalog.pg_class c ON c.relname = p.title",
        "EXECUTE some_statement",
    ],
)
def test_a_statement_about_data_is_a_query(sql: str) -> None:
    units = Units()
    units.player.run(sql)
    assert [(queries, others) for queries, others, _ in units.played()] == [(1, 0)]


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "START TRANSACTION READ ONLY",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s1",
        "RELEASE SAVEPOINT s1",
        "ROLLBACK TO SAVEPOINT s1",
        "SET TIME ZONE 'UTC'",
        "SHOW standard_conforming_strings",
        "RESET ALL",
        "DISCARD ALL",
        "DEALLOCATE ALL",
        "CLOSE ALL",
        "LISTEN jobs",
        "SELECT 1",
        "SELECT pg_catalog.version()",
        "SELECT current_schema()",
        "SELECT set_config('app.user', '7', false)",
        "SELECT pg_advisory_unlock_all()",
        "SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace",
    ],
)
def test_what_drivers_and_pools_say_by_themselves_is_counted_beside(sql: str) -> None:
    units = Units()
    units.player.run(sql)
    assert [(queries, others) for queries, others, _ in units.played()] == [(0, 1)]


def test_statements_of_one_template_in_one_batch_are_one_query() -> None:
    units = Units()
    insert = {"sql": "INSERT INTO audit (id) VALUES ($1)", "params": ["{n}"]}
    units.player.steps(
        [
            {"sql": "SELECT id FROM post"},
            {"pipeline": [{"for": {"n": [1, 2, 3]}, "do": [insert]}, {"sql": "SELECT id FROM author"}]},
            {"pipeline": [{"for": {"n": [4, 5]}, "do": [insert]}]},
        ]
    )
    ((queries, _, counts),) = units.played()
    assert queries == 4
    assert counts == {"SELECT id FROM post": 1, "INSERT INTO audit (id) VALUES ($1)": 2, "SELECT id FROM author": 1}


def test_rows_fetched_from_one_portal_in_parts_are_one_query() -> None:
    units = Units()
    units.player.run("SELECT id FROM post", [], {"id": [1, 2]}, suspended=True)
    units.player.run("SELECT id FROM post", [], {"id": [3, 4]}, resumes=True)
    assert [queries for queries, _, _ in units.played()] == [1]


def test_a_query_that_failed_was_asked_all_the_same() -> None:
    units = Units()
    units.player.run("SELECT nothing FROM nowhere", error="42P01")
    assert [queries for queries, _, _ in units.played()] == [1]


def test_units_of_work_are_counted_apart() -> None:
    units = Units()
    for _ in range(2):
        units.player.run("SELECT id FROM post")
        units.player.now_s += 1
    units.player.run("SELECT id FROM author")
    units.player.run("SELECT id FROM tag", session=2)
    units.player.end(2)
    assert [queries for queries, _, _ in units.played()] == [1, 1, 1, 1]


def test_queries_are_counted_by_trace_and_those_without_go_with_the_trace_before() -> None:
    units = Units()
    units.player.run("SELECT id FROM tag")
    for trace in ("aa", "bb", "aa"):
        units.player.run(f"SELECT id FROM post /*traceparent='00-{trace}-0000000000000001-01'*/")
        units.player.run("SELECT id FROM author")
    units.played()
    assert units.traces == [{"": 1, "aa": 4, "bb": 2}]


def test_traces_are_bounded() -> None:
    units = Units()
    for number in range(MAX_TRACES + 50):
        units.player.run(f"SELECT id FROM post /*request_id='{number}'*/", ms=0.01)
    assert [queries for queries, _, _ in units.played()] == [MAX_TRACES + 50]
    assert len(units.traces[0]) == MAX_TRACES - 1


def test_templates_are_bounded_and_the_sum_is_not() -> None:
    units = Units()
    for number in range(MAX_TEMPLATES + 50):
        units.player.run(f"SELECT c{number} FROM post", ms=0.01)
    ((queries, _, counts),) = units.played()
    assert queries == MAX_TEMPLATES + 50
    assert len(counts) == MAX_TEMPLATES


def test_nothing_is_counted_where_nobody_asked() -> None:
    player = Player(Engine(Settings()))
    player.run("SELECT id FROM post")
    assert all(session.tally is None for session in player.engine._sessions.values())


@pytest.mark.parametrize("tag", ["route='/{}'", "test='test_{}'", "request_id='{}'"])
def test_requests_in_transactions_are_parted_by_their_tags_though_a_driver_s_begin_carries_none(tag: str) -> None:
    units = Units()
    for place in "aba":
        units.player.run("BEGIN")
        units.player.run("SET LOCAL statement_timeout = '5s'")
        for _ in range(3):
            units.player.run(f"SELECT id FROM post /*{tag.format(place)}*/")
        units.player.run("COMMIT")
    assert [queries for queries, _, _ in units.played()] == [3, 3, 3]


def test_within_a_transaction_another_tag_does_not_part_a_unit_of_work() -> None:
    units = Units()
    units.player.run("BEGIN")
    for route in "ab":
        units.player.run(f"SELECT id FROM post /*route='/{route}'*/")
    units.player.run("COMMIT")
    assert [queries for queries, _, _ in units.played()] == [2]
