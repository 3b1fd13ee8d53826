"""Logging in with TLS on neither, one or both sides: every method works, and errors are those of the server."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import hmac
import logging
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgloupe.wire.frontend import build_frame, build_query
from pgloupe.wire.startup import build_startup
from support.proxy import Proxy
from support.raw import Raw, codes, errors, eventually
from support.servers import PASSWORDS, ROLES
from support.tls import CERTIFIED, Certificates, TlsRaw, TlsServer, tls_proxy, unverified, with_parameters

Found = TypeVar("Found")

SIDES = {
    "neither": (False, "disable"),
    "client": (True, "disable"),
    "server": (False, "require"),
    "both": (True, "require"),
}


@pytest.fixture(scope="module")
def proxies(tls_postgres: TlsServer) -> Iterator[dict[str, Proxy]]:
    """By the sides that have TLS."""
    with ExitStack() as stack:
        made = {}
        for name, (client, mode) in SIDES.items():
            made[name] = stack.enter_context(tls_proxy(tls_postgres, client=client, server_mode=mode))
        yield made


@pytest.fixture(scope="module")
def both(proxies: dict[str, Proxy]) -> Proxy:
    return proxies["both"]


def url_of(proxy: Proxy, server: TlsServer, role: str, password: str | None = None) -> str:
    return proxy.url_for(server.url_for(role, PASSWORDS.get(role, "") if password is None else password, "app"))


def by_psycopg(url: str) -> tuple[str, bool]:
    with psycopg.connect(url) as connection:
        return connection.info.user, connection.pgconn.ssl_in_use


def by_psycopg2(url: str) -> tuple[str, bool]:
    connection = psycopg2.connect(url)
    found = connection.info.user, connection.info.ssl_in_use
    connection.close()
    return found


def run(work: Coroutine[Any, Any, Found]) -> Found:
    """`asyncio.run`. A client that is refused inside of TLS leaves its transport to the end of the loop, which is before the
    end of TLS, and the interpreter complains of it whenever it likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = asyncio.run(work)
        gc.collect()
    return found


def by_asyncpg(url: str) -> tuple[str, bool]:
    async def work() -> tuple[str, bool]:
        connection = await asyncpg.connect(url)
        user = await connection.fetchval("SELECT session_user::text")
        encrypted = connection._transport.get_extra_info("ssl_object") is not None
        await connection.close()
        return user, encrypted

    return run(work())


def by_pg8000(url: str) -> tuple[str, bool]:
    found = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    context = unverified() if found.get("sslmode") == "require" else None
    connection = pg8000.native.Connection(
        found["user"],
        password=found["password"],
        host=found["host"],
        port=int(found["port"]),
        database=found["dbname"],
        ssl_context=context,
    )
    user = connection.run("SELECT session_user::text")[0][0]
    connection.close()
    return user, context is not None


DRIVERS: list[Callable[[str], tuple[str, bool]]] = [by_psycopg, by_psycopg2, by_asyncpg, by_pg8000]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("role", ROLES)
def test_each_method_lets_its_role_in(
    tls_postgres: TlsServer, proxies: dict[str, Proxy], role: str, sides: str, driver: Callable[[str], tuple[str, bool]]
) -> None:
    client = SIDES[sides][0]
    url = with_parameters(url_of(proxies[sides], tls_postgres, role), sslmode="require" if client else "disable")
    assert driver(url) == (role, client)


@pytest.mark.parametrize("sides", SIDES)
def test_the_server_sees_the_encryption_that_was_asked_for(
    tls_postgres: TlsServer, proxies: dict[str, Proxy], sides: str
) -> None:
    with psycopg.connect(url_of(proxies[sides], tls_postgres, "app")) as connection:
        seen = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert seen == (SIDES[sides][1] == "require",)
        assert connection.pgconn.ssl_in_use == SIDES[sides][0]
        assert connection.pgconn.used_password


