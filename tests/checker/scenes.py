"""Interleavings by a script, with one proxy and its memory: writes of every kind, keys, and answers that are held.

Each scene brings about the one order of events in which a mechanism of the cache is needed. The product must pass it; a
mutant without the mechanism must not. Nothing is left to chance: an answer of the server is held in a valve until the others
have had their turn, and a read counts as cached when the cache has counted a hit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

import psycopg
from tests.checker.history import Kind, clock
from tests.checker.stage import BOUND_S, Actor, Stage, interrupted
from tests.checker.world import (
    ALICES,
    BOB,
    CHILDREN,
    DEFINED,
    GUARDED,
    ITEMS,
    PARTS,
    PASSED,
    PILES,
    REFILLED,
    ROLE,
    SEARCH_PATH,
    SHADOWS,
    TENANTS,
    VIEWED,
    WHOLES,
    Register,
)

from pgloupe.wire.frontend import build_bind, build_describe, build_execute, build_parse, build_sync
from support.fault_proxy import DOWN
from support.raw import Raw, eventually

Scene = Callable[[Stage], None]

SCENES: Final[dict[str, Scene]] = {}
ITEM: Final = ITEMS[0]
INCREMENT: Final = "UPDATE item SET n = n + 1 WHERE id = 1 RETURNING n"


def scene(function: Scene) -> Scene:
    SCENES[function.__name__] = function
    return function


# --- after the acknowledgement of a write all others see it ---


def written(name: str, register: Register, write: Callable[[Actor], None]) -> None:
    def play(stage: Stage) -> None:
        proxy = stage.proxy()
        writer, reader = stage.actor(proxy), stage.actor(proxy)
        stage.warm(proxy, reader, register)
        write(writer)
        reader.see(register)
        writer.see(register)

    SCENES[name] = play


def _copy(writer: Actor) -> None:
    register = PILES[0]
    value = writer.do(register.literal)[1] + 1
    begin_s = clock()
    with writer.connection.cursor() as cursor, cursor.copy("COPY pile FROM STDIN") as copy:
        copy.write_row((register.id, register.name, value))
    writer.record(Kind.WRITE, register, begin_s, value=value, way="COPY")


def _refill(writer: Actor) -> None:
    begin_s = clock()
    value = writer.do("UPDATE source SET n = n + 1 WHERE id = 1 RETURNING n")[0]
    writer.do(f"BEGIN; TRUNCATE refilled; INSERT INTO refilled VALUES (1, 'refilled:1', {value}); COMMIT")
    writer.record(Kind.WRITE, REFILLED, begin_s, value=value, way="TRUNCATE", vanishing=True)


def _truncate(writer: Actor) -> None:
    """TRUNCATE alone: what is left of it is that the row is gone, until it is put back past the proxy."""
    begin_s = clock()
    value = writer.do("UPDATE source SET n = n + 1 WHERE id = 1 RETURNING n")[0]
    writer.do("TRUNCATE refilled")
    with psycopg.connect(writer.direct, autocommit=True) as connection:
        connection.execute("INSERT INTO refilled VALUES (1, 'refilled:1', %s)", (value,))
    writer.record(Kind.WRITE, REFILLED, begin_s, value=value, way="TRUNCATE", vanishing=True)


def _define(writer: Actor) -> None:
    begin_s = clock()
    value = writer.do("UPDATE source SET n = n + 1 WHERE id = 2 RETURNING n")[0]
    writer.do(f"CREATE OR REPLACE VIEW defined AS SELECT id, 'defined:1'::text AS label, {value}::bigint AS n FROM one")
    writer.record(Kind.WRITE, DEFINED, begin_s, value=value, way="CREATE OR REPLACE VIEW")


written("update", ITEM, lambda writer: writer.add(ITEM))
written("schema_qualified", ITEM, lambda writer: writer.add(ITEM, "public.item"))
written("commit", ITEM, lambda writer: writer.transact(ITEM, INCREMENT))
written("view_over_what_is_written", VIEWED[0], lambda writer: writer.add(ITEM))
written("through_a_view", ITEM, lambda writer: writer.add(ITEM, "item_view"))
written("trigger", SHADOWS[0], lambda writer: writer.write(SHADOWS[0], "INSERT INTO ledger VALUES (1)"))
written(
    "cascade",
    CHILDREN[0],
    lambda writer: writer.write(CHILDREN[0], "UPDATE parent SET n = n + 1 WHERE id = 1 RETURNING n"),
)
written("partition", WHOLES[0], lambda writer: writer.add(WHOLES[0], "part_1"))
written("partitioned", PARTS[0], lambda writer: writer.add(PARTS[0], "whole"))
written("copy", PILES[0], _copy)
written("truncate", REFILLED, _truncate)
written("refill", REFILLED, _refill)
written("replaced_view", DEFINED, _define)
written("cte", ITEM, lambda writer: writer.write(ITEM, f"WITH w AS ({INCREMENT}) SELECT n FROM w"))
written("function", ITEM, lambda writer: writer.write(ITEM, "SELECT bump(1)"))
written(
    "merge",
    ITEM,
    lambda writer: writer.write(
        ITEM,
        "MERGE INTO item USING (SELECT 1 AS id) s ON item.id = s.id WHEN MATCHED THEN UPDATE SET n = item.n + 1",
    ),
)


@scene
def savepoint(stage: Stage) -> None:
    proxy = stage.proxy()
    writer, reader = stage.actor(proxy), stage.actor(proxy)
    stage.warm(proxy, reader, ITEM)
    undone = "UPDATE item SET n = n + 100 WHERE id = 1"
    writer.transact(ITEM, "SAVEPOINT s", undone, "ROLLBACK TO s", INCREMENT)
    reader.see(ITEM)
    writer.transact(ITEM, undone, end="ROLLBACK")
    reader.see(ITEM)


@scene
def two_phase_commit(stage: Stage) -> None:
    proxy = stage.proxy()
    writer, reader = stage.actor(proxy), stage.actor(proxy)
    name = f"checker_{writer.number}"
    writer.do("BEGIN")
    value = writer.do(INCREMENT)[0]
    writer.do(f"PREPARE TRANSACTION '{name}'")
    stage.warm(proxy, reader, ITEM)
    begin_s = clock()
    writer.do(f"COMMIT PREPARED '{name}'")
    writer.record(Kind.WRITE, ITEM, begin_s, value=value, way="COMMIT PREPARED")
    reader.see(ITEM)


@scene
def trigger_made_meanwhile(stage: Stage) -> None:
    proxy = stage.proxy()
    writer, reader = stage.actor(proxy), stage.actor(proxy)
    stage.warm(proxy, reader, SHADOWS[0])
    writer.do("CREATE TRIGGER follow AFTER INSERT ON journal FOR EACH ROW EXECUTE FUNCTION follow()")
    try:
        stage.warm(proxy, reader, SHADOWS[0])
        writer.write(SHADOWS[0], "INSERT INTO journal VALUES (1)")
        reader.see(SHADOWS[0])
    finally:
        writer.do("DROP TRIGGER follow ON journal")


@scene
def revoke(stage: Stage) -> None:
    proxy = stage.proxy()
    owner, reader = stage.actor(proxy), stage.actor(proxy, BOB)
    stage.warm(proxy, reader, GUARDED)
    begin_s = clock()
    owner.do("REVOKE SELECT ON guarded FROM checker_bob")
    owner.record(Kind.WRITE, GUARDED, begin_s, value=0, way="REVOKE")
    try:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            reader.see(GUARDED)
    finally:
        owner.do("GRANT SELECT ON guarded TO checker_bob")


@scene
def past_the_proxies(stage: Stage) -> None:
    proxy = stage.proxy()
    writer, reader = stage.actor(None), stage.actor(proxy)
    stage.warm(proxy, reader, PASSED[0])
    writer.add(PASSED[0])
    time.sleep(BOUND_S + 0.05)  # what is waited for is that time passes
    reader.see(PASSED[0])


# --- whose answer it is ---


@scene
def parameters(stage: Stage) -> None:
    proxy = stage.proxy()
    reader = stage.actor(proxy)
    stage.warm(proxy, reader, ITEMS[0])
    reader.see(ITEMS[1])


def same_text(name: str, register: Register, setting: str) -> None:
    def play(stage: Stage) -> None:
        proxy = stage.proxy()
        plain, other = stage.actor(proxy), stage.actor(proxy, setting)
        stage.warm(proxy, plain, ITEM)
        other.see(register)
        stage.warm(proxy, other, register)
        other.do("RESET search_path")
        other.do("RESET ROLE")
        other.see(ITEM)

    SCENES[name] = play


same_text("role", ALICES[0], ROLE)
same_text("search_path", TENANTS[0], SEARCH_PATH)


@scene
def setting_that_cannot_be_followed(stage: Stage) -> None:
    proxy = stage.proxy()
    plain, other = stage.actor(proxy), stage.actor(proxy)
    other.do("DO $$ BEGIN SET search_path = tenant; END $$")
    stage.warm(proxy, plain, ITEM)
    other.see(TENANTS[0])


@scene
def unique_comments(stage: Stage) -> None:
    proxy = stage.proxy()
    reader = stage.actor(proxy)
    stage.warm(proxy, reader, ITEM)
    before = proxy.figures()["figures"]["hits"]
    for number in range(5):
        reader.see(ITEM, comment=f" /* request {number} */")
    hits = proxy.figures()["figures"]["hits"] - before
    if hits < 5:
        stage.complain("no answers", f"{hits} hits of 5 reads that differ in a comment")


def _run(client: Raw, *frames: bytes) -> list[bytes]:
    client.send(*frames, build_sync())
    return client.until("Z")


@scene
def forms_of_the_answer(stage: Stage) -> None:
    """Text and binary, with a RowDescription and without, by a simple Query: the bytes are those of the server."""
    proxy = stage.proxy()
    before = proxy.figures()["figures"]["hits"]
    query = b"SELECT label, n FROM item WHERE id = 1"
    ways = [
        (build_bind("", "s", (), (), (0,)), build_execute("")),
        (build_bind("", "s", (), (), (1,)), build_execute("")),
        (build_bind("", "s", (), (), (0,)), build_describe("P", ""), build_execute("")),
        (build_bind("", "s", (), (), (1,)), build_describe("P", ""), build_execute("")),
        (build_bind("", "s", (), (), (1, 0)), build_describe("P", ""), build_execute("", 1)),
    ]
    answers: list[list[str]] = []
    for port in (stage.servers.postgres.port, proxy.port):
        with Raw(stage.trusted(port)) as client:
            client.start()
            _run(client, build_parse("s", query.decode()), build_describe("S", "s"))
            said = []
            for _ in range(3):
                said += [b"".join(_run(client, *way)).hex() for way in ways]
                said.append(b"".join(client.query(query.decode())).hex())
            answers.append(said)
    if answers[0] != answers[1]:
        stage.complain("another's answer", "the bytes are not those of the server")
    if proxy.figures()["figures"]["hits"] < before + 6:
        stage.complain("no answers", "the cache did not answer")


# --- while something is under way ---


@scene
def slow_answer(stage: Stage) -> None:
    """The answer to a read is on its way while another session writes: it is not to be stored as if it were new."""
    valve = stage.valve(stage.servers.postgres.port)
    proxy = stage.proxy(upstream_port=valve.port)
    writer, reader = stage.actor(proxy), stage.actor(proxy)
    stage.warm(proxy, reader, ITEM)
    writer.add(ITEM)
    slow, pipe = stage.held(proxy, valve)
    pipe.hold(DOWN)
    seen = stage.aside(lambda: slow.see(ITEM))
    eventually(pipe.waiting[DOWN].is_set)
    writer.add(ITEM)
    pipe.flow(DOWN)
    seen.result(20)
    for _ in range(2):
        reader.see(ITEM)


@scene
def commit_on_its_way(stage: Stage) -> None:
    """A session has seen a commit whose acknowledgement is on its way: it does not see less afterwards."""
    valve = stage.valve(stage.servers.postgres.port)
    proxy = stage.proxy(upstream_port=valve.port)
    reader = stage.actor(proxy)
    writer, pipe = stage.held(proxy, valve)
    stage.warm(proxy, reader, ITEM)
    pipe.hold(DOWN)
    acknowledged = stage.aside(lambda: writer.add(ITEM))
    eventually(pipe.waiting[DOWN].is_set)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)
    pipe.flow(DOWN)
    acknowledged.result(20)
    reader.see(ITEM)


@scene
def acknowledgement_lost(stage: Stage) -> None:
    """The server has committed, and the connection breaks before it can say so."""
    valve = stage.valve(stage.servers.postgres.port)
    proxy = stage.proxy(upstream_port=valve.port)
    reader = stage.actor(proxy)
    writer, pipe = stage.held(proxy, valve)
    stage.warm(proxy, reader, ITEM)
    pipe.hold(DOWN)
    lost = stage.aside(lambda: writer.add(ITEM))
    interrupted(pipe)
    lost.result(20)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)


@scene
def commit_after_the_loss(stage: Stage) -> None:
    """The server commits after the connection broke: it waited for a lock and has not noticed."""
    valve = stage.valve(stage.servers.postgres.port)
    proxy = stage.proxy(upstream_port=valve.port)
    locker, reader = stage.actor(None), stage.actor(proxy)
    writer, pipe = stage.held(proxy, valve)
    stage.warm(proxy, reader, ITEM)
    least = stage.value(ITEM) + 1
    locker.do("BEGIN")
    locker.do("SELECT FROM item WHERE id = 1 FOR UPDATE")
    lost = stage.aside(lambda: writer.add(ITEM))
    stage.waiting()
    pipe.cut()
    lost.result(20)
    for _ in range(2):
        reader.see(ITEM)  # whoever stores this now has it from before the commit
    locker.do("COMMIT")
    stage.committed(ITEM, least)
    reader.see_in_transaction(ITEM)
    reader.see(ITEM)


@scene
def one_snapshot(stage: Stage) -> None:
    """A transaction of one snapshot sees the same all the time, whatever others have had stored meanwhile."""
    proxy = stage.proxy()
    writer, reader, inside = stage.actor(proxy), stage.actor(proxy), stage.actor(proxy)
    inside.do("BEGIN ISOLATION LEVEL REPEATABLE READ")
    value = inside.see(ITEM)
    writer.add(ITEM)
    stage.warm(proxy, reader, ITEM)
    inside.see(ITEM, own=value)
    inside.do("COMMIT")


@scene
def own_write(stage: Stage) -> None:
    """A transaction sees what it has written."""
    proxy = stage.proxy()
    writer, reader = stage.actor(proxy), stage.actor(proxy)
    stage.warm(proxy, reader, ITEM)
    writer.do("BEGIN")
    value = writer.do(INCREMENT)[0]
    writer.see(ITEM, own=value)
    writer.do("ROLLBACK")
    reader.see(ITEM)
