"""One request over several connections of a pool, and the many things that look like it."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe_rules.catalog import Catalog, Catalogs, Table
from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.example import example_of
from pgloupe_rules.normalise import recognise
from pgloupe_rules.pool import MAX_BYTES_IN_ALL, MAX_ENTRIES, MAX_REST
from pgloupe_rules.types import Column, Finding, Literal, Outcome, SessionInfo, Slot, Statement, comparable

VISITS = [701, 704, 709, 710, 722, 731, 745, 760]
DOCTORS = [55, 91, 43, 77, 62, 88, 31, 29]
LIST = "SELECT id, doctor_id FROM visit ORDER BY id LIMIT 8"
DOCTOR = "SELECT name FROM doctor WHERE id = $1"
NOTES = "SELECT id, body FROM note WHERE visit_id = $1"


def value_of(slot: Slot, parameters: list[Any]) -> Any:
    if isinstance(slot, Literal):
        return slot.value
    if isinstance(slot, tuple):
        return tuple(value_of(item, parameters) for item in slot)
    return comparable(parameters[slot - 1])


class Pool:
    """Connections of one client, told of in the order in which their answers came."""

    def __init__(self, catalogs: Catalogs | None = None) -> None:
        self.failures: list[Exception] = []
        self.engine = Engine(Settings(), catalogs=catalogs, on_failure=lambda name, error: self.failures.append(error))
        self.infos: dict[int, SessionInfo] = {}
        self.numbers: dict[int, int] = {}
        self.waiting: list[Outcome] = []
        self.findings: list[Finding] = []
        self.now_ms = 1000.0
        self.client = "10.0.0.7"
        self.changes: dict[int, dict[str, str]] = {}

    def info(self, session: int) -> SessionInfo:
        if session not in self.infos:
            values = {"database": "clinic", "user": "app", "application_name": "web", **self.changes.get(session, {})}
            host = values.pop("host", self.client)
            self.infos[session] = SessionInfo(session, client=f"{host}:{40000 + session}", **values)
        return self.infos[session]

    def ask(
        self,
        session: int,
        sql: str,
        parameters: list[Any] | None = None,
        columns: dict[str, list[Any]] | None = None,
        *,
        at_ms: float | None = None,
        ms: float = 1.0,
        transaction: int = 0,
        tags: str = "",
        serial: bool = True,
        places: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        """One statement; without `at_ms` half a millisecond after the last answer."""
        asked_ms = self.now_ms + 0.5 if at_ms is None else at_ms
        self.now_ms = max(self.now_ms, asked_ms + ms)
        text = f"{sql} /*{tags}*/" if tags else sql
        number = self.numbers[session] = self.numbers.get(session, 0) + 1
        shown = columns or {}
        rows = [tuple(comparable(value) for value in values) for values in shown.values()]
        for recognised in recognise(text):
            statement = Statement(
                self.info(session),
                number,
                recognised,
                text,
                simple=parameters is None,
                decode=lambda made: tuple(value_of(slot, parameters or []) for slot in made.recognised.slots),
                received_s=asked_ms / 1000,
                batch=number + 1000 * session,
                serial=serial,
                status="T" if transaction else "I",
                transaction=transaction,
            )
            self.waiting.append(
                Outcome(
                    statement,
                    rows=len(rows[0]) if rows else int(sql.startswith("UPDATE")),
                    finished_s=(asked_ms + ms) / 1000,
                    server_s=ms / 1000,
                    columns=tuple(Column(name, *(places or {}).get(name, (0, 0))) for name in shown),
                    decode=lambda _outcome: tuple(rows),
                )
            )

    def list(self, session: int = 1, **options: Any) -> None:
        self.ask(session, LIST, None, {"id": VISITS, "doctor_id": DOCTORS}, **options)

    def gather(self, sql: str, keys: list[Any], sessions: list[int], **options: Any) -> None:
        """A statement for each key, as many at once as there are sessions."""
        free = dict.fromkeys(sessions, self.now_ms + 2.0)
        for place, key in enumerate(keys):
            session = min(free, key=lambda one: (free[one], one))
            self.ask(session, sql, [key], {"name": [f"n{key}"]}, at_ms=free[session], ms=2.5 + place % 2, **options)
            free[session] += 3.0 + place % 2

    def pause(self, ms: float) -> None:
        self.now_ms += ms

    def close(self) -> list[Finding]:
        self.flush()
        self.findings += self.engine.close()
        if self.failures:
            raise self.failures[0]
        return self.findings

    def flush(self) -> None:
        for outcome in sorted(self.waiting, key=lambda outcome: outcome.finished_s):
            self.findings += self.engine.observe(outcome)
        self.waiting.clear()


def only(pool: Pool, count: int = 8, column: str = "doctor_id") -> Finding:
    (finding,) = pool.close()
    assert (finding.rule, finding.confidence.value, finding.count) == ("n_plus_one", "proven", count)
    assert finding.parent is not None
    assert (finding.parent.tables, finding.parent.column, finding.parent.rows) == (("visit",), column, 8)
    return finding


# --- one request ---


@pytest.mark.parametrize(
    "sessions", [[1, 2], [2, 3], [1, 2, 3, 4], [5, 6, 7, 8, 9], list(range(1, 9)), list(range(2, 10))]
)
def test_look_ups_that_run_at_once_over_a_pool_are_a_loop(sessions: list[int]) -> None:
    pool = Pool()
    pool.list()
    pool.gather(DOCTOR, DOCTORS, sessions)
    finding = only(pool)
    assert finding.session == 1
    assert finding.tags["application_name"] == ["web"]
    assert finding.advice is not None
    assert finding.advice.sql == "SELECT id, name FROM doctor WHERE id = ANY($1)"
    before, _, keys = example_of(finding).partition("'{")
    assert before == "SELECT id, name FROM doctor WHERE id = ANY("
    assert sorted(keys.removesuffix("}');").split(",")) == sorted(map(str, DOCTORS))
    assert finding.distinct_params == 8
    assert finding.total_ms == pytest.approx(24.0)


def test_a_loop_that_takes_a_connection_for_each_turn_is_found() -> None:
    pool = Pool()
    pool.list(1)
    for place, visit in enumerate(VISITS):
        session = 1 + place % 2
        pool.ask(session, "SELECT 1")
        pool.ask(session, "BEGIN", transaction=place + 1)
        pool.ask(session, NOTES, [visit], {"id": [visit * 2], "body": ["x"]}, transaction=place + 1)
        pool.ask(session, "COMMIT", transaction=place + 1)
    only(pool, column="id")


def test_a_reset_or_what_a_driver_asks_for_itself_is_no_part_of_a_request() -> None:
    pool = Pool()
    pool.list(1)
    for place, visit in enumerate(VISITS):
        session = 2 + place % 3
        pool.ask(session, "SELECT pg_catalog.version()", None, {"version": ["15"]})
        pool.ask(session, "SELECT oid FROM pg_catalog.pg_type WHERE typname = 'x'", None, {"oid": [1, 2]})
        pool.ask(session, NOTES, [visit], {"id": [visit * 2], "body": ["x"]})
        pool.ask(session, "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;")
    only(pool, column="id")


def test_that_connections_are_made_meanwhile_explains_a_pause() -> None:
    pool = Pool()
    pool.list(1)
    pool.flush()
    for session in (2, 3, 4):
        info = pool.info(session)
        info.started_s = (pool.now_ms + 5) / 1000
        pool.engine.start_session(info)
    pool.pause(300)
    pool.gather(DOCTOR, DOCTORS, [1, 2, 3, 4])
    only(pool)


def test_the_same_pause_without_them_does_not() -> None:
    pool = Pool()
    pool.list(1)
    pool.pause(300)
    pool.gather(DOCTOR, DOCTORS, [2, 3, 4])
    assert pool.close() == []


def test_the_order_is_not_kept_where_connections_race() -> None:
    pool = Pool()
    pool.list(1)
    pool.gather(NOTES, [VISITS[place] for place in (0, 4, 5, 6, 7, 3, 2, 1)], [1, 2, 3, 4])
    only(pool, column="id")


def test_two_loops_over_one_list_are_two_findings() -> None:
    pool = Pool()
    pool.list(1)
    for place, (visit, doctor) in enumerate(zip(VISITS, DOCTORS, strict=True)):
        pool.ask(2 + place % 3, NOTES, [visit], {"id": [visit * 2], "body": ["x"]})
        pool.ask(2 + (place + 1) % 3, DOCTOR, [doctor], {"name": ["x"]})
    assert sorted((finding.tables, finding.count) for finding in pool.close()) == [(("doctor",), 8), (("note",), 8)]


def test_the_rows_of_the_children_can_be_parents_in_turn() -> None:
    pool = Pool()
    pool.list(1)
    authors = [901, 733, 654, 812, 577, 948, 690, 721]
    for place, visit in enumerate(VISITS):
        pool.ask(
            2 + place % 3, "SELECT author_id FROM note WHERE visit_id = $1", [visit], {"author_id": [authors[place]]}
        )
    for place, author in enumerate(authors):
        pool.ask(2 + place % 3, "SELECT email FROM author WHERE id = $1", [author], {"email": ["x"]})
    found = {finding.tables: finding.parent for finding in pool.close()}
    assert set(found) == {("note",), ("author",)}
    parent = found["author",]
    assert parent is not None
    assert (parent.tables, parent.column) == (("note",), "author_id")


def test_writes_at_once_are_a_write_loop() -> None:
    pool = Pool()
    pool.list(1)
    pool.gather("UPDATE visit SET seen = true WHERE id = $1", VISITS, [1, 2, 3])
    (finding,) = pool.close()
    assert (finding.rule, finding.count, finding.tables) == ("n_plus_one_write", 8, ("visit",))
    assert finding.sent is None


def test_what_one_connection_shows_by_itself_is_not_reported_twice() -> None:
    pool = Pool()
    pool.list(1)
    for place, doctor in enumerate(DOCTORS):
        pool.ask(2 if place == 3 else 1, DOCTOR, [doctor], {"name": ["x"]})
    only(pool)


def test_one_trace_over_several_connections_is_one_unit_whatever_else_happens() -> None:
    pool = Pool()
    mine = "traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'"
    pool.list(1, tags=mine)
    for place, doctor in enumerate(DOCTORS):
        other = f"traceparent='00-{place:032x}-b7ad6b7169203331-01'"
        pool.ask(3, "SELECT user_id FROM login WHERE token = $1", [f"t{place}"], {"user_id": [place]}, tags=other)
        pool.ask(3, DOCTOR, [doctor], {"name": ["x"]}, tags=other)
        pool.ask(2 + 2 * (place % 2), DOCTOR, [doctor], {"name": ["x"]}, tags=mine)
        pool.pause(20)
    finding = only(pool)
    assert "traceparent" not in finding.tags


# --- many requests ---


def test_clients_that_have_lists_of_their_own_follow_their_own() -> None:
    pool = Pool()
    for session in range(1, 9):
        pool.list(session, at_ms=1000.0, ms=2.0 + session / 10)
    for session, doctor in enumerate(DOCTORS, 1):
        pool.ask(session, DOCTOR, [doctor], {"name": ["x"]}, at_ms=1004.0)
    assert pool.close() == []


def test_clients_one_after_another_with_a_connection_each_are_not_added_up() -> None:
    pool = Pool()
    pool.list(1)
    for session, doctor in enumerate(DOCTORS, 2):
        pool.ask(session, DOCTOR, [doctor], {"name": ["x"]})
    assert pool.close() == []


def test_requests_look_up_their_user_first() -> None:
    pool = Pool()
    pool.list(1)
    for place, doctor in enumerate(DOCTORS):
        session = 2 + place % 3
        pool.ask(session, "SELECT user_id FROM login WHERE token = $1", [f"t{place}"], {"user_id": [place]})
        pool.ask(session, DOCTOR, [doctor], {"name": ["x"]})
    assert pool.close() == []


def test_look_ups_of_users_on_other_connections_tell_of_requests_too() -> None:
    pool = Pool()
    pool.list(1)
    for place, doctor in enumerate(DOCTORS):
        pool.ask(5, "SELECT user_id FROM login WHERE token = $1", [f"t{place}"], {"user_id": [place]})
        pool.ask(2 + place % 3, DOCTOR, [doctor], {"name": ["x"]})
    assert pool.close() == []


@pytest.mark.parametrize(
    "change", [{"user": "report"}, {"database": "other"}, {"application_name": "cron"}, {"host": "10.0.0.8"}]
)
def test_another_client_is_another_pool(change: dict[str, str]) -> None:
    pool = Pool()
    pool.changes = dict.fromkeys((2, 3, 4), change)
    pool.list(1)
    pool.gather(DOCTOR, DOCTORS, [2, 3, 4])
    assert pool.close() == []


def test_many_users_on_one_page_ask_for_one_value_often() -> None:
    pool = Pool()
    pool.list(1)
    pool.gather(DOCTOR, [55, 55, 55, 91, 55, 43, 55, 91, 77], [2, 3, 4])
    assert pool.close() == []


def test_a_value_that_is_not_in_the_list_shows_that_others_ask_the_same() -> None:
    pool = Pool()
    pool.list(1)
    pool.gather(DOCTOR, [*DOCTORS[:4], 333, *DOCTORS[4:]], [2, 3, 4])
    assert pool.close() == []


def test_users_follow_some_rows_of_a_list_and_a_loop_all() -> None:
    pool = Pool()
    pool.list(1)
    pool.gather(DOCTOR, DOCTORS[:5], [2, 3, 4])
    assert pool.close() == []


def test_requests_with_traces_of_their_own_are_not_added_up() -> None:
    pool = Pool()
    pool.list(1, tags="request_id='a'")
    for place, doctor in enumerate(DOCTORS):
        pool.ask(2 + place % 3, DOCTOR, [doctor], {"name": ["x"]}, tags=f"request_id='{place // 2}'")
    assert pool.close() == []


def test_another_part_of_the_application_is_another_request() -> None:
    pool = Pool()
    pool.list(1, tags="route='%2Fvisits'")
    pool.gather(DOCTOR, DOCTORS, [2, 3, 4], tags="route='%2Fdoctor'")
    assert pool.close() == []


def test_tiles_with_small_constants_at_once_are_no_loop() -> None:
    pool = Pool()
    pool.ask(1, "SELECT id, name FROM ward ORDER BY id", None, {"id": [1, 2, 3, 4, 5, 6], "name": list("abcdef")})
    pool.gather("SELECT count(*) FROM alarm WHERE level = $1", [1, 2, 3, 4, 5, 6], [2, 3, 4])
    assert pool.close() == []


def test_ids_of_tables_that_have_nothing_to_do_with_each_other_are_no_loop() -> None:
    catalogs = Catalogs()
    tables = {
        20001: Table("public", "visit", {1: "id", 2: "doctor_id"}, {}),
        20002: Table("public", "invoice", {1: "id"}, {}),
    }
    catalogs.put("clinic", Catalog(tables, [], [(20001, 1), (20002, 1)]))
    for known in (False, True):
        pool = Pool(catalogs if known else None)
        pool.list(1, places={"id": (20001, 1)})
        pool.gather("SELECT total FROM invoice WHERE id = $1", VISITS, [2, 3, 4])
        assert len(pool.close()) == (0 if known else 1)


def test_queries_sent_in_batches_over_a_pool_wait_for_nothing() -> None:
    pool = Pool()
    pool.list(1)
    for place, doctor in enumerate(DOCTORS):
        pool.ask(2 + place % 2, DOCTOR, [doctor], {"name": ["x"]}, at_ms=1005.0, serial=place < 2)
    assert pool.close() == []


def test_chunks_of_keys_at_once_are_batches() -> None:
    pool = Pool()
    pool.list(1)
    for place in range(4):
        keys = DOCTORS[2 * place : 2 * place + 2]
        pool.ask(2 + place, "SELECT name FROM doctor WHERE id = ANY($1)", [keys], {"name": ["x", "y"]}, at_ms=1010.0)
    assert pool.close() == []


def test_an_application_name_that_changes_changes_the_pool() -> None:
    pool = Pool()
    pool.list(1)
    pool.flush()
    for session in (2, 3, 4):
        pool.ask(session, "SELECT 1")
        pool.flush()
        pool.info(session).application_name = "worker"
    pool.gather(DOCTOR, DOCTORS, [2, 3, 4])
    assert pool.close() == []


# --- bounds ---


def test_what_is_kept_of_a_busy_pool_is_bounded_and_it_is_watched_less_and_less() -> None:
    pool = Pool()
    engine = pool.engine
    seen = 0
    for place in range(12_000):
        pool.ask(
            1 + place % 6, f"SELECT a, b FROM t{place % 50} WHERE k = $1", [place], {"a": [1, 2], "b": [3, 4]}, ms=0.1
        )
        pool.flush()
        (kept,) = engine._pools.values()
        assert len(kept.entries) <= MAX_ENTRIES
        assert sum(entry.weight for entry in kept.entries) <= MAX_BYTES_IN_ALL
        seen += bool(kept.entries)
    assert pool.close() == []
    assert seen < 4000
    assert kept._rest <= MAX_REST


def test_pools_and_sessions_that_are_gone_leave_nothing() -> None:
    pool = Pool()
    for session in range(1, 200):
        pool.changes[session] = {"user": f"u{session}"}
        pool.list(session)
        pool.flush()
        pool.engine.end_session(pool.info(session))
    assert pool.engine._pools == {}
    assert pool.engine._sessions == {}


def test_a_session_that_began_and_asked_nothing_leaves_nothing() -> None:
    pool = Pool()
    pool.engine.start_session(pool.info(1))
    assert pool.engine.end_session(pool.info(1)) == []
    assert pool.engine._pools == {}
