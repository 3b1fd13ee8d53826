"""A connection that breaks: at any byte of a conversation, in either direction, on either side of the proxy, in order or not.

Each conversation is first led without a fault and measured, then once for each point at which it is cut: around the borders
of messages and evenly between. Whatever happens, the client reads a PostgreSQL error where the stream stood between two
messages, a session beside it goes on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from pgloupe.wire.frontend import (
    build_bind,
    build_describe,
    build_execute,
    build_flush,
    build_parse,
    build_query,
    build_sync,
    build_terminate,
)
from pgloupe.wire.startup import build_startup
from support.fault_proxy import DOWN, UP, Ending, Fault, FaultProxy
from support.leftovers import backends, database_of_things, nothing_left, settled
from support.proxy import Proxy, proxy_to
from support.raw import COPY_DONE, Raw, Script, codes, copy_data, errors, eventually
from support.servers import Postgres, Redis

SYNC = build_sync()
READ = build_query("SELECT id FROM thing")


def cycle(query: str | None, name: str = "", *values: bytes) -> bytes:
    parse = build_parse(name, query) if query is not None else b""
    return parse + build_bind("", name, values) + build_describe("P", "") + build_execute("") + SYNC


SCRIPTS: dict[str, Script] = {
    "nothing but the start-up": [],
    "simple queries": [
        (READ, "Z"),
        (build_query("INSERT INTO other VALUES (7)"), "Z"),
        (build_query("SELECT wrong"), "Z"),
        (build_query("BEGIN; SELECT 1"), "Z"),
        (build_query("ROLLBACK"), "Z"),
    ],
    "the extended query": [
        (cycle("SELECT id FROM thing WHERE id > $1::int", "", b"2"), "Z"),
        (build_parse("", "SELECT 1") + build_flush(), "1"),
        (build_bind("", "") + build_execute("") + SYNC, "Z"),
        (build_parse("", "SELECT wrong") + build_bind("", "") + SYNC, "Z"),
    ],
    "prepared statements": [
        (build_parse("s", "SELECT id FROM thing WHERE id = $1::int") + build_describe("S", "s") + SYNC, "Z"),
        (cycle(None, "s", b"1") + cycle(None, "s", b"2") + cycle(None, "s", b"1"), 3),
        (cycle(None, "s", b"1"), "Z"),
    ],
    "COPY FROM STDIN": [
        (build_query("COPY other FROM STDIN"), "G"),
        (copy_data("1", "2"), None),
        (copy_data("3") + COPY_DONE, "Z"),
        (READ, "Z"),
    ],
    "COPY TO STDOUT": [(build_query("COPY thing TO STDOUT"), "Z"), (READ, "Z")],
    "cached reads": [
        (READ, "Z"),
        (READ, "Z"),
        (cycle("SELECT id FROM thing"), "Z"),
        (cycle("SELECT id FROM thing"), "Z"),
    ],
    "writes between reads": [
        (READ, "Z"),
        (build_query("DELETE FROM other"), "Z"),
        (cycle("INSERT INTO other VALUES (8)"), "Z"),
        (build_query("SELECT id FROM other"), "Z"),
        (build_query("INSERT INTO other VALUES (9)") + READ, 2),
    ],
}
LOGIN = "a login by SCRAM"
ENDINGS: tuple[Ending, ...] = ("close", "reset", "half close")
POINTS = 9
"""How many points each conversation is cut at, by direction and ending."""

ENDS = frozenset({"08006", "08P01", "28P01", "57P01", "57P02", "57P03"})
"""28P01 where the server got no more of a password."""


@dataclass
class Stage:
    """client, `near`, the proxy, `far`, the server"""

    near: FaultProxy
    far: FaultProxy
    proxy: Proxy
    direct: str
    login: str
    """URL of the near relay for a role with a password."""

    def play(self, conversation: str) -> None:
        """Lead a conversation to its end, or to the end of the connection."""
        with contextlib.suppress(ConnectionError, psycopg.OperationalError):
            if conversation == LOGIN:
                psycopg.connect(self.login, connect_timeout=20).close()
                return
            with Raw(self.near.url) as client:
                client.send(build_startup({"user": client.user, "database": client.database}))
                if not received(client, "Z"):
                    return
                for data, wait in SCRIPTS[conversation]:
                    client.send(data)
                    if wait is not None and not received(client, wait):
                        return
                client.send(build_terminate())
                received(client, "end")


def received(client: Raw, wait: str | int) -> bool:
    """Read what a step waits for; False if the connection ended first."""
    code, count = ("Z", wait) if isinstance(wait, int) else (wait, 1)
    data = b""
    while more := client.receive():
        data += more
        frames, rest = split(data)
        if codes(frames).count(code) >= count:
            assert rest == b""
            return True
    return False


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole messages, and the beginning of one more."""
    frames: list[bytes] = []
    position = 0
    while position + 5 <= len(data):
        end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        if end > len(data):
            break
        frames.append(data[position:end])
        position = end
    return frames, data[position:]