def refusal(url: str) -> str | None:
    async def work() -> str | None:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await asyncpg.connect(url)
        return f"{caught.value.sqlstate} {caught.value}"

    return run(work())


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("role", ["app", "md5user", "plain", "nobody_knows_me"])
def test_a_wrong_password_gets_the_error_of_the_server(
    tls_postgres: TlsServer,
    proxies: dict[str, Proxy],
    sides: str,
    role: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    direct = refusal(tls_postgres.url_for(role, "a wrong secret", "app"))
    assert direct is not None
    assert direct == f'28P01 password authentication failed for user "{role}"'
    assert refusal(url_of(proxies[sides], tls_postgres, role, "a wrong secret")) == direct
    assert "a wrong secret" not in caplog.text


def test_an_unknown_database_gets_the_error_of_the_server(tls_postgres: TlsServer, both: Proxy) -> None:
    url = both.url_for(tls_postgres.url_for("app", PASSWORDS["app"], "nowhere"))
    assert refusal(url) == '3D000 database "nowhere" does not exist'


@pytest.mark.parametrize("binding", ["prefer", "disable"])
@pytest.mark.parametrize("sides", SIDES)
def test_channel_binding_that_is_not_required_does_no_harm(
    tls_postgres: TlsServer, proxies: dict[str, Proxy], sides: str, binding: str
) -> None:
    url = with_parameters(url_of(proxies[sides], tls_postgres, "app"), channel_binding=binding)
    assert by_psycopg(url)[0] == "app"


@pytest.mark.parametrize("parameters", [{"channel_binding": "require"}, {"require_auth": "scram-sha-256"}])
def test_a_client_that_requires_channel_binding_finds_in_the_log_what_to_do(
    tls_postgres: TlsServer, both: Proxy, caplog: pytest.LogCaptureFixture, parameters: dict[str, str]
) -> None:
    with caplog.at_level(logging.INFO, "pgloupe"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(with_parameters(url_of(both, tls_postgres, "app"), **parameters))
        eventually(lambda: "left when it was asked for its password" in caplog.text)
    assert "channel_binding=require" in caplog.text
    assert "channel_binding=prefer" in caplog.text


def test_a_role_with_a_certificate_gets_in_by_that_of_the_proxy(
    tls_postgres: TlsServer, certificates: Certificates
) -> None:
    pair = certificates.client
    shown = {"server_tls_cert_file": str(pair.cert), "server_tls_key_file": str(pair.key)}
    for client in (False, True):
        with tls_proxy(tls_postgres, client=client, server_mode="require", **shown) as proxy:
            assert by_psycopg(url_of(proxy, tls_postgres, CERTIFIED)) == (CERTIFIED, client)
    with (
        tls_proxy(tls_postgres, client=True, server_mode="require") as proxy,
        pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"),
    ):
        by_psycopg(url_of(proxy, tls_postgres, CERTIFIED))


# --- what the client may send when it is asked for its password ---


def verifier(password: bytes, iterations: int) -> str:
    """As PostgreSQL stores it."""
    salt = b"sixteen bytes ok"
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def asked(client: Raw) -> None:
    """Start up until the password is asked for."""
    client.send(build_startup({"user": client.user, "database": "app"}))
    assert client.read() == b"R\0\0\0\x08\0\0\0\3"


def password_message(password: bytes) -> bytes:
    return build_frame(0x70, password + b"\0")


@pytest.mark.parametrize("iterations", [1, 4096, 20_000])
@pytest.mark.parametrize(
    "password", [b"caf\xe9 \xff\xfe", "\uff46\uff55\uff4c\uff4c\u00a0\u00adwidth".encode(), b"\xd8\xa7 latin"]
)
def test_passwords_of_any_bytes_and_any_number_of_iterations_work(
    tls_postgres: TlsServer, both: Proxy, password: bytes, iterations: int
) -> None:
    hashed = b"full width" if b"width" in password else password  # SASLprep where it can be
    with psycopg.connect(tls_postgres.url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS odd")
        connection.execute(f"CREATE ROLE odd LOGIN PASSWORD '{verifier(hashed, iterations)}'")
    with TlsRaw(url_of(both, tls_postgres, "odd")) as client:
        asked(client)
        client.send(password_message(password))
        assert codes(client.until("Z"))[-2:] == "KZ"
    with TlsRaw(url_of(both, tls_postgres, "odd")) as client:
        asked(client)
        client.send(password_message(password + b"."))
        assert [error[:2] for error in errors(client.rest())] == [("FATAL", "28P01")]


@pytest.mark.parametrize(
    "password",
    [
        "plain",
        "it's \u00a7 5",
        "\uff46\uff55\uff4c\uff4c width",
        "non\u00a0breaking",
        "soft\u00adhyphen",
        "\u200bzero",
        "\u2163 IV",
        "\u0627\u0628",
        "\u0627bidi",
        "\u0378new",
        "e\u0301",
        "\ue000",
    ],
)
def test_a_password_that_the_server_hashed_is_prepared_as_there(
    tls_postgres: TlsServer, both: Proxy, password: str
) -> None:
    with psycopg.connect(tls_postgres.url, autocommit=True, client_encoding="utf8") as connection:
        connection.execute("DROP ROLE IF EXISTS prepared")
        connection.execute(sql.SQL("CREATE ROLE prepared LOGIN PASSWORD {}").format(password))
    with TlsRaw(url_of(both, tls_postgres, "prepared")) as client:
        asked(client)
        client.send(password_message(password.encode()))
        assert codes(client.until("Z"))[-2:] == "KZ"


@pytest.mark.parametrize(
    ("message", "sqlstate", "words"),
    [
        (build_query("SELECT 1"), "08P01", "expected password response"),
        (password_message(b"a\0b"), "08P01", "invalid password packet size"),
        (build_frame(0x70, b"unterminated"), "08P01", "invalid password packet size"),
        (build_frame(0x70), "08P01", "invalid password packet size"),
        (password_message(b""), "28P01", "empty password returned by client"),
        (b"p\0\1\0\4" + b"x" * 100, "08P01", "during authentication"),
        (b"p\xff\xff\xff\xff", "08P01", "during authentication"),
        (b"p\0\0\0\3", "08P01", "during authentication"),
    ],
)
def test_an_answer_that_is_no_password_is_refused(
    tls_postgres: TlsServer, both: Proxy, message: bytes, sqlstate: str, words: str
) -> None:
    with TlsRaw(url_of(both, tls_postgres, "app")) as client:
        asked(client)
        client.send(message)
        ((severity, code, text),) = errors(client.rest())
        assert (severity, code) == ("FATAL", sqlstate)
        assert words in text


def test_a_password_of_the_longest_message_arrives(tls_postgres: TlsServer, both: Proxy) -> None:
    with TlsRaw(url_of(both, tls_postgres, "app")) as client:
        asked(client)
        client.send(password_message(b"x" * 65_534))
        assert [error[:2] for error in errors(client.rest())] == [("FATAL", "28P01")]


def test_what_a_client_sends_ahead_of_its_password_is_not_lost(tls_postgres: TlsServer, both: Proxy) -> None:
    with TlsRaw(url_of(both, tls_postgres, "app")) as client:
        startup = build_startup({"user": client.user, "database": "app"})
        client.send(startup, password_message(PASSWORDS["app"].encode()), build_query("SELECT 1"))
        assert codes(client.until("Z", 2))[-5:] == "ZTDCZ"


def test_a_client_that_does_not_answer_is_told_that_it_is_late(tls_postgres: TlsServer) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require", auth_timeout_s=0.3) as proxy:
        with TlsRaw(url_of(proxy, tls_postgres, "app")) as client:
            asked(client)
            assert [error[:2] for error in errors(client.rest())] == [("FATAL", "57014")]
        with psycopg.connect(tls_postgres.url) as connection:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'"
            eventually(lambda: connection.execute(waiting).fetchone() == (0,))


def test_a_client_that_leaves_when_it_is_asked_leaves_nothing_behind(tls_postgres: TlsServer) -> None:
    with tls_proxy(tls_postgres, client=True, server_mode="require") as proxy:
        for ending in ("close", "reset", "terminate"):
            with TlsRaw(url_of(proxy, tls_postgres, "app")) as client:
                asked(client)
                getattr(client, ending, client.socket.close)()
        app = proxy.running._app
        eventually(lambda: not app.listener.frontends and not len(app.listener.tasks))


def test_a_newer_protocol_is_negotiated_once(tls_postgres: TlsServer, proxies: dict[str, Proxy]) -> None:
    for sides in ("server", "both"):
        url = url_of(proxies[sides], tls_postgres, "app")
        with TlsRaw(url) if SIDES[sides][0] else Raw(url) as client:
            parameters = {"user": client.user, "database": "app", "_pq_.nobody_knows": "1"}
            client.send(build_startup(parameters, 3 << 16 | 9999))
            first, second = client.read(), client.read()
            assert first is not None
            assert second is not None
            assert first[:1] == b"v"
            assert b"_pq_.nobody_knows" in first
            assert second[:1] == b"R"
            if SIDES[sides][0]:
                client.send(password_message(PASSWORDS["app"].encode()))
                assert codes(client.until("Z")).count("v") == 0
            else:
                assert second[5:].count(b"SCRAM-SHA-256") == 1
