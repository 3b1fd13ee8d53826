"""What in a session changes an answer: two states that may answer differently never have one key."""

from __future__ import annotations

import pytest

from pgloupe.session.context import MAX_SETTINGS, Context
from pgloupe.session.set_config import NO_ANSWER
from pgloupe_rules.types import Recognised
from support.conversation import recognise


def text(query: str) -> Recognised:
    return recognise(query)[0]


def after(*queries: str, startup: dict[str, str] | None = None) -> bytes | None:
    """The key after these were run, each in a transaction of its own."""
    context = Context(startup or {})
    for query in queries:
        run(context, query)
        context.ended(committed=True)
    return context.key()


def run(context: Context, query: str) -> None:
    tag = " ".join(query.upper().split()[: 2 if query.startswith("DISCARD") else 1])
    if tag == "SELECT":
        tag = "SELECT 1"
    context.completed(text(query), tag, unknown_effect=False)


NOTHING = after()


@pytest.mark.parametrize(
    "query",
    [
        "SET search_path = a, b",
        "SET search_path TO 'a'",
        "SET SESSION search_path = a",
        "SET SCHEMA 'a'",
        "SET TIME ZONE 'UTC'",
        "SET TIME ZONE INTERVAL '1' HOUR TO MINUTE",
        "SET NAMES 'LATIN1'",
        "SET app.tenant = '7'",
        'SET "app"."Tenant" = 7',
        "SET ROLE reader",
        "SET SESSION ROLE reader",
        "SET role = 'reader'",
        "SET SESSION AUTHORIZATION reader",
        "set\n  Search_Path\n=\na",
    ],
)
def test_a_setting_changes_the_key_and_its_reset_brings_it_back(query: str) -> None:
    assert NOTHING is not None
    changed = after(query)
    assert changed is not None
    assert changed != NOTHING
    assert after(query, "DISCARD ALL") == NOTHING


@pytest.mark.parametrize(
    ("query", "reset"),
    [
        ("SET search_path = a", "RESET search_path"),
        ("SET search_path = a", 'RESET "search_path"'),
        ('SET "search_path" = a', "RESET search_path"),
        ("SET search_path = a", "SET search_path TO DEFAULT"),
        ("SET search_path = a", "SET SCHEMA DEFAULT"),
        ("SET search_path = a", "RESET ALL"),
        ("SET TIME ZONE 'UTC'", "RESET TIME ZONE"),
        ("SET TIME ZONE 'UTC'", "RESET timezone"),
        ("SET ROLE reader", "RESET ROLE"),
        ("SET SESSION AUTHORIZATION reader", "RESET SESSION AUTHORIZATION"),
        ("SET SESSION AUTHORIZATION reader", "SET SESSION AUTHORIZATION DEFAULT"),
        ("SET session_authorization = reader", "RESET SESSION AUTHORIZATION"),
    ],
)
def test_resets_undo_settings(query: str, reset: str) -> None:
    assert after(query, reset) == NOTHING


def test_reset_all_leaves_the_role() -> None:
    assert after("SET ROLE reader", "SET search_path = a", "RESET ALL") == after("SET ROLE reader")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["SET search_path = a", 'SET "search_path" = b'], ['SET "search_path" = b', "SET search_path = a"]),
        (["SET search_path = a", "SET SCHEMA 'b'"], ["SET SCHEMA 'b'", "SET search_path = a"]),
        (["SET ROLE r", "SET SESSION AUTHORIZATION u"], ["SET SESSION AUTHORIZATION u", "SET ROLE r"]),
        (
            ["SET SESSION AUTHORIZATION a", "SET session_authorization = b"],
            ["SET session_authorization = b", "SET SESSION AUTHORIZATION a"],
        ),
        (["SET TIME ZONE 'UTC'", "SET timezone = 'CET'"], ["SET timezone = 'CET'", "SET TIME ZONE 'UTC'"]),
    ],
)
def test_the_last_of_two_spellings_counts(one: list[str], other: list[str]) -> None:
    assert after(*one) != after(*other)


