"""Signals and the end of the proxy: clients are told, transactions may end, nothing hangs."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack

import psycopg
import pytest

from pgloupe.wire.frontend import build_parse, build_query
from support.leftovers import (
    EVERYTHING,
    LARGE,
    database_of_things,
    gone,
    through,
)
from support.proxy import Proxy, Serve, proxy_to
from support.raw import Raw, codes, errors, eventually
from support.servers import Postgres


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


def test_sigterm_drains(direct: str) -> None:
    with Serve("--upstream", direct) as serve:
        url = through(serve, direct)
        with Raw(url) as idle, Raw(url) as busy, Raw(url) as inside:
            for client in (idle, busy, inside):
                client.start()
            inside.query("BEGIN")
            inside.query("INSERT INTO thing VALUES (77)")
            busy.send(build_query("SELECT 1 FROM pg_sleep(0.2)"))
            serve.process.send_signal(signal.SIGTERM)
            shutdown = [("FATAL", "57P01", "terminating connection due to administrator command")]
            assert errors(idle.rest()) == shutdown
            with pytest.raises(ConnectionError):
                Raw(url)
            frames = busy.rest()
            assert codes(frames) == "TDCZE"
            assert errors(frames) == shutdown
            assert codes(inside.query("SELECT 1")) == "TDCZ"
            inside.send(build_query("COMMIT"))
            frames = inside.rest()
            assert codes(frames) == "CZE"
            assert errors(frames) == shutdown
        assert serve.process.wait(20) == 0
    with psycopg.connect(direct, autocommit=True) as connection:
        assert connection.execute("DELETE FROM thing WHERE id = 77").rowcount == 1


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]]
)
def test_sigint_or_a_second_signal_ends_at_once(direct: str, signals: list[signal.Signals]) -> None:
    with Serve("--upstream", direct) as serve:
        url = through(serve, direct)
        with Raw(url) as idle, Raw(url) as inside:
            idle.start()
            inside.start()
            inside.query("BEGIN")
            serve.process.send_signal(signals[0])
            assert errors(idle.rest())[0][1] == "57P01"
            for number in signals[1:]:
                serve.process.send_signal(number)
            assert errors(inside.rest())[0][1] == "57P01"
            process = inside.process
        assert serve.process.wait(20) == 0
    gone(direct, process)


def test_the_proxy_ends_while_everyone_is_busy(direct: str) -> None:
    """Nothing hangs: not a dialling, not a cancelling, not a stuck client."""
    with proxy_to(direct, cache=EVERYTHING) as proxy, ExitStack() as stack:
        slow = stack.enter_context(Raw(proxy.url, receive_buffer_bytes=4096))
        slow.start()
        slow.send(build_query(LARGE.format(20_000)))
        sleeper = stack.enter_context(Raw(proxy.url))
        sleeper.start()
        sleeper.send(build_query("SELECT pg_sleep(60)"))
        greeting = stack.enter_context(Raw(proxy.url))
        greeting.send(b"\0\0")
        partial = stack.enter_context(Raw(proxy.url))
        partial.start()
        partial.send(build_parse("", "SELECT id FROM thing"))
        before = threading.active_count()
    assert threading.active_count() < before
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (sleeper.process,))
    for client in (slow, sleeper, partial):
        gone(direct, client.process)


def fill(proxy: Proxy, client: Raw) -> int:
    """Have a client that does not read ask until the proxy itself has answers for it that the system does not take. Gives
    how often it asked; the last answer has arrived in the proxy."""
    port = client.socket.getsockname()[1]

    def state() -> tuple[bool, int]:
        (found,) = [each for each in proxy.running._app.listener.frontends if each._client.endswith(f":{port}")]
        assert found.link is not None
        assert found._transport is not None
        return found.link.idle, found._transport.get_write_buffer_size()

    asked = 0
    while proxy.running._ask(state)[1] < 100_000:
        client.send(build_query("SELECT repeat('x', 20000)"))
        asked += 1
        eventually(lambda: proxy.running._ask(state)[0])
    return asked


def test_a_client_that_reads_slowly_gets_everything_and_is_told_the_end(direct: str) -> None:
    """More is on its way than the system takes, and reading it takes longer than the proxy waits for those that do not read."""
    received: list[bytes] = []

    def read(client: Raw) -> None:
        pause = threading.Event()
        while more := client.receive():
            received.append(more)
            pause.wait(0.003)

    with ExitStack() as clients:
        with proxy_to(direct) as proxy:
            slow, silent = (clients.enter_context(Raw(proxy.url, receive_buffer_bytes=4096)) for _ in range(2))
            for client in (slow, silent):
                client.start()
                asked = fill(proxy, client)
                if client is slow:
                    expected = asked
            reader = threading.Thread(target=read, args=(slow,))
            reader.start()
        reader.join(30)
        assert not reader.is_alive()
        slow._data = b"".join(received)
        frames = slow.rest()
        assert codes(frames) == "TDCZ" * expected + "E"
        assert errors(frames)[0][1] == "57P01"
