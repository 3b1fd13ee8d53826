"""What each sslmode lets through and what it refuses, on both sides, with sentences that say what to do."""

from __future__ import annotations

import logging
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from pgloupe.config import settings
from pgloupe.errors import SettingsError
from pgloupe.net.tls import TlsContexts
from pgloupe.wire.frontend import build_frame
from pgloupe.wire.startup import build_cancel_request, build_gssenc_request, build_ssl_request, build_startup
from support.proxy import Proxy, Serve, pgloupe, proxy_to
from support.raw import Raw, codes, errors, eventually
from support.servers import Postgres
from support.tls import (
    Certificates,
    Pair,
    TlsRaw,
    TlsServer,
    client_side,
    tls_proxy,
    unverified,
    with_parameters,
)


def encrypted(url: str, **parameters: str) -> tuple[bool, bool]:
    """Whether the client's side and the server's side of a session are encrypted."""
    with psycopg.connect(with_parameters(url, **parameters) if parameters else url) as connection:
        row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert row is not None
        return connection.pgconn.ssl_in_use, row[0]


def refusal(url: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url)
    return str(caught.value)


# --- to the server ---


@contextmanager
def upstream(server: TlsServer, host: str = "127.0.0.1", **parameters: Any) -> Iterator[Proxy]:
    """A proxy whose upstream's URL has these parameters."""
    url = server.role_url().replace("@127.0.0.1:", f"@{host}:")
    with proxy_to(with_parameters(url, **{name: str(value) for name, value in parameters.items()})) as proxy:
        yield proxy


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("where", ["url", "key"])
def test_each_mode_reaches_a_server_with_a_good_certificate(
    tls_postgres: TlsServer, certificates: Certificates, mode: str, where: str
) -> None:
    url = tls_postgres.role_url()
    values = {}
    if where == "url":
        url = with_parameters(url, sslmode=mode, sslrootcert=str(certificates.ca))
    else:
        values = {"server_tls_sslmode": mode, "server_tls_ca_file": str(certificates.ca)}
    with proxy_to(url, **values) as proxy:
        assert encrypted(proxy.url) == (False, mode != "disable")


def test_the_server_is_asked_for_tls_by_default(tls_postgres: TlsServer, postgres: Postgres) -> None:
    with upstream(tls_postgres) as proxy:
        assert encrypted(proxy.url) == (False, True)
    with proxy_to(postgres.url) as proxy:
        assert encrypted(proxy.url) == (False, False)


def test_a_server_without_tls_is_refused_where_tls_is_required(postgres: Postgres, certificates: Certificates) -> None:
    for mode in ("require", "verify-ca", "verify-full"):
        url = with_parameters(postgres.url, sslmode=mode, sslrootcert=str(certificates.ca))
        with proxy_to(url) as proxy, Raw(proxy.url) as client:
            client.send(build_startup({"user": "app"}))
            ((severity, sqlstate, text),) = errors(client.rest())
            assert (severity, sqlstate) == ("FATAL", "08006")
            assert f"does not support TLS, and sslmode={mode} wants it" in text
            assert "ssl = on" in text


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("expired", "verify-full", "its certificate has expired"),
        ("expired", "require", "its certificate has expired"),
        ("foreign", "verify-ca", "signed by an authority that is not in server_tls_ca_file or sslrootcert"),
        ("elsewhere", "verify-full", "is for another (host|address) .*127.0.0.1.*sslmode=verify-ca"),
        ("elsewhere", "verify-ca", ""),
        ("elsewhere", "require", ""),
        ("foreign", "prefer", ""),
    ],
)
def test_a_certificate_of_the_server_that_is_not_good_is_refused_by_the_modes_that_look_at_it(
    tls_postgres: TlsServer, certificates: Certificates, name: str, mode: str, words: str
) -> None:
    pair: Pair = getattr(certificates, name)
    tls_postgres.show(pair)
    try:
        with upstream(tls_postgres, sslmode=mode, sslrootcert=certificates.ca) as proxy:
            if not words:
                assert encrypted(proxy.url) == (False, True)
                return
            text = refusal(proxy.url)
            assert f"no encrypted connection to the server at 127.0.0.1:{tls_postgres.port} (sslmode={mode})" in text
            assert re.search(words, text)
    finally:
        tls_postgres.show(certificates.server)