def points(data: bytes, *, packet: bool) -> list[int]:
    """Where a stream is cut: evenly, and around borders of messages. A client's begins with a packet without a type."""
    start = int.from_bytes(data[:4], "big") if packet else 0
    borders = [start]
    for frame in split(data[start:])[0]:
        borders.append(borders[-1] + len(frame))
    every = max(1, len(borders) // 3)
    chosen = {border + step for step, border in zip((0, -1, 1, 4, 0, 2) * 9, borders[::every], strict=False)}
    chosen |= {number * len(data) // (POINTS - len(chosen) + 1) for number in range(1, POINTS - len(chosen) + 1)}
    return sorted(point for point in chosen if 0 < point <= len(data))


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


@pytest.fixture(scope="module", params=["watching", "caching"])
def stage(direct: str, postgres: Postgres, redis_server: Redis, request: pytest.FixtureRequest) -> Iterator[Stage]:
    catalog = (
        f"{postgres.url.rpartition('/')[0]}/{direct.rpartition('/')[2]}"  # of another role, so that it is not counted
    )
    allow = [{"name": "all", "tables": ["thing", "other"], "ttl": "60s"}]
    settings = {"cache": {"allow": allow, "redis": redis_server.url, "catalog_url": catalog}}
    with (
        FaultProxy(direct) as far,
        proxy_to(f"{far.url}?sslmode=disable", **(settings if request.param == "caching" else {})) as proxy,
        FaultProxy(proxy.url) as near,
    ):
        parts = near.url.rpartition("@")[2].partition("/")
        login = f"{postgres.url.rpartition('@')[0]}@{parts[0]}/{parts[2]}?sslmode=disable&gssencmode=disable"
        yield Stage(near, far, proxy, direct, login)


def told(stage: Stage, what: str) -> None:
    """The client was told why its connection ended, unless it said goodbye itself or the end came inside of a message."""
    up, down = stage.near.last.passed
    if up.endswith(build_terminate()):
        return
    frames, rest = split(bytes(down))
    if rest:
        return
    assert frames, what
    ((severity, sqlstate, text),) = errors(frames[-1:]) or [("", "", f"last was {codes(frames)[-20:]}")]
    assert severity == "FATAL", f"{what}: {text}"
    assert sqlstate in ENDS, f"{what}: {text}"


@pytest.mark.parametrize("conversation", [*SCRIPTS, LOGIN])
@pytest.mark.parametrize("side", ["the client's", "the server's"])
def test_a_connection_cut_at_any_byte_is_told_and_leaves_nothing(stage: Stage, side: str, conversation: str) -> None:
    relay = stage.near if side == "the client's" else stage.far
    with Raw(stage.proxy.url) as bystander, nothing_left(stage.proxy):
        bystander.start()
        stage.play(conversation)
        relay.last.ended.wait(20)
        whole = tuple(bytes(passed) for passed in relay.last.passed)
        settled(stage.proxy, 1)
        for direction in (UP, DOWN):
            for ending in ENDINGS:
                for after in points(whole[direction], packet=direction == UP):
                    what = f"{conversation}, {side} side, {'up' if direction == UP else 'down'}, {ending} after {after}"
                    relay.next(Fault(direction, after, ending))
                    stage.play(conversation)
                    assert stage.near.last.ended.wait(20), what
                    if side == "the server's":
                        told(stage, what)
                    assert codes(bystander.query("SELECT id FROM thing")) == "TDDDDDCZ", what
                    settled(stage.proxy, 1)
        bystander.terminate()
        assert bystander.rest() == []
        bystander.socket.close()
        settled(stage.proxy)
    eventually(lambda: not backends(stage.direct))


@pytest.mark.parametrize("fault", [Fault(piece=1), Fault(delay_s=0.02)], ids=["byte by byte", "late"])
@pytest.mark.parametrize("conversation", SCRIPTS)
@pytest.mark.parametrize("side", ["the client's", "the server's"])
def test_a_slow_network_changes_no_answer(stage: Stage, side: str, conversation: str, fault: Fault) -> None:
    stage.play(conversation)
    expected = codes(split(bytes(stage.near.last.passed[DOWN]))[0])
    relay = stage.near if side == "the client's" else stage.far
    relay.next(fault)
    stage.play(conversation)
    assert relay.last.fault is fault
    assert codes(split(bytes(stage.near.last.passed[DOWN]))[0]) == expected
