"""Units of work over a query budget, gathered by place."""

from __future__ import annotations

from typing import Any

from pgloupe.report.budget import MAX_PLACES, MAX_TRACES, Budget
from pgloupe_rules.engine import Engine, Settings
from support.traces import Player


def played(limit: int) -> tuple[Budget, Player]:
    budget = Budget(limit)
    return budget, Player(Engine(Settings(), on_unit=budget.add))


def ask(player: Player, number: int, table: str = "post", tags: str = "", session: int = 1) -> None:
    """A unit of work with so many queries."""
    for _ in range(number):
        player.run(f"SELECT id FROM {table} WHERE id = 1{tags and f' /*{tags}*/'}", session=session)
    player.now_s += 1


def over(budget: Budget, player: Player) -> list[dict[str, Any]]:
    player.close()
    found: list[dict[str, Any]] = budget.to_dict()["over"]
    return found


def test_what_needs_more_than_the_budget_is_over_it_and_what_needs_as_much_is_not() -> None:
    budget, player = played(5)
    ask(player, 5)
    ask(player, 6, "author")
    (place,) = over(budget, player)
    assert (place["queries"], place["occurrences"], budget.units) == (6, 1, 2)
    assert [template["template"] for template in place["templates"]] == ["SELECT id FROM author WHERE id = $1"]
    assert place["id"] == f"query={place['templates'][0]['fingerprint']}"


def test_a_budget_of_nothing_allows_units_without_queries() -> None:
    budget, player = played(0)
    player.run("SELECT 1")
    assert over(budget, player) == []


def test_units_of_one_route_are_one_place_with_the_worst_of_them() -> None:
    budget, player = played(3)
    for number in (4, 9, 5):
        ask(player, number, tags="route='/posts'")
    ask(player, 7, tags="route='/authors'")
    first, second = over(budget, player)
    assert (first["id"], first["queries"], first["occurrences"]) == ("route=/posts", 9, 3)
    assert (second["id"], second["queries"], second["occurrences"]) == ("route=/authors", 7, 1)
    assert first["tags"] == {"route": ["/posts"]}


def test_the_templates_shown_are_those_that_make_up_most_of_it() -> None:
    budget, player = played(3)
    for table, number in (("a", 2), ("b", 20), ("c", 10), ("d", 1)):
        for _ in range(number):
            player.run(f"SELECT id FROM {table}", ms=0.25)
    (place,) = over(budget, player)
    assert [(template["template"], template["count"]) for template in place["templates"]] == [
        ("SELECT id FROM b", 20),
        ("SELECT id FROM c", 10),
    ]
    assert place["templates"][0]["total_ms"] == 5.0


def test_templates_that_ran_once_are_shown_only_where_no_other_did_more() -> None:
    for loop, shown in ((6, 1), (1, 5)):
        budget, player = played(3)
        for number in range(9):
            player.run(f"SELECT c{number} FROM b", ms=0.1)
        for _ in range(loop):
            player.run("SELECT id FROM a")
        (place,) = over(budget, player)
        assert len(place["templates"]) == shown


def test_sessions_with_one_trace_are_one_unit_of_work() -> None:
    budget, player = played(5)
    for turn in range(4):
        for session in (1, 2):
            tags = f"route='/a',traceparent='00-{'ab' * 16}-{turn:016x}-01'"
            player.run(f"SELECT id FROM post /*{tags}*/", session=session)
    (place,) = over(budget, player)
    assert (place["queries"], place["occurrences"], budget.units) == (8, 1, 1)
    budget, player = played(5)
    for session in range(8):
        player.run("BEGIN", session=session)
        player.run("SELECT id FROM post /*route='/a',request_id='r1'*/", session=session)
        player.run("ROLLBACK", session=session)
    assert [place["queries"] for place in over(budget, player)] == [8]
    other, player = played(5)
    for session in (1, 2):
        ask(player, 4, tags="route='/a'", session=session)
    assert over(other, player) == []


def test_a_connection_that_serves_a_statement_each_of_several_requests_counts_for_each_of_them() -> None:
    budget, player = played(3)
    for request in ("r1", "r2", "r3"):
        for session in (1, 2, 3):
            player.run("BEGIN", session=session)
            player.run(f"SELECT id FROM post /*route='/a',request_id='{request}'*/", session=session)
            player.run("COMMIT", session=session)
    assert over(budget, player) == []
    assert budget.units == 3


def test_a_trace_that_names_one_statement_is_no_request_of_its_own() -> None:
    budget, player = played(5)
    for number in range(8):
        player.run(f"SELECT id FROM post /*traceparent='00-{number:032x}-01-01'*/")
    assert [place["queries"] for place in over(budget, player)] == [8]
    assert budget.units == 1


def test_places_and_open_traces_are_bounded_and_the_worst_stay() -> None:
    budget, player = played(1)
    for number in range(MAX_PLACES + 20):
        ask(player, 2 + number % 7, tags=f"route='/{number}'")
    places = over(budget, player)
    assert len(places) == MAX_PLACES
    assert {place["queries"] for place in places[:60]} == {8}
    budget, player = played(100)
    for number in range(MAX_TRACES + 20):
        ask(player, 2, tags=f"request_id='{number}'")
    player.close()
    assert len(budget._traces) == MAX_TRACES
    assert budget.to_dict()["units"] == MAX_TRACES + 20