@pytest.mark.parametrize("query", ["SET LOCAL search_path = a", "SET LOCAL ROLE r", "SET TRANSACTION READ ONLY"])
def test_what_ends_with_its_transaction_changes_nothing(query: str) -> None:
    assert after(query) == NOTHING


@pytest.mark.parametrize(
    "query",
    [
        "SET search_path FROM CURRENT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ SOMETIMES",
        "SET SEED 0.5",
        'SET app."\u00c9" = 1',
        f"SET app.{'x' * 60} = 1",
    ],
)
def test_a_set_that_is_not_understood_costs_the_trust_until_discard_all(query: str) -> None:
    assert after(query) is None
    assert after(query, "SET search_path = a", "RESET ALL") is None
    assert after(query, "DISCARD ALL") == NOTHING


def test_a_setting_counts_from_the_end_of_its_transaction_on() -> None:
    context = Context({})
    run(context, "SET search_path = a")
    assert context.key() == NOTHING
    assert context.pending
    context.ended(committed=True)
    assert not context.pending
    assert context.key() == after("SET search_path = a")


def test_a_setting_of_a_transaction_that_was_rolled_back_does_not_count() -> None:
    context = Context({})
    run(context, "SET search_path = a")
    context.ended(committed=False)
    context.ended(committed=True)
    assert context.key() == NOTHING


def in_one_transaction(*queries: str) -> bytes | None:
    context = Context({})
    for query in queries:
        run(context, query)
    context.ended(committed=True)
    return context.key()


@pytest.mark.parametrize(
    ("queries", "same"),
    [
        (["SAVEPOINT s", "SET a.x = 1", "ROLLBACK TO s"], []),
        (["SAVEPOINT s", "SET a.x = 1", "RELEASE s"], ["SET a.x = 1"]),
        (["SAVEPOINT s", "SET a.x = 1", "RELEASE SAVEPOINT s"], ["SET a.x = 1"]),
        (["SET a.x = 1", "SAVEPOINT s", "SET a.x = 2", "ROLLBACK TO SAVEPOINT s"], ["SET a.x = 1"]),
        (["SET a.x = 1", "SAVEPOINT s", "SET a.x = 2", "ROLLBACK TO s", "SET a.y = 3"], ["SET a.x = 1", "SET a.y = 3"]),
        (["SAVEPOINT s", "SET a.x = 1", "SAVEPOINT t", "SET a.y = 1", "ROLLBACK TO t"], ["SET a.x = 1"]),
        (["SAVEPOINT s", "SET a.x = 1", "SAVEPOINT t", "SET a.y = 1", "RELEASE t", "ROLLBACK TO s"], []),
        (["SAVEPOINT s", "SET a.x = 1", "SAVEPOINT s", "SET a.y = 1", "ROLLBACK TO s"], ["SET a.x = 1"]),
        (["SAVEPOINT s", "SET a.x = 1", "SAVEPOINT s", "RELEASE s", "ROLLBACK WORK TO s"], []),
        (['SAVEPOINT "S"', "SET a.x = 1", "SAVEPOINT s", "SET a.y = 1", 'ROLLBACK TO "S"'], []),
        (["SAVEPOINT S", "SET a.x = 1", "ROLLBACK TRANSACTION TO SAVEPOINT s"], []),
        (["SAVEPOINT s", "ROLLBACK TO s", "SET a.x = 1", "ROLLBACK TO s"], []),
    ],
)
def test_savepoints_undo_the_settings_behind_them(queries: list[str], same: list[str]) -> None:
    assert in_one_transaction(*queries) == in_one_transaction(*same)


@pytest.mark.parametrize(
    "queries",
    [
        ["SET a.x = 1", "ROLLBACK TO SAVEPOINT nobody_knows"],
        ['SAVEPOINT "\u00c9"', "SET a.x = 1"],
        [f"SAVEPOINT {'s' * 64}", "SET a.x = 1"],
        [*[f"SAVEPOINT s{n}" for n in range(MAX_SETTINGS + 1)], "SET a.x = 1"],
        # the server takes both names for one
        [f"SAVEPOINT {'s' * 63}", "SET a.x = 1", f"SAVEPOINT {'s' * 64}", f"ROLLBACK TO {'s' * 63}"],
    ],
)
def test_a_savepoint_that_is_not_known_costs_the_trust(queries: list[str]) -> None:
    assert in_one_transaction(*queries) is None


