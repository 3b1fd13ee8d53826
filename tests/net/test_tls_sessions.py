"""Sessions with TLS on both sides do what sessions do, hold as little memory, and end as cleanly."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgloupe.wire.backend import build_error_response
from pgloupe.wire.frontend import build_frame, build_query
from pgloupe.wire.startup import build_startup
from support.proxy import Proxy, Serve, pgloupe
from support.raw import PATIENCE_S, Raw, codes, errors, eventually
from support.servers import PASSWORDS, Postgres, RedisServer
from support.tls import (
    Certificates,
    TlsRaw,
    TlsServer,
    client_side,
    tls_proxy,
    with_parameters,
)

ROWS = 200_000


@pytest.fixture(scope="module")
def both(tls_postgres: TlsServer) -> Iterator[Proxy]:
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
        yield proxy


def trusted(proxy_url: str, server: TlsServer) -> str:
    """For the role that needs no password, so that raw clients start at once."""
    return proxy_url.replace(server.role_url().partition("@")[0], server.role_url("trusted").partition("@")[0])


def test_a_session_works_as_without_tls(both: Proxy) -> None:
    with psycopg.connect(both.url, autocommit=True) as connection, psycopg.connect(both.url, autocommit=True) as other:
        connection.execute("CREATE TEMPORARY TABLE t (id int, body text)")
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(20_000):
                copy.write_row((number, "x" * 100))
        with connection.cursor().copy("COPY t TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 20_000
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(200)]
            assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(200)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        connection.execute("LISTEN news")
        other.execute("NOTIFY news, 'it works'")
        (notify,) = connection.notifies(timeout=PATIENCE_S, stop_after=1)
        assert notify.payload == "it works"
        long = "y" * (5 << 20)
        assert connection.execute("SELECT %s::text", (long,)).fetchone() == (long,)


def test_psql_works_with_a_certificate_that_it_verifies(
    both: Proxy, certificates: Certificates, postgres: Postgres
) -> None:
    if postgres.bin is None:
        pytest.skip("there is no psql")
    url = with_parameters(both.url, sslmode="verify-full", sslrootcert=str(certificates.ca))
    command = [postgres.bin / "psql", "-X", "-A", "-t", "-c", "\\conninfo", "-c", "SELECT 6 * 7", url]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout.splitlines()
    assert "TLSv1.3" in done.stdout


def peak_bytes(process: int) -> int:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def test_a_slow_reader_of_a_large_result_costs_little_memory(tls_postgres: TlsServer, tmp_path: Path) -> None:
    config = tmp_path / "pgloupe.toml"
    values = client_side(tls_postgres.certificates) | {"server_tls_sslmode": "require"}
    config.write_text("".join(f"{key} = '{value}'\n" for key, value in values.items()))
    with (
        Serve("--upstream", tls_postgres.role_url("trusted"), "--config", str(config)) as serve,
        psycopg.connect(tls_postgres.url, autocommit=True) as watching,
        TlsRaw(f"postgresql://trusted@127.0.0.1:{serve.port}/app") as client,
    ):
        client.start()
        before = peak_bytes(serve.process.pid)
        client.send(build_query(f"SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})"))
        state = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: watching.execute(state, (client.process,)).fetchone() == ("ClientWrite",))
        received = 0
        tail = b""
        while not tail.endswith(b"Z\0\0\0\5I"):
            data = client.receive()
            assert data
            received += len(data)
            tail = tail[-10:] + data[-10:]
        assert received > ROWS * 1000
        assert peak_bytes(serve.process.pid) - before < 20 << 20
        assert serve.stop() == 0


def test_a_client_that_does_not_answer_close_notify_holds_nothing(tls_postgres: TlsServer, both: Proxy) -> None:
    """Its socket is closed all the same, and not only TLS on it."""
    app = both.running._app
    with TlsRaw(trusted(both.url, tls_postgres)) as client, psycopg.connect(tls_postgres.url) as admin:
        client.start()
        admin.execute("SELECT pg_terminate_backend(%s)", (client.process,))
        assert errors(client.rest())[0][:2] == ("FATAL", "57P01")
        with socket.socket(fileno=client.socket.detach()) as raw:
            raw.settimeout(PATIENCE_S)
            assert raw.recv(1) == b""
        eventually(lambda: not app.listener.frontends)


def test_a_client_that_goes_takes_its_backend_along(tls_postgres: TlsServer, both: Proxy) -> None:
    app = both.running._app
    with psycopg.connect(tls_postgres.url, autocommit=True) as admin:
        for ending in ("terminate", "reset", "close", "unwrap"):
            with TlsRaw(trusted(both.url, tls_postgres)) as client:
                client.start()
                process = client.process
                if ending == "unwrap":
                    assert isinstance(client.socket, ssl.SSLSocket)
                    client.socket.unwrap()
                elif ending == "close":
                    client.socket.close()
                else:
                    getattr(client, ending)()
                there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
                eventually(lambda: admin.execute(there, (process,)).fetchone() == (0,))  # noqa: B023
                eventually(lambda: not app.listener.frontends)


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_the_end_of_the_clients_side_is_no_warning(
    tls_postgres: TlsServer, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        tls_proxy(tls_postgres, client=True, server_mode=mode) as proxy,
        TlsRaw(trusted(proxy.url, tls_postgres)) as client,
    ):
        client.start()
        client.query("SELECT 1")
        assert isinstance(client.socket, ssl.SSLSocket)
        client.socket.unwrap().close()
        eventually(lambda: not proxy.running._app.listener.frontends)
    assert "eof_received" not in caplog.text


def test_a_proxy_that_drains_tells_its_clients(tls_postgres: TlsServer) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
        client = TlsRaw(trusted(proxy.url, tls_postgres))
        client.start()
    with client:
        assert errors(client.rest())[0][:2] == ("FATAL", "57P01")


def test_a_cache_reads_the_catalogs_by_tls(tls_postgres: TlsServer, certificates: Certificates) -> None:
    rules = [{"name": "all", "tables": ["cached"], "ttl": "60s"}]
    with psycopg.connect(tls_postgres.role_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS cached (id int)")
    for mode in ("prefer", "require", "verify-full"):
        values: dict[str, Any] = {"cache": {"allow": rules}, "server_tls_ca_file": str(certificates.ca)}
        with (
            tls_proxy(tls_postgres, client=True, server_mode=mode, **values) as proxy,
            psycopg.connect(tls_postgres.url) as admin,
        ):
            assert proxy.running._app.cache is not None
            assert proxy.running._app.cache.dependencies.mode == "catalog"
            seen = admin.execute(
                "SELECT s.ssl FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE application_name = 'pgloupe'"
            ).fetchall()
            assert seen == [(True,)]
            with psycopg.connect(proxy.url, autocommit=True) as connection:
                for _ in range(3):
                    assert connection.execute("SELECT id FROM cached").fetchall() == []
            assert proxy.running.cache_statistics()["hits"] == 2


def test_a_checked_command_needs_to_know_nothing_of_tls(
    tls_postgres: TlsServer, certificates: Certificates, tmp_path: Path
) -> None:
    """The URL and the environment ask for what only the connection to the server has."""
    url = with_parameters(
        tls_postgres.role_url(), sslmode="verify-full", sslrootcert=str(certificates.ca), channel_binding="require"
    )
    code = (
        "import os, psycopg; print(psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 6 * 7').fetchone()[0])"
    )
    (tmp_path / "pgloupe.toml").write_text(
        "".join(f"{key} = '{value}'\n" for key, value in client_side(certificates).items())
    )
    environ = {
        "DATABASE_URL": url,
        "PGSSLMODE": "verify-full",
        "PGCHANNELBINDING": "require",
        "PGSSLROOTCERT": "/nowhere",
    }
    environ |= {"PGREQUIREAUTH": "none", "PGSSLNEGOTIATION": "direct"}
    done = pgloupe("check", "--", sys.executable, "-c", code, environ=environ, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("42\n")


# --- a server that is none ---


class Fake:
    """A server on TLS that says what it is told to say: an item of `lines` whenever the client has said something; then
    it closes. `heard` is what the client said."""

    def __init__(self, certificates: Certificates, *lines: bytes) -> None:
        self._lines = lines
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.server.cert, certificates.server.key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"postgresql://nobody@127.0.0.1:{self._socket.getsockname()[1]}/none"
        self.heard: list[bytes] = []
        self.said = threading.Event()

    def _serve(self) -> None:
        with self._socket, self._socket.accept()[0] as raw:
            raw.settimeout(PATIENCE_S)
            raw.recv(8)
            raw.sendall(b"S")
            with self._context.wrap_socket(raw, server_side=True) as client:
                with contextlib.suppress(OSError):  # the proxy has gone before it heard all
                    self.talk(client)
                self.said.set()
                with contextlib.suppress(OSError, ValueError):
                    client.unwrap()

    def talk(self, client: ssl.SSLSocket) -> None:
        for line in self._lines:
            self.heard.append(client.recv(1 << 16))
            client.sendall(line)

    def __enter__(self) -> Fake:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


WELCOME = build_frame(0x52, b"\0\0\0\0") + build_frame(0x5A, b"I")
ASK_PASSWORD = build_frame(0x52, b"\0\0\0\3")
OFFER = build_frame(0x52, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")


def turn(proxy: Proxy) -> None:
    """Until the proxy has read what is there, if it reads."""
    for _ in range(3):
        proxy.running._ask(lambda: None)


def test_the_last_words_of_a_server_reach_a_client_that_reads_late(
    certificates: Certificates, tls_postgres: TlsServer
) -> None:
    """They come while the proxy does not read, because the client does not, and must not get lost."""
    last = build_error_response("57P01", "goodbye")
    row = build_frame(0x44, b"\0\1\0\0\x03\xe8" + b"x" * 1000)
    sent = []

    class Talkative(Fake):
        def talk(self, client: ssl.SSLSocket) -> None:
            client.recv(1000)
            client.sendall(WELCOME)
            client.recv(1000)
            (frontend,) = proxy.running._app.listener.frontends
            while frontend.link is None or not frontend.link._backend_paused:
                client.sendall(row * 20)
                sent.append(20)
                turn(proxy)
            client.sendall(last)
            client.shutdown(socket.SHUT_WR)  # as a server that is killed: without close_notify

    with (
        Talkative(certificates) as fake,
        tls_proxy(tls_postgres, client=True, server_mode="require", upstream=fake.url) as proxy,
        TlsRaw(proxy.url, receive_buffer_bytes=4096) as client,
    ):
        client.start()
        client.send(build_query("SELECT"))
        assert fake.said.wait(PATIENCE_S)
        turn(proxy)
        frames = client.rest()
        assert frames[-1] == last
        assert len(frames) == sum(sent) + 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b""], "closed the connection during authentication"),
        ([b"R\0\0\0\x0c\0\0\0\x0bmore"], "first SCRAM message is malformed"),
        ([build_frame(0x52, b"\0\0\0\x0br=short,s=c2FsdA==,i=4096")], "does not continue ours"),
        ([b"!i=999999999"], "asks for 999999999 iterations"),
        ([b"!i=0"], "first SCRAM message is malformed"),
        ([b"!i=4096", build_frame(0x52, b"\0\0\0\x0cv=c2lnbmF0dXJl")], "did not prove that it knows the password"),
        ([b"!i=4096", WELCOME], "unexpected message of type 82"),
        ([b"!i=4096", b"Z\0\0\0\5I"], "unexpected message of type 90"),
        ([ASK_PASSWORD], "unexpected message of type 82"),
        ([b"R\x7f\xff\xff\xff"], "a message of 2147483647 bytes"),
        ([b"R\0\0\0\1"], "a message of 1 bytes"),
        ([b"R\0\0\0\4"], "unexpected message of type 82"),
        ([b"x" * 200_000], "during authentication"),
    ],
)
def test_a_server_that_cheats_at_the_login_is_given_up(
    certificates: Certificates,
    tls_postgres: TlsServer,
    answers: list[bytes],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Cheat(Fake):
        def talk(self, client: ssl.SSLSocket) -> None:
            """`!` stands for a good answer to the client's first message, with these iterations."""
            for line in self._lines:
                self.heard.append(client.recv(1 << 16))
                nonce = self.heard[-1].partition(b"r=")[2]
                good = build_frame(0x52, b"\0\0\0\x0br=" + nonce + b"more,s=c2FsdA==," + line[1:])
                client.sendall(good if line.startswith(b"!") else line)

    with (
        Cheat(certificates, OFFER, *answers) as fake,
        tls_proxy(tls_postgres, client=True, server_mode="require", upstream=fake.url) as proxy,
        TlsRaw(proxy.url) as client,
    ):
        client.send(build_startup({"user": "app"}))
        assert client.read() == ASK_PASSWORD
        client.send(build_frame(0x70, PASSWORDS["app"].encode() + b"\0"))
        ((severity, sqlstate, text),) = errors(client.rest())
        assert (severity, sqlstate) == ("FATAL", "08006")
        assert words in text
        heard = b"".join(fake.heard)
    assert b"SCRAM-SHA-256-PLUS\0" in heard
    assert b"p=tls-server-end-point,,n=,r=" in heard
    assert PASSWORDS["app"].encode() not in heard
    assert PASSWORDS["app"] not in caplog.text


