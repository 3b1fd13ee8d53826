"""Large results, large values, readers that do not read: the memory of the proxy stays what it is, and nobody waits."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgloupe.session.actions import BeginWrite
from pgloupe.session.gate import GatedSession
from pgloupe.wire.codes import MAX_FRAME_BYTES, BackendCode, FrontendCode
from pgloupe.wire.frontend import build_query
from support.conversation import gated, plain
from support.fault_proxy import UP, Fault, FaultProxy
from support.leftovers import (
    LARGE,
    database_of_things,
    gone,
    memory_kb,
    through,
    works,
)
from support.proxy import Serve
from support.raw import COPY_DONE, Raw, codes, copy_data, eventually
from support.servers import Postgres

RULE = '[[cache.allow]]\nname = "all"\ntables = ["thing"]\nttl = "60s"\n'


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


@pytest.fixture(scope="module", params=["watching", "caching"])
def serve(direct: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("serve")
    if request.param == "caching":
        (folder / "pgloupe.toml").write_text(RULE)
    with Serve("--upstream", direct, cwd=str(folder)) as started:
        yield started


def test_a_reader_that_does_not_read_costs_no_memory_and_delays_nobody(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    rows = 300_000
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    with Raw(url, receive_buffer_bytes=65536) as slow, psycopg.connect(direct, autocommit=True) as observer:
        slow.start()
        slow.send(build_query(LARGE.format(rows)))
        # the server itself waits for us: everything between is as full as it gets
        waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: observer.execute(waits, (slow.process,)).fetchone() == ("ClientWrite",))
        for _ in range(20):
            works(url)
        assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10
        assert read_all(slow) > rows * 1000
    assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


def test_a_client_that_asks_without_reading_is_stopped(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    query = build_query(LARGE.format(10)) * 1000
    with Raw(url, receive_buffer_bytes=65536) as greedy:
        greedy.start()
        greedy.socket.settimeout(0.5)  # so long after the last byte that was taken
        with pytest.raises(TimeoutError):
            greedy.send(query * 1000)
        works(url)
        assert memory_kb(serve.process.pid, "VmHWM") - before < 64 << 10
        greedy.reset()
    gone(direct, greedy.process)
    works(url)


def read_all(client: Raw) -> int:
    """Read up to the ReadyForQuery behind a large result. Gives the number of bytes."""
    buffer = bytearray(1 << 20)
    received = 0
    tail = b""
    while not tail.endswith(b"Z\0\0\0\5I"):
        count = client.socket.recv_into(buffer)
        assert count
        received += count
        tail = (tail + buffer[max(0, count - 6) : count])[-6:]
    return received


def test_one_value_of_two_hundred_megabytes_passes_to_a_slow_reader_in_constant_memory(
    direct: str, serve: Serve
) -> None:
    url = through(serve, direct)
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    size = 200_000_000
    with Raw(url, receive_buffer_bytes=65536) as client:
        client.start()
        client.send(build_query(f"SELECT repeat('x', {size})"))
        client.socket.recv(100)
        for _ in range(20):  # while it does not read
            works(url)
        assert read_all(client) > size - 100
    assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


def test_a_result_of_two_gigabytes_passes_in_constant_memory(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    with Raw(url) as client:
        client.start()
        client.send(build_query("SELECT repeat('x', 200000) FROM generate_series(1, 10000)"))
        assert read_all(client) > 2_000_000_000
    assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


@pytest.mark.parametrize("caching", [False, True])
def test_copied_data_waits_for_a_server_that_has_stalled_without_taking_memory(
    direct: str, caching: bool, tmp_path: Path
) -> None:
    if caching:
        # the catalogs are read past the relay, so that the connection with the fault is the client's
        (tmp_path / "pgloupe.toml").write_text(f'[cache]\ncatalog_url = "{direct}"\n{RULE}')
    block = copy_data(*["x" * 60_000] * 16)
    blocks = 300
    with (
        FaultProxy(direct) as far,
        Serve("--upstream", f"{far.url}?sslmode=disable", cwd=str(tmp_path)) as serve,
        Raw(through(serve, direct)) as bystander,
    ):
        bystander.start()
        before = memory_kb(serve.process.pid, "VmRSS")
        far.next(Fault(UP, 40_000_000, "stall"))
        with Raw(through(serve, direct)) as client:
            client.start()
            client.send(build_query("COPY wide FROM STDIN WHERE false"))
            assert codes(client.until("G")) == "G"
            client.socket.settimeout(0.5)  # so long after the last byte that was taken
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < blocks * len(block):
                    sent += client.socket.send(memoryview(block)[sent % len(block) :])
            assert 40_000_000 <= sent < 100_000_000
            assert far.last.struck.is_set()
            assert codes(bystander.query("SELECT id FROM thing")) == "TDDDDDCZ"
            assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10
            client.socket.settimeout(20)
            far.last.resume()
            while sent < blocks * len(block):
                sent += client.socket.send(memoryview(block)[sent % len(block) :])
            client.send(COPY_DONE)
            assert codes(client.until("Z")) == "CZ"
        assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("from_client", [False, True])
def test_a_message_of_a_gigabyte_passes(caching: bool, from_client: bool) -> None:
    """The longest that there is, in pieces as a socket gives them; nothing of it is kept."""
    talk = gated() if caching else plain()
    length = MAX_FRAME_BYTES - 1
    if from_client:
        session, code = talk.session, FrontendCode.QUERY
        receive, take = session.receive_frontend, session.data_to_backend
    else:
        talk.client(build_query("SELECT 1"))
        session, code = talk.session, BackendCode.DATA_ROW
        receive, take = session.receive_backend, session.data_to_frontend
    sent = passed = 0
    chunk = bytes(1 << 20)
    head = bytes([code]) + length.to_bytes(4, "big")
    tracemalloc.start()
    while sent < length + 1:
        data = head if not sent else chunk[: length + 1 - sent]
        receive(data, 1.0)
        sent += len(data)
        while session.actions:
            for action in session.actions:
                assert isinstance(action, BeginWrite)
                assert isinstance(session, GatedSession)
                session.actions = []
                session.marked(object(), 1.0)
        passed += len(take())
        session.analyse(1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert passed == sent == MAX_FRAME_BYTES
    assert peak < 8 << 20
    assert session.trouble == ""
