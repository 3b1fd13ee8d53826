"""Many clients that ask the same at once cost the server one query, and none of them can tell."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.proxy import Proxy, proxy_to
from support.raw import eventually
from support.servers import Postgres

READ = "SELECT id, name FROM author WHERE id = 3"
CLIENTS = 12
LONG_S = 30


@pytest.fixture
def url(postgres: Postgres) -> str:
    found = postgres.create_database()
    with psycopg.connect(found) as connection:
        connection.execute("CREATE TABLE author (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO author SELECT n, 'author ' || n FROM generate_series(1, 20) n")
    return found


@contextlib.contextmanager
def cached(url: str, **settings: Any) -> Iterator[Proxy]:
    rule = {"name": "authors", "tables": ["author"], "ttl": "60s"}
    with proxy_to(url, cache={"allow": [rule], **settings}) as proxy:
        yield proxy


@contextlib.contextmanager
def locked(url: str) -> Iterator[psycopg.Connection[Any]]:
    """While this lasts nobody can read the table."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE author")
        yield connection


class Client:
    """Connects at once, and asks in a thread of its own when told to."""

    def __init__(self, proxy: Proxy) -> None:
        self.connection = psycopg.connect(proxy.url, autocommit=True)
        self.rows: list[Any] = []
        self.error: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._work)

    def ask(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        try:
            self.rows = self.connection.execute(READ).fetchall()
        except psycopg.Error as error:
            self.error = error

    def done(self) -> bool:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        self.connection.close()
        return self.rows == [(3, "author 3")]


def at_the_server(url: str) -> int:
    """How many statements of clients wait for the lock."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = %s", (READ,)
        ).fetchone()
    assert found is not None
    return int(found[0])


def waits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["waits"])


def test_many_clients_that_ask_the_same_make_one_query(url: str) -> None:
    with cached(url, wait_s=LONG_S) as proxy:
        clients = [Client(proxy) for _ in range(CLIENTS)]
        with locked(url):
            for client in clients:
                client.ask()
            eventually(lambda: waits(proxy) == CLIENTS - 1)
            eventually(lambda: at_the_server(url) == 1)
        assert all(client.done() for client in clients)
        counts = proxy.running.cache_statistics()
        assert (counts["misses"], counts["hits"]) == (1, CLIENTS - 1)


def test_who_has_waited_for_long_asks_the_server(url: str) -> None:
    with cached(url, wait_s=0.05) as proxy:
        clients = [Client(proxy) for _ in range(3)]
        with locked(url):
            for client in clients:
                client.ask()
            eventually(lambda: at_the_server(url) == 3)
        assert all(client.done() for client in clients)


def test_a_client_that_cancels_while_it_waits_is_cancelled_by_the_server(url: str) -> None:
    with cached(url, wait_s=LONG_S) as proxy:
        leader, other = Client(proxy), Client(proxy)
        with locked(url):
            leader.ask()
            eventually(lambda: at_the_server(url) == 1)
            other.ask()
            eventually(lambda: waits(proxy) == 1)
            other.connection.cancel_safe()
            assert not other.done()
            assert isinstance(other.error, psycopg.errors.QueryCanceled)
            assert at_the_server(url) == 1
        assert leader.done()


def test_a_leader_that_leaves_leaves_the_others_their_answer(url: str) -> None:
    with cached(url, wait_s=LONG_S) as proxy:
        leader, other = Client(proxy), Client(proxy)
        with locked(url) as connection:
            leader.ask()
            eventually(lambda: at_the_server(url) == 1)
            other.ask()
            eventually(lambda: waits(proxy) == 1)
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = %s",
                (READ,),
            )
            assert not leader.done()
            eventually(lambda: at_the_server(url) == 1)
        assert other.done()


def test_a_client_that_leaves_while_it_waits_disturbs_nobody(url: str) -> None:
    with cached(url, wait_s=LONG_S) as proxy:
        leader, other, third = Client(proxy), Client(proxy), Client(proxy)
        with locked(url):
            leader.ask()
            eventually(lambda: at_the_server(url) == 1)
            other.ask()
            third.ask()
            eventually(lambda: waits(proxy) == 2)
            with socket.socket(fileno=os.dup(other.connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
        assert leader.done()
        assert third.done()
        assert not other.done()