def test_a_server_that_offers_nothing_but_binding_cannot_be_reached_in_plain_text(
    certificates: Certificates, tls_postgres: TlsServer
) -> None:
    only = build_frame(0x52, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0")
    with (
        Fake(certificates, only) as fake,
        tls_proxy(tls_postgres, client=False, server_mode="require", upstream=fake.url) as proxy,
        Raw(proxy.url) as client,
    ):
        client.send(build_startup({"user": "app"}))
        assert "channel binding, which cannot pass a proxy" in errors(client.rest())[0][2]


def test_much_that_comes_at_once_with_the_end_of_the_login_arrives(
    certificates: Certificates, tls_postgres: TlsServer
) -> None:
    notice = build_frame(0x4E, b"SNOTICE\0C00000\0M" + b"x" * 1000 + b"\0\0")
    first, last = build_frame(0x52, b"\0\0\0\0"), build_frame(0x5A, b"I")
    for _ in range(10):
        with (
            Fake(certificates, first + 400 * notice + last, b"") as fake,
            tls_proxy(tls_postgres, client=False, server_mode="require", upstream=fake.url) as proxy,
            Raw(proxy.url) as client,
        ):
            assert len(client.start()) == 402
            client.terminate()


def test_a_client_in_plain_text_that_stops_sending_gets_its_answers_from_a_server_on_tls(
    tls_postgres: TlsServer,
) -> None:
    with tls_proxy(tls_postgres, client=False, server_mode="require") as proxy:
        url = trusted(proxy.url, tls_postgres)
        with Raw(url) as client:
            client.start()
            client.send(build_query("SELECT pg_sleep(0.1)"), build_query("SELECT 1"))
            client.half_close()
            assert codes(client.rest()) == "TDCZTDCZ"
        with Raw(url) as client:
            client.start()
            client.half_close()
            assert client.rest() == []


@pytest.mark.parametrize("goodbye", ["close", "Terminate"])
def test_a_write_that_waits_for_redis_is_done_although_a_client_on_tls_has_gone(
    tls_postgres: TlsServer, own_redis: RedisServer, goodbye: str
) -> None:
    cache = {
        "redis": own_redis.url,
        "redis_timeout_s": 0.2,
        "allow": [{"name": "all", "tables": ["left_behind"], "ttl": "60s"}],
    }
    with psycopg.connect(tls_postgres.role_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE left_behind (id int)")
        connection.execute("GRANT ALL ON left_behind TO PUBLIC")
        try:
            with tls_proxy(tls_postgres, client=True, server_mode="require", cache=cache) as proxy:
                with TlsRaw(trusted(proxy.url, tls_postgres)) as client:
                    client.start()
                    client.query("INSERT INTO left_behind VALUES (1)")
                    own_redis.pause()
                    client.send(build_query("INSERT INTO left_behind VALUES (2)"))
                    if goodbye == "Terminate":
                        client.terminate()
                question = "SELECT count(*) FROM left_behind WHERE id = 2"
                eventually(lambda: connection.execute(question).fetchone() == (1,))
                own_redis.resume()
                backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'trusted'"
                eventually(lambda: connection.execute(backends).fetchone() == (0,))
        finally:
            connection.execute("DROP TABLE left_behind")
