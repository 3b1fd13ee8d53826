"""Hostile peers through sockets: a client against a real server, a server against a client that waits. Nobody beside them
notices, nothing is left, and the proxy does not spin.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgloupe.wire.frontend import build_frame, build_query
from pgloupe.wire.startup import build_startup
from support.bytecode import CLIENT, FIRST, SERVER, Tape, tampered
from support.hostile import ASK_PASSWORD, WELCOME, FakeServer
from support.leftovers import EVERYTHING, database_of_things, memory_kb, nothing_left, settled, through
from support.proxy import Proxy, Serve, proxy_to
from support.raw import Raw, codes, errors
from support.servers import Postgres

SOME = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


@pytest.fixture(scope="module", params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_to(direct, **({"cache": EVERYTHING} if request.param == "caching" else {})) as started:
        yield started


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(scope="module", params=["watching", "caching"])
def before_fake(fake: FakeServer, direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    cache = {"cache": {**EVERYTHING, "catalog_url": direct}} if request.param == "caching" else {}
    with proxy_to(fake.url, **cache) as started:
        yield started


def to_the_end(client: Raw) -> bytes:
    received = b""
    while more := client.receive():
        received += more
    return received


def test_whatever_a_client_sends_nobody_notices(direct: str, proxy: Proxy) -> None:
    with Raw(proxy.url) as bystander, nothing_left(proxy):
        bystander.start()

        @SOME
        @given(st.booleans(), st.binary(max_size=80))
        def attack(authenticated: bool, program: bytes) -> None:
            tape = Tape(program)
            with Raw(proxy.url) as client, contextlib.suppress(OSError):
                if authenticated:
                    client.start()
                while not tape.over:
                    client.send(tampered(tape, CLIENT if authenticated else FIRST))
                client.half_close()
                to_the_end(client)
            assert codes(bystander.query("SELECT id FROM thing")) == "TDDDDDCZ"
            settled(proxy, 1)

        attack()
        bystander.terminate()
        assert bystander.rest() == []
        bystander.socket.close()
        settled(proxy)


def test_whatever_a_server_sends_its_client_gets_it_and_an_end(fake: FakeServer, before_fake: Proxy) -> None:
    with nothing_left(before_fake):

        @SOME
        @given(st.booleans(), st.binary(max_size=80))
        def attack(welcome: bool, program: bytes) -> None:
            tape = Tape(program)
            said = WELCOME if welcome else b""
            while not tape.over:
                said += tampered(tape, SERVER)
            fake.say([said or b"N"])
            with Raw(before_fake.url) as client, contextlib.suppress(OSError):
                client.send(build_startup({"user": "nobody"}) + build_query("SELECT id FROM thing"))
                received = to_the_end(client)
                if welcome:
                    assert received.startswith(WELCOME)
            settled(before_fake)

        attack()


def test_a_server_that_asks_for_passwords_without_end_takes_no_memory(fake: FakeServer, before_fake: Proxy) -> None:
    fake.say([ASK_PASSWORD * 1_000] * 300, stays=True)
    with Raw(before_fake.url) as client, nothing_left(before_fake):
        client.send(build_startup({"user": "nobody"}))
        for _ in range(300):
            asked = b""
            while len(asked) < 1_000 * len(ASK_PASSWORD):
                asked += client.receive()
            assert asked == ASK_PASSWORD * 1_000
            client.send(build_frame(0x70, b"secret\0"))
        client.half_close()
        assert to_the_end(client) == b""  # who has stopped sending is told no more
        client.socket.close()
        settled(before_fake)


def test_a_storm_of_ready_for_query_ends_or_passes(fake: FakeServer, before_fake: Proxy) -> None:
    fake.say([WELCOME, (b"Z\0\0\0\5I" * 10_000)])
    with Raw(before_fake.url) as client:
        client.send(build_startup({"user": "nobody"}))
        assert codes(client.until("Z")) == "RZ"
        client.send(build_query("SELECT id FROM thing"))
        assert to_the_end(client).startswith(b"Z\0\0\0\5I" * 10_000)
    settled(before_fake)


def cpu_ticks(process: int) -> int:
    """Time of the processor that a process has taken, in ticks of 10 ms."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


STUCK = {
    "nothing": b"",
    "half of a length": b"\0\0",
    "half of a start-up packet": build_startup({"user": "x" * 100})[:50],
    "half of a query": build_query("SELECT 1")[:7],
    "a long message": b"Q" + (1 << 29).to_bytes(4, "big") + b"x" * 2_000_000,
    "an absurd length": b"Q\xff\xff\xff\xff",
    "an unknown message": build_frame(0x7E, b"x"),
    "copied data that nobody asked for": build_frame(0x64, b"x") * 100,
    "a Parse without a Sync": build_frame(0x50, b"\0SELECT 1\0\0\0"),
}


def test_clients_that_are_stuck_cost_no_processor_time(direct: str) -> None:
    with Serve("--upstream", direct) as serve, contextlib.ExitStack() as stack:
        url = through(serve, direct)
        clients = []
        for name, data in STUCK.items():
            client = stack.enter_context(Raw(url))
            if name not in ("nothing", "half of a length", "half of a start-up packet"):
                client.start()
            with contextlib.suppress(OSError):
                client.send(data)
            if name.startswith("half"):
                client.send(b"\0")
            clients.append(client)
        gone_quiet = stack.enter_context(Raw(url))
        gone_quiet.start()
        gone_quiet.half_close()
        assert to_the_end(gone_quiet) == b""
        before_kb = memory_kb(serve.process.pid, "VmRSS")
        ticks = cpu_ticks(serve.process.pid)
        with Raw(url) as other:
            other.start()
            other.query("SELECT pg_sleep(0.6)")  # meanwhile nobody says anything
        assert cpu_ticks(serve.process.pid) - ticks < 20
        assert memory_kb(serve.process.pid, "VmRSS") - before_kb < 4 << 10


def test_a_client_that_pipelines_before_its_login_is_done_is_served(direct: str, proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.send(
            build_startup({"user": client.user, "database": client.database}),
            build_query("SELECT id FROM thing") * 3,
        )
        frames = client.until("Z", 4)
        assert codes(frames).endswith("Z" + "TDDDDDCZ" * 3)
        assert errors(frames) == []
        client.terminate()


def test_a_connection_that_is_reset_at_once_leaves_nothing(proxy: Proxy) -> None:
    with nothing_left(proxy):
        for _ in range(200):
            client = socket.create_connection((proxy.host, proxy.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        settled(proxy)