def test_a_host_name_is_compared_with_the_certificate(tls_postgres: TlsServer, certificates: Certificates) -> None:
    with upstream(tls_postgres, "localhost", sslmode="verify-full", sslrootcert=certificates.ca) as proxy:
        assert encrypted(proxy.url) == (False, True)
    elsewhere = certificates.issue("by-name", "db.example")
    tls_postgres.show(elsewhere)
    try:
        with upstream(tls_postgres, "localhost", sslmode="verify-full", sslrootcert=certificates.ca) as proxy:
            assert "is for another host" in refusal(proxy.url)
    finally:
        tls_postgres.show(certificates.server)


def test_the_authorities_of_the_system_are_not_those_of_the_tests(tls_postgres: TlsServer) -> None:
    with upstream(tls_postgres, sslrootcert="system") as proxy:
        assert "sslmode=verify-full" in refusal(proxy.url)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_login_is_bound_to_the_certificate_of_either_kind(
    tls_postgres: TlsServer, certificates: Certificates, kind: str
) -> None:
    key_type = trustme.KeyType.RSA if kind == "rsa" else trustme.KeyType.ECDSA
    tls_postgres.show(certificates.issue(kind, "localhost", "127.0.0.1", key_type=key_type))
    try:
        with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
            assert encrypted(proxy.url) == (True, True)
    finally:
        tls_postgres.show(certificates.server)


@pytest.mark.parametrize("client", [False, True])
def test_cancel_requests_use_the_tls_of_sessions(tls_postgres: TlsServer, client: bool) -> None:
    with (
        tls_proxy(tls_postgres, client=client, server_mode="require") as proxy,
        psycopg.connect(proxy.url) as connection,
        psycopg.connect(tls_postgres.url, autocommit=True) as watching,
    ):
        assert connection.pgconn.ssl_in_use == client
        waiting = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"

        def cancel() -> None:
            eventually(lambda: watching.execute(waiting, (connection.info.backend_pid,)).fetchone() == ("PgSleep",))
            connection.cancel_safe(timeout=10)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        canceller.join()


