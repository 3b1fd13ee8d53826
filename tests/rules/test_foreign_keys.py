"""What the server's catalogs add to the evidence, and what the rules do without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgloupe_rules.catalog import FIRST_USER_OID, MAX_DATABASES, Catalog, Catalogs, ForeignKey, Relation, Table
from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Column, Finding, Outcome, SessionInfo, Statement

VISIT, DOCTOR, NOTE, WARD, LINK = range(20001, 20006)
TABLES = {
    VISIT: Table("public", "visit", {1: "id", 2: "doctor_id", 3: "level"}, {}),
    DOCTOR: Table("public", "doctor", {1: "id", 2: "name"}, {}),
    NOTE: Table("public", "note", {1: "id", 2: "visit"}, {}),
    WARD: Table("public", "ward", {1: "id"}, {}),
    LINK: Table("public", "link", {1: "doctor_id", 2: "ward_id"}, {}),
}
FOREIGN_KEYS = [
    ForeignKey(VISIT, (2,), DOCTOR, (1,)),
    ForeignKey(NOTE, (2,), VISIT, (1,)),
    ForeignKey(LINK, (1,), DOCTOR, (1,)),
    ForeignKey(LINK, (2,), WARD, (1,)),
]
KEYS = [(table, 1) for table in (VISIT, DOCTOR, NOTE, WARD)]
CATALOG = Catalog(TABLES, FOREIGN_KEYS, KEYS)


def catalogs(catalog: Catalog | None = CATALOG) -> Catalogs:
    known = Catalogs()
    if catalog is not None:
        known.put("clinic", catalog)
    return known


class Feed:
    """One session; columns are given as name: (table, attribute, values)."""

    def __init__(self, known: Catalogs) -> None:
        self.failures: list[Exception] = []
        self.engine = Engine(Settings(), catalogs=known, on_failure=lambda name, error: self.failures.append(error))
        self.info = SessionInfo(1, database="clinic")
        self.number = 0
        self.transaction = 0
        self.now_s = 50.0

    def __call__(
        self, sql: str, columns: dict[str, tuple[int, int, list[Any]]] | None = None, *, rows: int | None = None
    ) -> None:
        self.number += 1
        self.now_s += 0.001
        shown = columns or {}
        values = tuple(tuple(column[2]) for column in shown.values())
        statement = Statement(
            self.info,
            self.number,
            recognise(sql)[0],
            sql,
            received_s=self.now_s,
            batch=self.number,
            status="T" if self.transaction else "I",
            transaction=self.transaction,
        )
        outcome = Outcome(
            statement,
            rows=rows if rows is not None else len(values[0]) if values else 0,
            finished_s=self.now_s,
            columns=tuple(Column(name, column[0], column[1]) for name, column in shown.items()),
            decode=lambda _outcome: values,
        )
        assert self.engine.observe(outcome) == []

    def close(self) -> list[Finding]:
        found = self.engine.close()
        assert not self.failures
        return found


def visits(ids: list[int]) -> dict[str, tuple[int, int, list[Any]]]:
    return {"v_1": (VISIT, 1, ids), "v_2": (VISIT, 2, [number + 400 for number in ids])}


def test_columns_have_their_real_names_and_the_foreign_key_is_told() -> None:
    feed = Feed(catalogs())
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]))
    for number in (701, 702, 703):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    (finding,) = feed.close()
    assert finding.foreign_key == "note.visit → visit.id"
    parent, child = finding.parent, finding.child
    assert parent is not None
    assert child is not None
    assert (parent.table, parent.column, parent.output) == ("visit", "id", "v_1")
    assert (child.table, child.column, child.unique) == ("note", "visit", False)


def test_without_catalogs_the_names_are_those_of_the_result() -> None:
    feed = Feed(catalogs(None))
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]))
    for number in (701, 702, 703):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    (finding,) = feed.close()
    assert finding.parent is not None
    assert (finding.foreign_key, finding.parent.table, finding.parent.column) == ("", "", "v_1")


@pytest.mark.parametrize(("known", "found"), [(True, 1), (False, 0)])
def test_two_runs_are_enough_with_a_foreign_key_whatever_the_names(known: bool, found: int) -> None:
    feed = Feed(catalogs(CATALOG if known else None))
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([7, 8]))
    for number in (7, 8):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    assert len(feed.close()) == found


def test_two_runs_are_enough_with_a_foreign_key_where_rows_of_the_parent_were_not_kept() -> None:
    feed = Feed(catalogs())
    feed.transaction = 1
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]), rows=900)
    for number in (701, 702):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    (finding,) = feed.close()
    assert (finding.confidence.value, finding.count) == ("proven", 2)


@pytest.mark.parametrize(("known", "confidence"), [(True, ["likely"]), (False, [])])
def test_a_loop_over_rows_that_were_not_kept_is_likely_by_its_foreign_key(known: bool, confidence: list[str]) -> None:
    feed = Feed(catalogs(CATALOG if known else None))
    feed.transaction = 1
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]), rows=900)
    for number in (1500, 1501, 1502, 1503):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    found = feed.close()
    assert [finding.confidence.value for finding in found] == confidence
    for finding in found:
        assert finding.parent is not None
        assert (finding.parent.table, finding.parent.column, finding.count) == ("visit", "id", 4)


def test_outside_of_a_transaction_look_ups_of_other_rows_are_clicks() -> None:
    feed = Feed(catalogs())
    feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]), rows=900)
    for number in (1500, 1501, 1502, 1503):
        feed(f"SELECT n.id AS n_1 FROM note AS n WHERE n.visit = {number}", {"n_1": (NOTE, 1, [5])})
    assert feed.close() == []


@pytest.mark.parametrize(("known", "found"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("numbers", [[11, 12, 13], [201, 202, 203, 204, 205, 206]])
def test_equal_ids_of_tables_that_are_not_related_prove_nothing(numbers: list[int], known: bool, found: int) -> None:
    feed = Feed(catalogs(CATALOG if known else None))
    feed("SELECT id FROM ward", {"id": (WARD, 1, numbers)})
    for number in numbers:
        feed(f"SELECT name FROM doctor WHERE id = {number}", {"name": (DOCTOR, 2, ["x"])})
    assert len(feed.close()) == found


@pytest.mark.parametrize(("name", "found"), [("count", 0), ("doctor_id", 1)])
def test_a_number_that_was_reckoned_is_no_key(name: str, found: int) -> None:
    feed = Feed(catalogs())
    feed("SELECT count(*) FROM visit GROUP BY level", {name: (0, 0, [12, 13, 14, 15, 16])})
    for number in (12, 13, 14, 15, 16):
        feed(f"SELECT name FROM doctor WHERE id = {number}", {"name": (DOCTOR, 2, ["x"])})
    assert len(feed.close()) == found


def test_values_that_nobody_meets_by_chance_prove_it_all_the_same() -> None:
    feed = Feed(catalogs())
    numbers = [5_000_111, 5_000_222, 5_000_333]
    feed("SELECT id FROM ward", {"id": (WARD, 1, numbers)})
    for number in numbers:
        feed(f"SELECT name FROM doctor WHERE id = {number}", {"name": (DOCTOR, 2, ["x"])})
    assert len(feed.close()) == 1


def test_of_two_parents_with_equal_values_the_one_with_the_foreign_key_is_named() -> None:
    numbers = [31, 32, 33, 34, 35]
    for known, table in ((True, ("visit",)), (False, ("ward",))):
        feed = Feed(catalogs(CATALOG if known else None))
        feed("SELECT id, doctor_id AS d FROM visit", {"id": (VISIT, 1, [9, 8, 7, 6, 5]), "d": (VISIT, 2, numbers)})
        feed("SELECT id FROM ward", {"id": (WARD, 1, numbers)})
        for number in numbers:
            feed(f"SELECT name FROM doctor WHERE id = {number}", {"name": (DOCTOR, 2, ["x"])})
        (finding,) = feed.close()
        assert finding.parent is not None
        assert finding.parent.tables == table


def test_a_few_runs_more_by_chance_do_not_outweigh_a_foreign_key() -> None:
    numbers = [31, 32, 33, 34, 35, 36]
    feed = Feed(catalogs())
    feed("SELECT id, doctor_id AS d FROM visit", {"id": (VISIT, 1, [9, 8, 7, 6, 5]), "d": (VISIT, 2, numbers[:5])})
    feed("SELECT level FROM visit", {"level": (VISIT, 3, numbers)})
    for number in numbers:
        feed(f"SELECT name FROM doctor WHERE id = {number}", {"name": (DOCTOR, 2, ["x"])})
    (finding,) = feed.close()
    assert finding.parent is not None
    assert finding.parent.column == "doctor_id"


def test_the_type_of_key_tells_whether_one_row_or_the_first_of_many_is_asked_for() -> None:
    kinds = []
    for sql, column in (
        ("SELECT name FROM doctor WHERE id = {} LIMIT 1", "id"),
        ("SELECT id FROM note WHERE visit = {} LIMIT 1", "visit"),
    ):
        feed = Feed(catalogs())
        feed("SELECT v.id AS v_1, v.doctor_id AS v_2 FROM visit v", visits([701, 702, 703]))
        offset = 400 if column == "id" else 0
        for number in (701, 702, 703):
            feed(sql.format(number + offset), {"x": (DOCTOR, 2, ["x"])})
        (finding,) = feed.close()
        assert finding.advice is not None
        kinds.append(finding.advice.kind)
    assert kinds == ["any_array", "lateral"]


# --- the catalogs themselves ---


def test_relations_go_through_chains_of_foreign_keys() -> None:
    assert CATALOG.relation((VISIT, 2), (LINK, 1)) is Relation.LINKED
    assert CATALOG.relation((VISIT, 1), (VISIT, 1)) is Relation.LINKED
    assert CATALOG.relation((VISIT, 1), (DOCTOR, 1)) is Relation.APART
    assert CATALOG.relation((VISIT, 3), (DOCTOR, 1)) is Relation.UNKNOWN
    assert CATALOG.relation((0, 0), (DOCTOR, 1)) is Relation.UNKNOWN
    assert CATALOG.foreign_key((VISIT, 2), (LINK, 1)) == ""
    assert CATALOG.foreign_key((DOCTOR, 1), (LINK, 1)) == "link.doctor_id → doctor.id"


def test_foreign_keys_in_a_circle_and_to_tables_that_are_not_there_do_no_harm() -> None:
    keys = [
        ForeignKey(VISIT, (1,), NOTE, (1,)),
        ForeignKey(NOTE, (1,), VISIT, (1,)),
        ForeignKey(VISIT, (1,), 99999, (1, 2)),
    ]
    odd = Catalog(TABLES, keys)
    assert odd.relation((VISIT, 1), (NOTE, 1)) is Relation.LINKED
    assert odd.foreign_key((VISIT, 1), (99999, 1)) == "visit.id"


def asks(feed: Callable[..., None], wanted: list[str]) -> int:
    feed("SELECT id FROM visit", {"id": (VISIT, 1, [1, 2])})
    feed("SELECT id FROM visit", {"id": (VISIT, 1, [1, 2])})
    return len(wanted)


def test_the_first_rows_of_a_table_ask_for_the_catalogs_once() -> None:
    wanted: list[str] = []
    feed = Feed(Catalogs(wanted.append))
    feed("SELECT oid FROM pg_type", {"oid": (1247, 1, [1, 2])})
    feed("SELECT 1 UNION SELECT 2", {"x": (0, 0, [1, 2])})
    feed("SELECT id FROM visit WHERE id = 1", {"id": (VISIT, 1, [1])})
    assert wanted == []
    assert asks(feed, wanted) == 1
    assert wanted == ["clinic"]


def test_a_table_that_is_known_asks_for_nothing_and_an_unknown_one_does() -> None:
    wanted: list[str] = []
    known = Catalogs(wanted.append)
    known.put("clinic", CATALOG)
    assert asks(Feed(known), wanted) == 0
    feed = Feed(known)
    feed("SELECT id FROM late", {"id": (VISIT + 500, 1, [1, 2])})
    assert wanted == ["clinic"]


@pytest.mark.parametrize("ddl", ["CREATE TABLE x (id int)", "ALTER TABLE visit ADD y int", "DROP TABLE x"])
def test_ddl_asks_for_the_catalogs_again(ddl: str) -> None:
    wanted: list[str] = []
    known = Catalogs(wanted.append)
    known.put("clinic", CATALOG)
    feed = Feed(known)
    feed(ddl)
    feed.close()
    assert wanted == ["clinic"]


def test_the_number_of_databases_is_bounded() -> None:
    known = Catalogs()
    for number in range(3 * MAX_DATABASES):
        known.put(f"d{number}", CATALOG)
    known.put("d0", CATALOG)
    assert sum(known.of(f"d{number}") is not None for number in range(3 * MAX_DATABASES)) == MAX_DATABASES


def test_oids_of_users_begin_where_the_server_says() -> None:
    assert FIRST_USER_OID == 16384
