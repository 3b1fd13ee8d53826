"""What keys and URLs say of TLS, and what becomes of both together."""

from __future__ import annotations

import pytest

from pgloupe.check import environment
from pgloupe.config import Settings, settings
from pgloupe.errors import SettingsError
from pgloupe.sslmode import ServerTls
from pgloupe.urls import Address, parse_upstream, proxy_url, rewrite

URL = "postgresql://app:secret@db.example:5432/shop"
HERE = Address("127.0.0.1", 6432)


def made(query: str = "", **keys: object) -> Settings:
    return settings({"upstream": URL + ("?" + query if query else ""), **keys})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ServerTls("prefer")),
        ("sslmode=disable", ServerTls("disable")),
        ("sslmode=verify-ca&sslrootcert=/ca", ServerTls("verify-ca", "/ca")),
        ("sslrootcert=system", ServerTls("verify-full", "system")),
        ("sslmode=require&sslcert=/c&sslkey=/k", ServerTls("require", "", "/c", "/k")),
        ("sslmode=require&sslnegotiation=direct", ServerTls("require", direct=True)),
        ("sslmode=require&sslnegotiation=postgres", ServerTls("require")),
        ("ssl=true", ServerTls("require")),
        ("ssl=require", ServerTls("require")),
        ("requiressl=1", ServerTls("require")),
        ("sslmode=no-verify", ServerTls("require")),
        ("sslmode=require&channel_binding=require", ServerTls("require")),
    ],
)
def test_the_url_says_how_the_server_is_reached(query: str, expected: ServerTls) -> None:
    assert made(query).tls.server == expected


def test_keys_say_it_too_and_may_repeat_the_url() -> None:
    assert made(server_tls_sslmode="verify-ca", server_tls_ca_file="/ca").tls.server == ServerTls("verify-ca", "/ca")
    assert made("sslmode=require", server_tls_sslmode="require").tls.server == ServerTls("require")
    assert made("sslmode=verify-ca", server_tls_ca_file="/ca").tls.server == ServerTls("verify-ca", "/ca")


def test_a_unix_domain_socket_is_never_encrypted() -> None:
    upstream = "postgresql:///shop?host=/run/postgresql&sslmode=verify-full"
    assert settings({"upstream": upstream}).tls.server == ServerTls("disable")


@pytest.mark.parametrize(
    ("query", "keys", "words"),
    [
        (
            "sslmode=require",
            {"server_tls_sslmode": "disable"},
            "server_tls_sslmode is 'disable', but the upstream's URL says",
        ),
        ("sslrootcert=/a", {"server_tls_ca_file": "/b"}, "sslrootcert=/a: say it in one place"),
        ("sslmode=strict", {}, "sslmode=strict is none of"),
        ("sslmode=require&sslrootcert=system", {}, "only sslmode=verify-full is of use"),
        ("sslnegotiation=direct", {}, "it needs sslmode=require"),
        ("sslnegotiation=now", {}, "neither postgres nor direct"),
        ("sslmode=require&sslcert=/c", {}, "needs its key"),
        ("sslmode=require&sslcrl=/c", {}, "sslcrl is not supported"),
        ("", {"server_tls_sslmode": "strict"}, "'strict' is not one of"),
        ("", {"client_tls_sslmode": "require"}, "needs client_tls_key_file"),
        ("", {"client_tls_key_file": 5}, "is not a text"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_without_the_password(
    query: str, keys: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        made(query, **keys)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_catalogs_are_read_as_their_own_url_says() -> None:
    assert made("sslmode=require").tls.catalog == ServerTls("require")
    cache = {"catalog_url": URL + "?sslmode=disable"}
    assert made("sslmode=require", cache=cache).tls.catalog == ServerTls("disable")
    cache = {"catalog_url": URL}
    assert made(server_tls_sslmode="require", cache=cache).tls.catalog == ServerTls("require")


def test_connections_of_our_own_get_the_url_without_its_parameters() -> None:
    url = URL + "?sslmode=verify-full&application_name=x&sslrootcert=%2Fca&channel_binding=require&sslcompression=1"
    assert parse_upstream(url).plain_url == URL
    socket = "postgresql://app@/shop?host=/run/postgresql&port=5433&connect_timeout=10"
    assert parse_upstream(socket).plain_url == "postgresql://app@/shop?host=%2Frun%2Fpostgresql&port=5433"
    assert parse_upstream("postgres://a%40b:p%2Fw@[::1]/x%20y").plain_url == "postgresql://a%40b:p%2Fw@[::1]:5432/x%20y"
    assert rewrite(url, HERE) == "postgresql://app:secret@127.0.0.1:6432/shop?application_name=x"
    assert parse_upstream(URL + "?sslmode=require").plain_url == URL


def test_the_url_of_a_proxy_that_requires_tls_says_so() -> None:
    upstream = parse_upstream(URL)
    assert (
        proxy_url(upstream, HERE, password=False, encrypted=True)
        == "postgres://app@127.0.0.1:6432/shop?sslmode=require"
    )
    assert proxy_url(upstream, HERE, password=False) == "postgres://app@127.0.0.1:6432/shop"


def test_a_checked_command_does_not_hear_of_the_servers_tls() -> None:
    url = URL + "?sslmode=verify-full&sslrootcert=/ca"
    environ = {
        "DATABASE_URL": url,
        "OTHER": "stays",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/ca",
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGSSLNEGOTIATION": "direct",
        "PGGSSENCMODE": "require",
    }
    assert environment(environ, parse_upstream(url), HERE, ()) == {
        "DATABASE_URL": "postgresql://app:secret@127.0.0.1:6432/shop",
        "OTHER": "stays",
        "PGHOST": "127.0.0.1",
        "PGPORT": "6432",
        "PGUSER": "app",
        "PGPASSWORD": "secret",
        "PGDATABASE": "shop",
        "PGSSLMODE": "disable",
    }
