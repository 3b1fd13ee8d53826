"""The promise in one process: an answer is at least as new as every write acknowledged before the read began."""

from __future__ import annotations

import pytest

from pgloupe.cache import Cache, Entry
from pgloupe.cache.invalidation import LEASE_S
from support.caches import Clock, answer, done, entry, keep, look, read, write

ONE = entry("one")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(memory_bytes=1 << 20, clock=clock)


async def test_what_was_filled_is_answered(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    assert await answer(cache, read("a")) is ONE
    assert await answer(cache, read("b")) is None


async def test_a_write_makes_the_answer_unreachable(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    await write(cache, "author")
    assert await answer(cache, read("a")) is None


async def test_while_a_write_is_under_way_nothing_is_answered_or_stored(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    mark = await done(cache.begin_write(frozenset({"author"})))
    found = await look(cache, read("a"))
    assert (found.entry, found.ticket, found.reason) == (None, None, "write under way")
    await done(cache.end_write(mark))
    assert await answer(cache, read("a")) is None


async def test_a_write_that_was_rolled_back_changes_nothing(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    mark = await done(cache.begin_write(frozenset({"author"})))
    await done(cache.abandon(mark))
    assert await answer(cache, read("a")) is ONE


@pytest.mark.parametrize("order", ["begin fill end", "begin end fill", "fill begin end"])
async def test_a_fill_never_outlives_a_write_that_came_after_its_lookup(cache: Cache, order: str) -> None:
    ticket = (await look(cache, read("a"))).ticket
    assert ticket is not None
    mark = None
    for step in order.split():
        if step == "begin":
            mark = await done(cache.begin_write(frozenset({"author"})))
        elif step == "fill":
            cache.fill(ticket, ONE)
        elif mark is not None:
            await done(cache.end_write(mark))
    assert await answer(cache, read("a")) is None


async def test_two_writes_at_a_time_keep_the_table_dirty_until_both_have_ended(cache: Cache) -> None:
    one = await done(cache.begin_write(frozenset({"author"})))
    two = await done(cache.begin_write(frozenset({"author"})))
    await done(cache.end_write(one))
    assert (await look(cache, read("a"))).reason == "write under way"
    await done(cache.end_write(two))
    assert (await look(cache, read("a"))).ticket is not None


async def test_a_transaction_that_writes_more_marks_more(cache: Cache) -> None:
    await keep(cache, read("p", "post"), ONE)
    mark = await done(cache.begin_write(frozenset({"author"})))
    await done(cache.extend(mark, frozenset({"post"})))
    assert (await look(cache, read("p", "post"))).reason == "write under way"
    await done(cache.end_write(mark))
    assert await answer(cache, read("p", "post")) is None


async def test_ending_a_mark_twice_does_not_clean_another_write(cache: Cache) -> None:
    one = await done(cache.begin_write(frozenset({"author"})))
    two = await done(cache.begin_write(frozenset({"author"})))
    for _ in range(3):
        await done(cache.end_write(one))
        await done(cache.abandon(one))
        await done(cache.lose_write(one))
    assert (await look(cache, read("a"))).reason == "write under way"
    await done(cache.end_write(two))
    assert (await look(cache, read("a"))).ticket is not None


async def test_without_catalogs_a_write_of_any_table_makes_every_answer_unreachable(cache: Cache) -> None:
    assert cache.dependencies.mode == "coarse"
    await keep(cache, read("a"), ONE)
    await write(cache, "something_behind_a_trigger")
    assert await answer(cache, read("a")) is None


async def test_a_lost_write_keeps_the_table_dirty_for_its_lease_and_is_raised_again_then(
    cache: Cache, clock: Clock
) -> None:
    ticket = (await look(cache, read("a"))).ticket
    assert ticket is not None
    mark = await done(cache.begin_write(frozenset({"author"})))
    await done(cache.lose_write(mark))
    cache.fill(ticket, ONE)
    clock.now_s += LEASE_S - 0.1
    assert (await look(cache, read("a"))).reason == "write under way"
    clock.now_s += 0.2
    assert await answer(cache, read("a")) is None
    await keep(cache, read("a"), ONE)
    assert await answer(cache, read("a")) is ONE


async def test_the_ttl_of_the_rule_as_it_is_now_counts(cache: Cache, clock: Clock) -> None:
    await keep(cache, read("a", ttl_s=60), ONE)
    clock.now_s += 10
    assert await answer(cache, read("a", ttl_s=5)) is None
    assert await answer(cache, read("a", ttl_s=60)) is ONE
    clock.now_s += 50
    assert await answer(cache, read("a", ttl_s=60)) is None


async def test_age_counts_from_the_lookup_and_not_from_the_fill(cache: Cache, clock: Clock) -> None:
    ticket = (await look(cache, read("a", ttl_s=60))).ticket
    assert ticket is not None
    clock.now_s += 50
    cache.fill(ticket, ONE)
    clock.now_s += 11
    assert await answer(cache, read("a", ttl_s=60)) is None


async def test_an_answer_that_took_longer_than_its_ttl_or_is_too_large_is_not_stored(
    cache: Cache, clock: Clock
) -> None:
    slow = (await look(cache, read("a", ttl_s=1))).ticket
    large = (await look(cache, read("b"))).ticket
    assert slow is not None
    assert large is not None
    clock.now_s += 1
    cache.fill(slow, ONE)
    cache.fill(large, Entry(b"", bytes((1 << 16) + 1)))
    counts = cache.rule_statistics()["rule"]
    assert counts["not stored: too large"] == counts["not stored: slower than its ttl"] == 1
    assert cache.statistics()["entries"] == 0


async def test_figures_add_up(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    await answer(cache, read("a"))
    await write(cache, "author")
    await answer(cache, read("a"))
    cache.count_bypass("rule", "in a transaction")
    figures = cache.statistics()
    assert (figures["hits"], figures["misses"], figures["fills"], figures["writes"]) == (1, 2, 1, 1)
    assert figures["bypasses"] == 1
    assert cache.rule_statistics() == {"rule": {"misses": 2, "fills": 1, "hits": 1, "bypass: in a transaction": 1}}


async def test_more_tables_than_can_be_kept_do_not_bring_an_old_answer_back(cache: Cache) -> None:
    await keep(cache, read("a"), ONE)
    for number in range(70_000):
        cache.lookup(read("other", f"t{number}"))
    assert len(cache._versions._tokens) <= 65_536
    await keep(cache, read("a"), ONE)
    await write(cache, "author")
    assert await answer(cache, read("a")) is None


async def test_names_that_the_server_would_cut_are_not_cached(cache: Cache) -> None:
    assert (await look(cache, read("a", "x" * 64))).reason == "table name"
    assert (await look(cache, read("a", "é" * 32))).reason == "table name"
    assert (await look(cache, read("a", "x" * 63))).ticket is not None
