"""Interleavings by a script, with two proxies over one Redis: announcements, and a Redis that is cut off, forgets or stalls.

See `scenes`. Here the first proxy reaches Redis, or the server, through a valve.
"""

from __future__ import annotations

import time
from typing import Final

import redis
from tests.checker.scenes import INCREMENT, ITEM, scene
from tests.checker.serving import Knobs
from tests.checker.stage import BOUND_S, Stage
from tests.checker.world import BRIEF_TTL_S, PASSED

from support.fault_proxy import DOWN, UP
from support.raw import eventually

PATIENCE_S: Final = 5.0
QUICK: Final = Knobs(redis_timeout_s=1.0, redis_retry_s=0.05, member_lease_s=1.0)


@scene
def announced(stage: Stage) -> None:
    one, two = stage.pair(knobs=QUICK)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.warm(two, reader, ITEM)
    writer.add(ITEM)
    reader.see(ITEM)
    stage.warm(one, writer, ITEM)
    reader.see(ITEM)
    writer.transact(ITEM, INCREMENT)
    reader.see(ITEM)


@scene
def commit_on_its_way_elsewhere(stage: Stage) -> None:
    """A session of another proxy has seen a commit whose acknowledgement is on its way."""
    valve = stage.valve(stage.servers.postgres.port)
    one, two = stage.pair(knobs=QUICK, upstream_port=valve.port)
    reader = stage.actor(two)
    writer, pipe = stage.held(one, valve)
    stage.warm(two, reader, ITEM)
    pipe.hold(DOWN)
    acknowledged = stage.aside(lambda: writer.add(ITEM))
    eventually(pipe.waiting[DOWN].is_set)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)
    pipe.flow(DOWN)
    acknowledged.result(20)
    reader.see(ITEM)


@scene
def acknowledgement_lost_elsewhere(stage: Stage) -> None:
    valve = stage.valve(stage.servers.postgres.port)
    one, two = stage.pair(knobs=QUICK, upstream_port=valve.port)
    locker, reader = stage.actor(None), stage.actor(two)
    writer, pipe = stage.held(one, valve)
    stage.warm(two, reader, ITEM)
    least = stage.value(ITEM) + 1
    locker.do("BEGIN")
    locker.do("SELECT FROM item WHERE id = 1 FOR UPDATE")
    lost = stage.aside(lambda: writer.add(ITEM))
    stage.waiting()
    pipe.cut()
    lost.result(20)
    for _ in range(2):
        reader.see(ITEM)
    locker.do("COMMIT")
    stage.committed(ITEM, least)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)


@scene
def slow_announcement(stage: Stage) -> None:
    """The mark is on its way to Redis: the write waits for it."""
    valve = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK.with_(redis_timeout_s=5.0, member_lease_s=10.0), redis_port=valve.port)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, reader, ITEM)
    (pipe,) = valve.pipes
    pipe.hold(UP)
    acknowledged = stage.aside(lambda: writer.add(ITEM))
    eventually(pipe.waiting[UP].is_set)
    time.sleep(0.1)  # for a write that does not wait
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)
    pipe.flow(UP)
    acknowledged.result(20)
    reader.see(ITEM)


@scene
def long_transaction(stage: Stage) -> None:
    """A transaction takes longer than the lease of its mark."""
    knobs = QUICK.with_(lease_s=0.4)
    valve = stage.valve(stage.servers.postgres.port)
    one, two = stage.pair(knobs=knobs, upstream_port=valve.port)
    reader = stage.actor(two)
    writer, pipe = stage.held(one, valve)
    writer.do("BEGIN")
    writer.do(INCREMENT)
    time.sleep(knobs.lease_s * 1.5)  # what is waited for is that time passes
    stage.try_warm(two, reader, ITEM, PATIENCE_S, unless="write under way")
    least = stage.value(ITEM) + 1
    pipe.hold(DOWN)
    acknowledged = stage.aside(lambda: writer.transact_end(ITEM, least))
    stage.committed(ITEM, least)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)
    pipe.flow(DOWN)
    acknowledged.result(20)


@scene
def cut_off(stage: Stage) -> None:
    """One proxy loses Redis, the other does not. The client of a write is not told before the other one is silent."""
    valve = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK, redis_port=valve.port)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, reader, ITEM)
    valve.close()
    writer.add(ITEM)
    for _ in range(2):
        reader.see(ITEM)
    writer.add(ITEM)
    for _ in range(2):
        reader.see(ITEM)
    valve.open()
    stage.up(one)
    for _ in range(2):
        reader.see(ITEM)


@scene
def seen_while_cut_off(stage: Stage) -> None:
    """What a session of the other proxy has seen of such a write does not go away again."""
    valve = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK.with_(member_lease_s=2.0), redis_port=valve.port)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, reader, ITEM)
    valve.close()
    eventually(lambda: not one.figures()["figures"]["redis_up"])
    acknowledged = stage.aside(lambda: writer.add(ITEM))
    end_s = time.monotonic() + 3.0
    while not acknowledged.done() and time.monotonic() < end_s:
        reader.see_in_transaction(ITEM)
        reader.see(ITEM)
    acknowledged.result(20)
    reader.see(ITEM)