def test_a_savepoint_that_is_not_known_costs_nothing_where_nothing_is_set() -> None:
    assert in_one_transaction(f"SAVEPOINT {'s' * 64}", f"ROLLBACK TO {'s' * 64}", "RELEASE nobody_knows") == NOTHING


def test_a_transaction_that_is_rolled_back_whole_costs_no_trust_whatever_its_savepoints_were() -> None:
    for last in ("ROLLBACK", "ROLLBACK WORK", "ROLLBACK AND NO CHAIN"):
        context = Context({})
        for query in (f"SAVEPOINT {'s' * 64}", "SET a.x = 1", last):
            run(context, query)
        context.ended(committed=False)
        context.ended(committed=True)
        assert context.key() == NOTHING


def test_a_rollback_to_a_savepoint_without_a_setting_costs_nothing() -> None:
    context = Context({})
    context.completed(text("ROLLBACK TO SAVEPOINT s"), "ROLLBACK", unknown_effect=False)
    context.ended(committed=True)
    assert context.key() == NOTHING


@pytest.mark.parametrize(
    ("query", "tag"),
    [
        ("CREATE TEMP TABLE a (b int)", "CREATE TABLE"),
        ("CREATE LOCAL TEMPORARY TABLE a (b int)", "CREATE TABLE"),
        ("create temp view a as select 1", "CREATE VIEW"),
        ("CREATE TABLE pg_temp.a (b int)", "CREATE TABLE"),
        ("SELECT 1 INTO TEMP TABLE a", "SELECT 1"),
        ("SELECT 1 INTO TEMPORARY a", "SELECT 1"),
    ],
)
def test_temporary_objects_cost_the_trust(query: str, tag: str) -> None:
    context = Context({})
    context.completed(text(query), tag, unknown_effect=False)
    assert context.key() is None
    assert context.reason == "temporary objects"


@pytest.mark.parametrize("query", ["SELECT temp FROM weather", "SELECT * FROM a WHERE b = 'temporary'"])
def test_a_column_or_value_called_temp_costs_nothing(query: str) -> None:
    context = Context({})
    context.completed(text(query), "SELECT 1", unknown_effect=False)
    assert context.key() == NOTHING


def test_unknown_effects_cost_the_trust() -> None:
    context = Context({})
    context.completed(text("SELECT f()"), "SELECT 1", unknown_effect=True)
    assert context.key() is None
    run(context, "DISCARD ALL")
    assert context.key() == NOTHING


def test_what_the_server_reports_is_in_the_key() -> None:
    context = Context({})
    before = context.key()
    context.reported("TimeZone", "UTC")
    changed = context.key()
    assert changed != before
    context.reported("application_name", "x")
    assert context.key() == changed
    context.reported("TimeZone", "CET")
    assert context.key() not in (before, changed)


def test_startup_parameters_are_in_the_key_but_for_those_that_are_elsewhere() -> None:
    assert after(startup={"user": "a", "database": "b", "application_name": "c"}) == NOTHING
    assert after(startup={"options": "-c search_path=x"}) != NOTHING
    assert after(startup={"DateStyle": "ISO"}) == after(startup={"datestyle": "ISO"})


def test_names_and_values_cannot_be_mistaken_for_each_other() -> None:
    keys = [
        after(startup={"a": "b", "c": "d"}),
        after(startup={"a": "b\0001:c\0001:d"}),
        after(startup={"a": "", "b": ""}),
        after(startup={"a": "b"}),
        after("SET a.x = b"),
        after(startup={"a.x": "b"}),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("name", "value"), [("standard_conforming_strings", "off"), ("client_encoding", "SJIS")])
