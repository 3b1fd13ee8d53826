"""Rules of the cache: their conditions, what comments may change, and those that can never hit."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe_rules.allow import HINT_RULE, AllowRule, Hints, matches, parse_hint
from pgloupe_rules.cacheable import CacheRules, Verdict
from pgloupe_rules.fingerprint import Recognition
from pgloupe_rules.normalise import recognise
from pgloupe_rules.tags import merge
from pgloupe_rules.types import Cacheable, SessionInfo

TABLES = frozenset({"author", "post"})
READ = "SELECT name FROM author WHERE id = 1"
WEB = SessionInfo(1, database="shop", user="alice", application_name="web-7")


def judge(rules: CacheRules, sql: str = READ, session: SessionInfo = WEB) -> Verdict:
    (recognised,) = recognise(sql)
    return rules.judge(recognised, session)


def rule(name: str = "r", **values: Any) -> AllowRule:
    return AllowRule(name, values.pop("ttl_s", 60.0), **{"tables": TABLES, **values})


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("web", "web", True),
        ("web", "web2", False),
        ("web-*", "web-", True),
        ("web-*", "web", False),
        ("*", "", True),
        ("*-job", "night-job", True),
        ("*-job", "night-job2", False),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("ab*ba", "aba", False),
        ("a*a", "a", False),
        ("**", "x", True),
        ("[a]", "[a]", True),
        ("[a]", "a", False),
        ("a?", "ab", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


def test_a_pattern_of_many_stars_is_matched_in_time_that_grows_with_the_text() -> None:
    assert not matches("*a" * 2_000 + "*b*", "a" * 100_000)


@pytest.mark.parametrize(
    ("condition", "sql"),
    [
        ({"users": ("alice",)}, READ),
        ({"users": ("bob", "al*")}, READ),
        ({"databases": ("shop",)}, READ),
        ({"application_names": ("web-*",)}, READ),
        ({"tags": (("route", ("/books", "/authors")),)}, READ + " /*route='%2Fauthors'*/"),
    ],
)
def test_a_condition_that_holds_lets_the_rule_be(condition: dict[str, Any], sql: str) -> None:
    assert judge(CacheRules((rule(**condition),)), sql).rule == "r"


@pytest.mark.parametrize(
    ("condition", "sql"),
    [
        ({"users": ("alic",)}, READ),
        ({"users": ("ALICE",)}, READ),
        ({"databases": ("shop2",)}, READ),
        ({"application_names": ("web",)}, READ),
        ({"tags": (("route", ("/books",)),)}, READ),
        ({"tags": (("route", ("*",)),)}, READ),
        ({"tags": (("route", ("/books",)),)}, READ + " /*route='%2Fauthors'*/"),
        ({"tags": (("route", ("*",)), ("job", ("nightly",)))}, READ + " /*route='%2Fauthors'*/"),
        ({"users": ("alice",), "databases": ("other",)}, READ),
    ],
)
def test_a_condition_that_does_not_hold_leaves_the_read_to_the_server(condition: dict[str, Any], sql: str) -> None:
    found = judge(CacheRules((rule(**condition),)), sql)
    assert (found.decision, found.rule, found.reason) == (None, "", "")


def test_one_template_is_judged_anew_for_each_session_and_its_tags() -> None:
    rules = CacheRules(
        (
            rule("alice", users=("alice",), ttl_s=1.0),
            rule("books", tags=(("route", ("/books",)),), ttl_s=2.0),
            rule("all", ttl_s=3.0, databases=("shop",)),
        )
    )
    recognition = Recognition()
    seen = []
    for user, database, sql in [
        ("alice", "shop", READ),
        ("bob", "shop", READ),
        ("bob", "shop", READ + " /*route='%2Fbooks'*/"),
        ("alice", "shop", READ + " /*route='%2Fbooks'*/"),
        ("bob", "other", READ),
        ("bob", "shop", READ),
    ]:
        (recognised,) = recognition(sql)
        seen.append(rules.judge(recognised, SessionInfo(1, database=database, user=user)).rule)
    assert seen == ["alice", "all", "books", "alice", "", "all"]


def test_a_rule_for_the_statement_comes_before_one_for_its_tables_and_of_each_kind_the_first() -> None:
    rules = CacheRules(
        (
            rule("tables"),
            AllowRule("conditional", 1.0, template=READ, users=("bob",)),
            AllowRule("template", 1.0, template=READ),
        )
    )
    assert judge(rules).rule == "template"
    assert judge(rules, session=SessionInfo(1, user="bob")).rule == "conditional"
    assert judge(rules, "SELECT 1 FROM post").rule == "tables"


def test_a_decision_carries_what_its_rule_says() -> None:
    decision = judge(
        CacheRules((rule(stale_s=5.0, max_rows=10, dry_run=True, key_by_user=False, max_entry_bytes=7),))
    ).decision
    assert decision == Cacheable("r", 60.0, ("author",), (), 7, 5.0, 10, True, False)


# --- hints ---


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("/* pgloupe:nocache */", "nocache"),
        ("/*pgloupe:cache  ttl=30s*/", "cache ttl=30s"),
        ("-- pgloupe: nocache", "nocache"),
        ("/* controller:books,pgloupe:nocache */", "nocache"),
        ("/*route='%2F',pgloupe='cache%20ttl%3D5s'*/", "cache ttl=5s"),
        ("/* pgloupe:nocache */ /* pgloupe:cache ttl=1s */", "nocache"),
        ("/* pgloupe:cache ttl=1s */ /* pgloupe:nocache */", "nocache"),
        ("/* pgloupe:nocahce */ /* pgloupe:cache ttl=1s */", "nocahce"),
        ("/* see pgloupe:nocache */", None),
        ("/* pgloupe */", None),
    ],
)
def test_a_hint_is_a_tag(comment: str, expected: str | None) -> None:
    comments = [part + "*/" for part in comment.split("*/") if part.strip()] if "*/" in comment else [comment]
    assert merge(comments).get("pgloupe") == expected


@pytest.mark.parametrize(
    ("text", "understood", "cache", "ttl_s"),
    [
        ("nocache", True, False, None),
        ("cache", True, True, None),
        ("cache ttl=30s", True, True, 30.0),
        ("CACHE TTL = 1.5 min", True, True, 90.0),
        ("cache ttl=500ms", True, True, 0.5),
        ("cache ttl=7", True, True, 7.0),
        ("cache ttl=0s", True, False, 0.0),
        ("cache ttl=-1s", False, False, None),
        ("cache ttl=soon", False, False, None),
        ("no cache", False, False, None),
        ("", False, False, None),
    ],
)
def test_what_a_hint_says(text: str, understood: bool, cache: bool, ttl_s: float | None) -> None:
    hint = parse_hint(text)
    assert (hint.understood, hint.cache, hint.ttl_s) == (understood, cache, ttl_s)


def hinted(text: str, *rules: AllowRule, hints: Hints = Hints.RESTRICT, sql: str = READ) -> Verdict:
    return judge(CacheRules(rules, hints=hints), f"{sql} /* pgloupe:{text} */")


def test_a_hint_shortens_the_ttl_and_never_lengthens_it() -> None:
    shorter = hinted("cache ttl=5s", rule(stale_s=30.0)).decision
    assert isinstance(shorter, Cacheable)
    assert (shorter.ttl_s, shorter.stale_s) == (5.0, 0.0)
    between = hinted("cache ttl=70s", rule(stale_s=30.0)).decision
    assert isinstance(between, Cacheable)
    assert (between.ttl_s, between.stale_s) == (60.0, 10.0)
    for hints in Hints:
        longer = hinted("cache ttl=1h", rule(stale_s=30.0), hints=hints).decision
        assert isinstance(longer, Cacheable)
        assert (longer.ttl_s, longer.stale_s) == (60.0, 30.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nocache", "a hint says nocache"),
        ("cache ttl=0", "a hint says nocache"),
        ("nocahce", "a hint that is not understood"),
    ],
)
def test_a_hint_keeps_a_read_from_the_cache(text: str, reason: str) -> None:
    found = hinted(text, rule())
    assert (found.decision, found.rule, found.reason) == (None, "r", reason)


def test_hints_do_nothing_where_the_rule_or_the_settings_say_so() -> None:
    assert hinted("nocache", rule(hints=False)).decision is not None
    assert hinted("nocache", rule(), hints=Hints.IGNORE).decision is not None
    assert hinted("cache ttl=5s", hints=Hints.IGNORE).decision is None


def test_a_hint_allows_what_no_rule_allows_only_where_hints_may() -> None:
    assert hinted("cache ttl=5s").decision is None
    assert hinted("cache ttl=5s", rule(users=("bob",))).decision is None
    found = hinted("cache ttl=5s", hints=Hints.ALLOW)
    assert isinstance(found.decision, Cacheable)
    assert (found.rule, found.decision.ttl_s, found.decision.tables) == (HINT_RULE, 5.0, ("author",))
    assert hinted("cache ttl=5s", rule(users=("bob",)), hints=Hints.ALLOW).rule == HINT_RULE
    assert judge(CacheRules((), hints=Hints.ALLOW)).decision is None


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("cache", READ),
        ("nocache", READ),
        ("cache ttl=5s", "SELECT now() FROM author"),
        ("cache ttl=5s", "SELECT name FROM author FOR UPDATE"),
        ("cache ttl=5s", "DELETE FROM author"),
        ("cache ttl=5s", "SELECT 1"),
        ("cache ttl=5s", "SELECT * FROM pg_class"),
        ("cache ttl=5s", "SELECT name FROM author WHERE born > 'yesterday'"),
    ],
)
def test_a_hint_allows_nothing_that_a_rule_could_not(text: str, sql: str) -> None:
    assert hinted(text, hints=Hints.ALLOW, sql=sql).decision is None


def test_a_hint_in_a_string_is_no_hint() -> None:
    rules = CacheRules((rule(),), hints=Hints.ALLOW)
    assert judge(rules, "SELECT '/* pgloupe:nocache */' FROM author").decision is not None
    assert judge(rules, "SELECT '/* pgloupe:cache ttl=5s */' FROM book").decision is None


# --- rules that can never hit ---


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            [AllowRule("x", 1.0, template="SELECT now(), f(a) FROM author")],
            ["'x'", "(now(), f())", "change the template"],
        ),
        ([AllowRule("x", 1.0, template="SELECT 1")], ["no table"]),
        ([AllowRule("x", 1.0, template="SELECT * FROM pg_class")], ["system catalog"]),
        ([AllowRule("x", 1.0, template="UPDATE author SET name = 'a'")], ["not a read"]),
        ([rule("x", tables=frozenset({"pg_class", "information_schema.tables"}))], ["system catalogs", "name tables"]),
        ([rule("first"), rule("x", tables=frozenset({"post"}))], ["'x'", "'first' comes first"]),
        (
            [AllowRule("first", 1.0, template=READ), AllowRule("x", 1.0, template=READ, users=("a",))],
            ["'x'", "'first' comes first", "same statement"],
        ),
    ],
)
def test_a_rule_that_can_never_hit_is_a_problem_that_says_why(rules: list[AllowRule], words: list[str]) -> None:
    (problem,) = CacheRules(rules).problems
    assert "can never hit" in problem
    for word in words:
        assert word in problem


@pytest.mark.parametrize(
    "rules",
    [
        [rule("a", users=("x",)), rule("b")],
        [rule("a", tables=frozenset({"post"})), rule("b")],
        [AllowRule("a", 1.0, template=READ, users=("x",)), AllowRule("b", 1.0, template=READ)],
        [rule("a"), AllowRule("b", 1.0, template=READ)],
        [rule("a", tables=frozenset({"pg_class", "post"}))],
    ],
)
def test_a_rule_that_can_hit_is_none(rules: list[AllowRule]) -> None:
    assert CacheRules(rules).problems == []