class Fake:
    """A server that answers the request for TLS in its own way."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://nobody:secret@127.0.0.1:{self._socket.getsockname()[1]}/none"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with self._socket, self._socket.accept()[0] as client:
            client.recv(8)
            client.sendall(self._answer)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass

    def __enter__(self) -> Fake:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection when it was asked for TLS"),
        (b"E\0\0\0\x20SFATAL\0", "answered a request for TLS with an error"),
        (b"HTTP/1.1 400 Bad Request", "is no PostgreSQL server"),
        (b"Nand more", "unencrypted data before TLS began"),
        (b"S\x16\x03\x01", "unencrypted data before TLS began"),
        (b"S", "it closed the connection during the TLS handshake"),
    ],
)
def test_a_server_that_answers_the_request_for_tls_with_nonsense_is_given_up(answer: bytes, words: str) -> None:
    with Fake(answer) as fake, proxy_to(fake.url, server_tls_sslmode="require") as proxy, Raw(proxy.url) as client:
        client.send(build_startup({"user": "nobody"}))
        ((severity, sqlstate, text),) = errors(client.rest())
        assert (severity, sqlstate) == ("FATAL", "08006")
        assert words in text


def test_what_follows_the_answer_in_the_handshake_must_be_tls() -> None:
    with Fake(b"S") as fake:
        pass_on = with_parameters(fake.url, sslmode="require")
        with proxy_to(pass_on) as proxy:
            assert "during the TLS handshake" in refusal(proxy.url)


def test_prefer_goes_on_without_tls_where_the_handshake_fails(caplog: pytest.LogCaptureFixture) -> None:
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"postgresql://nobody@127.0.0.1:{listening.getsockname()[1]}/none"
        with proxy_to(url) as proxy, Raw(proxy.url) as client:
            startup = build_startup({"user": "nobody"})
            client.send(startup)
            first, _ = listening.accept()
            with first:
                heard.append(first.recv(8))
                first.sendall(b"S")
                first.recv(5)
                first.sendall(b"no TLS here")
                while first.recv(1000):
                    pass
            second, _ = listening.accept()
            with second:
                heard.append(second.recv(1000))
                second.sendall(build_frame(0x52, b"\0\0\0\0") + build_frame(0x5A, b"I"))
                assert codes(client.until("Z")) == "RZ"
    assert heard == [build_ssl_request(), startup]
    assert "connected without TLS, as sslmode=prefer allows" in caplog.text


def test_direct_tls_reaches_a_server_that_knows_it_and_says_so_of_one_that_does_not(tls_postgres: TlsServer) -> None:
    knows_it = int(tls_postgres.version.split(".")[0]) >= 17
    with upstream(tls_postgres, sslmode="require", sslnegotiation="direct") as proxy:
        if knows_it:
            assert encrypted(proxy.url) == (False, True)
        else:
            assert "it closed the connection during the TLS handshake" in refusal(proxy.url)


# --- from the clients ---


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
@pytest.mark.parametrize("wish", ["disable", "allow", "prefer", "require"])
def test_what_a_client_wishes_and_what_the_proxy_gives(tls_postgres: TlsServer, mode: str, wish: str) -> None:
    values = client_side(tls_postgres.certificates, mode)
    with proxy_to(tls_postgres.role_url(), **values) as proxy:
        url = with_parameters(proxy.url, sslmode=wish)
        if (mode, wish) == ("disable", "require"):
            assert "server does not support SSL" in refusal(url)
        elif (mode, wish) == ("require", "disable"):
            assert "this proxy accepts encrypted connections only" in refusal(url)
        else:
            got = mode == "require" or (mode != "disable" and wish in ("prefer", "require"))
            assert encrypted(url) == (got, True)


def test_a_client_verifies_the_proxy(tls_postgres: TlsServer, certificates: Certificates) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
        url = with_parameters(proxy.url, sslmode="verify-full")
        assert encrypted(url, sslrootcert=str(certificates.ca)) == (True, True)
        assert "certificate verify failed" in refusal(with_parameters(url, sslrootcert=str(certificates.other_ca)))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_client_has_to_show_a_certificate_of_the_authority(
    tls_postgres: TlsServer, certificates: Certificates, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = client_side(certificates, mode, client_tls_ca_file=str(certificates.ca))
    with caplog.at_level(logging.INFO, "pgloupe"), proxy_to(tls_postgres.role_url(), **values) as proxy:
        shown = {"sslcert": str(certificates.client.cert), "sslkey": str(certificates.client.key)}
        assert encrypted(proxy.url, sslmode="require", **shown) == (True, True)
        assert "connection requires a valid client certificate" in refusal(
            with_parameters(proxy.url, sslcert="/nowhere")
        )
        assert "encrypted connections only" in refusal(with_parameters(proxy.url, sslmode="disable"))
        foreign = {"sslcert": str(certificates.foreign.cert), "sslkey": str(certificates.foreign.key)}
        refusal(with_parameters(proxy.url, sslmode="require", **foreign))
        eventually(lambda: "its certificate is signed by an authority that is not in client_tls_ca_file" in caplog.text)


@pytest.mark.parametrize("parameters", [{}, {"sslnegotiation": "direct"}])
def test_libpq_gets_tls_by_a_request_and_directly(tls_postgres: TlsServer, parameters: dict[str, str]) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
        assert encrypted(proxy.url, sslmode="require", **parameters) == (True, True)


def test_direct_tls_without_the_name_of_the_protocol_is_closed(
    tls_postgres: TlsServer, caplog: pytest.LogCaptureFixture
) -> None:
    nameless = unverified()
    nameless.set_alpn_protocols(["http/1.1"])
    values = client_side(tls_postgres.certificates)
    with caplog.at_level(logging.INFO, "pgloupe"), proxy_to(tls_postgres.role_url(), **values) as proxy:
        with TlsRaw(proxy.url, direct=True, context=nameless) as client:
            assert client.rest() == []
        assert "did not name the protocol (ALPN postgresql)" in caplog.text
        with TlsRaw(proxy.url, context=nameless) as client:  # after a request it is clear what is spoken
            client.send(build_startup({"user": "app", "database": "app"}))
            assert codes([client.read() or b""]) == "R"


def test_a_hello_that_comes_in_single_bytes_is_understood(tls_postgres: TlsServer) -> None:
    values = client_side(tls_postgres.certificates)
    with proxy_to(tls_postgres.role_url(), **values) as proxy, Raw(proxy.url) as client:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = unverified().wrap_bio(incoming, outgoing, server_hostname="localhost")
        done = False
        while not done:
            try:
                session.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                client.send(bytes([byte]))
            if not done:
                incoming.write(client.receive())
        assert session.selected_alpn_protocol() == "postgresql"


def test_gssapi_is_refused_before_tls_and_not_asked_for_inside(tls_postgres: TlsServer) -> None:
    values = client_side(tls_postgres.certificates)
    with proxy_to(tls_postgres.role_url(), **values) as proxy:
        with Raw(proxy.url) as client:
            client.send(build_gssenc_request())
            assert client.receive() == b"N"
            client.send(build_ssl_request())
            assert client.receive() == b"S"
        for request in (build_ssl_request(), build_gssenc_request()):
            with TlsRaw(proxy.url) as client:
                client.send(request)
                assert client.rest() == []


def test_data_behind_a_request_for_tls_close_the_connection(
    tls_postgres: TlsServer, caplog: pytest.LogCaptureFixture
) -> None:
    values = client_side(tls_postgres.certificates)
    with caplog.at_level(logging.INFO, "pgloupe"), proxy_to(tls_postgres.role_url(), **values) as proxy:
        with Raw(proxy.url) as client:
            client.send(build_ssl_request() + build_startup({"user": "app"}))
            assert client.receive() == b""
        assert "unencrypted data after a request for encryption" in caplog.text


def test_a_cancel_request_needs_no_tls(tls_postgres: TlsServer) -> None:
    """As with the server: it holds nothing that others could use later."""
    values = client_side(tls_postgres.certificates)
    with proxy_to(tls_postgres.role_url(), **values) as proxy, Raw(proxy.url) as client:
        client.send(build_cancel_request(1, b"1234"))
        assert client.rest() == []


# --- hostile handshakes ---


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    session = unverified().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def test_handshakes_that_are_cut_or_nonsense_end_alone(
    tls_postgres: TlsServer, caplog: pytest.LogCaptureFixture
) -> None:
    whole = hello()
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy, psycopg.connect(proxy.url) as other:
        app = proxy.running._app
        for request in (b"", build_ssl_request()):
            for data in (
                *(whole[:end] for end in range(1, len(whole), 7)),
                b"\x16" + b"\xff" * 300,
                b"\x16\3\1\0\0" * 99,
            ):
                with Raw(proxy.url) as client:
                    if request:
                        client.send(request)
                        assert client.receive() == b"S"
                    client.send(data)
        with Raw(proxy.url) as client:
            client.send(build_ssl_request())
            assert client.receive() == b"S"
            client.send(build_startup({"user": "app"}))  # in plain text
            assert b"".join(iter(client.receive, b""))[:1] in (b"", b"\x15")
        with Raw(proxy.url) as client:
            client.send(whole)
            client.reset()
        assert other.execute("SELECT 1").fetchone() == (1,)
        eventually(lambda: len(app.listener.frontends) == 1 and not len(app.listener.tasks))


def test_a_handshake_that_never_ends_is_ended(tls_postgres: TlsServer) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require", auth_timeout_s=0.3) as proxy:
        app = proxy.running._app
        with Raw(proxy.url) as slow, Raw(proxy.url) as silent, TlsRaw(proxy.url) as done:
            silent.send(build_ssl_request())
            assert silent.receive() == b"S"
            slow.send(hello()[:50])
            for client in (slow, silent, done):
                assert client.receive() == b""
        eventually(lambda: not app.listener.frontends and not len(app.listener.tasks))


# --- settings, at the start and again ---


def test_new_certificates_are_for_new_connections(
    tls_postgres: TlsServer, certificates: Certificates, tmp_path: Path
) -> None:
    first, second = certificates.issue("first", "localhost"), certificates.issue("second", "localhost")
    cert, key = tmp_path / "now.crt", tmp_path / "now.key"

    def show(pair: Pair) -> None:
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())
        key.chmod(0o600)

    def shown(port: int) -> bytes | None:
        with TlsRaw(f"postgresql://app@127.0.0.1:{port}/app") as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            return client.socket.getpeercert(True)

    show(first)
    config = tmp_path / "pgloupe.toml"
    config.write_text(
        f"client_tls_sslmode = 'require'\nclient_tls_cert_file = '{cert}'\nclient_tls_key_file = '{key}'\n"
    )
    with Serve("--upstream", tls_postgres.role_url(), "--config", str(config)) as serve:
        assert "?sslmode=require" in serve.lines[0]
        url = with_parameters(
            tls_postgres.role_url().replace(f":{tls_postgres.port}/", f":{serve.port}/"), sslmode="require"
        )
        with psycopg.connect(url) as old:
            before = shown(serve.port)
            key.write_bytes(second.key.read_bytes())  # without its certificate
            serve.process.send_signal(signal.SIGHUP)
            eventually(lambda: "is not the key of the certificate" in serve.errors())
            assert shown(serve.port) == before
            show(second)
            serve.process.send_signal(signal.SIGHUP)
            eventually(lambda: shown(serve.port) != before)
            assert old.execute("SELECT 1").fetchone() == (1,)
        assert serve.stop() == 0
        assert "secret" not in serve.errors()


def write(path: Path, text: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_files_that_cannot_be_used_are_one_sentence_at_the_start(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pair = certificates.proxy
    good = {"client_tls_sslmode": "prefer", "client_tls_cert_file": pair.cert, "client_tls_key_file": pair.key}
    open_key = write(tmp_path / "open.key", pair.key.read_bytes(), 0o644)
    garbage = write(tmp_path / "garbage.pem", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"client_tls_sslmode": "require"}, "needs client_tls_key_file"),
        ({**good, "client_tls_cert_file": ""}, "needs client_tls_cert_file"),
        ({**good, "client_tls_sslmode": "verify-ca"}, "needs client_tls_ca_file"),
        ({**good, "client_tls_sslmode": "verify_ca"}, "is not one of disable, allow"),
        (
            {**good, "client_tls_key_file": "/nowhere/key"},
            "client_tls_key_file: cannot read /nowhere/key: no such file",
        ),
        (
            {**good, "client_tls_cert_file": "/nowhere/crt"},
            "client_tls_cert_file: cannot read /nowhere/crt: no such file",
        ),
        (
            {**good, "client_tls_key_file": open_key},
            f"client_tls_key_file: {open_key} can be read by others: chmod 600",
        ),
        ({**good, "client_tls_key_file": certificates.server.key}, "is not the key of the certificate in"),
        ({**good, "client_tls_key_file": certificates.encrypted_key()}, "is encrypted, and nobody is there"),
        ({**good, "client_tls_key_file": garbage}, "there is no private key in PEM"),
        ({**good, "client_tls_cert_file": garbage}, "cannot be used"),
        ({**good, "client_tls_cert_file": pair.key}, "there is no certificate in PEM"),
        (
            {**good, "client_tls_sslmode": "verify-ca", "client_tls_ca_file": garbage},
            f"client_tls_ca_file: {garbage} cannot be used",
        ),
        ({"server_tls_sslmode": "verify-full"}, "give server_tls_ca_file or sslrootcert"),
        ({"server_tls_sslmode": "require", "server_tls_ca_file": "/nowhere"}, "cannot read /nowhere: no such file"),
        ({"server_tls_sslmode": "require", "server_tls_cert_file": pair.cert}, "needs its key"),
    ]
    for values, words in cases:
        given = {key: str(value) for key, value in values.items()}
        with pytest.raises(SettingsError) as caught:
            TlsContexts(settings({"upstream": "postgres://u:secret@127.0.0.1:1/db", **given}).tls)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("parameter", ["client_tls_key_file", "client_tls_sslmode"])
def test_a_command_says_so_and_ends(certificates: Certificates, tmp_path: Path, parameter: str) -> None:
    values = client_side(certificates) | {parameter: "/nowhere"}
    (tmp_path / "pgloupe.toml").write_text("".join(f"{key} = '{value}'\n" for key, value in values.items()))
    done = pgloupe("serve", "--upstream", "postgres://u:secret@127.0.0.1:1/db", cwd=str(tmp_path))
    assert done.returncode == 2
    assert parameter in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