@scene
def forgotten_by_redis(stage: Stage) -> None:
    """Redis restarts and knows nothing; one proxy is back, the other is not and goes on writing."""
    valve = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK, redis_port=valve.port)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, reader, ITEM)
    valve.close()
    stage.servers.redis.restart()
    reader.see(ITEM)
    stage.up(two)
    stage.try_warm(two, reader, ITEM, PATIENCE_S, unless="another proxy is out of touch")
    writer.add(ITEM)
    for _ in range(2):
        reader.see(ITEM)
    valve.open()
    stage.up(one)
    reader.see(ITEM)


@scene
def old_snapshot(stage: Stage) -> None:
    """Redis restarts with what it knew some time ago."""
    one, two = stage.pair(knobs=QUICK)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.warm(two, reader, ITEM)
    with redis.Redis.from_url(stage.servers.redis.url) as client:
        client.save()
    writer.add(ITEM)
    stage.servers.redis.restart()
    reader.see(ITEM)
    stage.up(one, two)
    for _ in range(2):
        reader.see(ITEM)


@scene
def debt(stage: Stage) -> None:
    """A write could not be announced: it is made good before the other proxy answers again."""
    valve = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK.with_(member_lease_s=0.3), redis_port=valve.port)
    writer, reader = stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, reader, ITEM)
    valve.close()
    writer.add(ITEM)
    valve.open()
    stage.up(one)
    for _ in range(2):
        reader.see(ITEM)


@scene
def transaction_over_a_restart(stage: Stage) -> None:
    """Redis restarts, and has forgotten the mark of a transaction that is open."""
    valve = stage.valve(stage.servers.postgres.port)
    one, two = stage.pair(knobs=QUICK, upstream_port=valve.port)
    reader = stage.actor(two)
    writer, pipe = stage.held(one, valve)
    stage.warm(two, reader, ITEM)
    writer.do("BEGIN")
    writer.do(INCREMENT)
    stage.servers.redis.restart()
    reader.see(ITEM)
    stage.up(one, two)
    stage.try_warm(two, reader, ITEM, PATIENCE_S, unless="write under way")
    least = stage.value(ITEM) + 1
    pipe.hold(DOWN)
    acknowledged = stage.aside(lambda: writer.transact_end(ITEM, least))
    stage.committed(ITEM, least)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)
    pipe.flow(DOWN)
    acknowledged.result(20)


@scene
def stored_late(stage: Stage) -> None:
    """An answer is on its way into Redis, and arrives late: that makes it no younger."""
    way, upstream = stage.valve(stage.servers.redis.port), stage.valve(stage.servers.postgres.port)
    knobs = QUICK.with_(redis_timeout_s=0.3)
    one, two = stage.pair(knobs=knobs, redis_port=way.port, upstream_port=upstream.port)
    writer, reader = stage.actor(None), stage.actor(one)
    stage.up(one, two)
    stage.warm(one, reader, PASSED[0])
    slow, pipe = stage.held(one, upstream)
    time.sleep(BRIEF_TTL_S)  # what is waited for is that time passes
    pipe.hold(DOWN)
    seen = stage.aside(lambda: slow.see(PASSED[0]))
    eventually(pipe.waiting[DOWN].is_set)
    writer.add(PASSED[0])
    late = way.last
    late.hold(UP)
    pipe.flow(DOWN)
    seen.result(20)
    eventually(late.waiting[UP].is_set)
    eventually(lambda: way.last is not late)
    stage.up(one)
    time.sleep(BOUND_S)
    with redis.Redis.from_url(stage.servers.redis.url) as client:
        before = client.dbsize()
        late.flow(UP)
        end_s = time.monotonic() + BRIEF_TTL_S / 2
        while client.dbsize() == before and time.monotonic() < end_s:
            time.sleep(0.005)
    reader.see(PASSED[0])


@scene
def fetched_late(stage: Stage) -> None:
    """An answer is on its way out of Redis, and arrives late: that makes it no younger."""
    way = stage.valve(stage.servers.redis.port)
    one, two = stage.pair(knobs=QUICK.with_(redis_timeout_s=5.0, member_lease_s=10.0), redis_port=way.port)
    writer, reader, other = stage.actor(None), stage.actor(one), stage.actor(two)
    stage.up(one, two)
    stage.warm(two, other, PASSED[0])
    stage.warm(one, reader, PASSED[0])
    time.sleep(BRIEF_TTL_S)  # what is waited for is that time passes
    other.see(PASSED[0])
    (pipe,) = way.pipes
    pipe.hold(DOWN)
    seen = stage.aside(lambda: reader.see(PASSED[0]))
    eventually(pipe.waiting[DOWN].is_set)
    writer.add(PASSED[0])
    time.sleep(BOUND_S)
    pipe.flow(DOWN)
    seen.result(20)
    reader.see(PASSED[0])