def test_encodings_in_which_text_cannot_be_read_cost_the_trust(name: str, value: str) -> None:
    context = Context({})
    context.reported(name, value)
    assert context.key() is None


@pytest.mark.parametrize("name", sorted(NO_ANSWER))
def test_settings_that_change_no_answer_are_not_in_the_key(name: str) -> None:
    assert after(f"SET {name} = 7") == NOTHING
    assert after(f"SELECT set_config('{name}', '7', false)") == NOTHING
    assert after(startup={name: "7"}) == NOTHING
    assert after(startup={"options": f"-c {name}=7 --{name.replace('_', '-')}=8"}) == NOTHING
    path = after(startup={"options": "-c search_path=a"})
    assert after(startup={"options": f" -c {name}=7 -c search_path=a"}) == path != NOTHING


@pytest.mark.parametrize("options", ["-c a.b=x\\ y -c jit=off", "-cjit", "-E", "jit=off", "-c a.b=1 -c", "-B 7"])
def test_options_that_are_not_understood_are_kept_as_they_are(options: str) -> None:
    others = [after(startup={"options": options + more}) for more in ("", " -c a.b=2")]
    assert len({NOTHING, *others}) == 3


def test_an_empty_parameter_at_the_start_is_one_too() -> None:
    assert after(startup={"search_path": ""}) != NOTHING


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT set_config('search_path', 'a, b', false)", "SET search_path = 'a, b'"),
        ("SELECT set_config('search_path', 'a', false)", "SELECT set_config('search_path', 'b', false)"),
        ("SELECT set_config('app.x', 'a', false)", "SELECT set_config('app.y', 'a', false)"),
        ("SELECT set_config('role', 'a', false)", "SELECT set_config('session_authorization', 'a', false)"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        ),
        ("SET SESSION AUTHORIZATION r", "SET ROLE r"),
    ],
)
def test_what_may_differ_has_two_keys(one: str, other: str) -> None:
    keys = {after(one), after(other), NOTHING}
    assert len(keys) == 3
    assert None not in keys


@pytest.mark.parametrize(
    "query",
    [
        "SELECT set_config('search_path', 'a', true)",
        "SELECT set_config('search_path', NULL, false)",
        "SELECT set_config('search_path', 'a', 'yes'), set_config('app.x', 'b', 't')",
        "SELECT set_config('search_path', 'a', false), set_config('SEARCH_PATH', NULL, NULL)",
        "SELECT set_config('jit', 'off', false), current_setting('search_path')",
    ],
)
def test_calls_of_set_config_without_a_lasting_effect_change_nothing(query: str) -> None:
    assert after(query) == NOTHING


def test_set_config_and_set_are_of_one_setting() -> None:
    set_a = "SELECT set_config('search_path', 'a', false)"
    assert after("SET search_path = b", set_a) == after(set_a) != after(set_a, "SET search_path = b")
    assert after(set_a, "RESET search_path") == NOTHING
    assert after(set_a, "SELECT set_config('search_path', NULL, false)") == NOTHING


def test_the_settings_of_a_transaction_under_way_are_told() -> None:
    for query in ("SET LOCAL a.x = 1", "SELECT set_config('a.x', '1', true)", "SET a.x = 1", "SET LOCAL ROLE r"):
        context = Context({})
        run(context, query)
        assert context.pending
        context.ended(committed=False)
        assert not context.pending
        assert context.key() == NOTHING


def test_a_text_that_was_sent_in_another_encoding_is_not_taken_for_the_same() -> None:
    context = Context({})
    context.reported("client_encoding", "LATIN1")
    context.reported("client_encoding", "UTF8")
    run(context, "SET a.x = '\u00e9'")
    context.ended(committed=True)
    assert context.key() is None


def test_settings_are_bounded() -> None:
    assert after(*[f"SET a.x{number} = 1" for number in range(MAX_SETTINGS + 1)]) is None
    context = Context({})
    for number in range(MAX_SETTINGS + 1):
        run(context, f"SET a.x{number} = 1")
    assert context.key() is None
