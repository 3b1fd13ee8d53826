"""Settings: where each comes from, and what is said of a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe.config import OPTIONS, misspelt, settings
from pgloupe.errors import SettingsError

URL = "postgres://app@db/shop"


def wrong(values: dict[str, Any] | None = None, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(values or {}, origin="pgloupe.toml", **options)
    return str(caught.value)


def test_the_applications_own_url_comes_between_the_variable_and_the_file() -> None:
    environ = {"DATABASE_URL": "postgres://app@variable/shop"}
    values = {"upstream": "postgres://app@file/shop"}
    assert settings(values, environ=environ).upstream.host == "file"
    assert settings(values, environ=environ, application=True).upstream.host == "variable"
    assert settings(values, environ={"DATABASE_URL": ""}, application=True).upstream.host == "file"
    environ["PGLOUPE_UPSTREAM"] = "postgres://app@ours/shop"
    assert settings(values, environ=environ, application=True).upstream.host == "ours"


def test_parameters_of_a_driver_are_for_the_applications_own_url_alone() -> None:
    url = f"{URL}?schema=public&connection_limit=5"
    assert settings({}, environ={"DATABASE_URL": url}, application=True).upstream.host == "db"
    for source, options in (
        ("--upstream", {"flags": {"upstream": url}}),
        ("PGLOUPE_UPSTREAM", {"environ": {"PGLOUPE_UPSTREAM": url}}),
        ("pgloupe.toml: upstream", {"values": {"upstream": url}}),
        ("pgloupe.toml: catalog_url", {"values": {"upstream": URL, "catalog_url": url}}),
        ("pgloupe.toml: cache.catalog_url", {"values": {"upstream": URL, "cache": {"catalog_url": url}}}),
    ):
        assert wrong(**options).startswith(f"{source}: unknown parameter 'schema' in the URL; ")


def test_a_contradiction_names_all_that_had_a_say() -> None:
    direct = f"{URL}?sslmode=prefer&sslnegotiation=direct"
    assert wrong(flags={"upstream": direct}).startswith("--upstream: sslnegotiation=direct")
    assert wrong({"upstream": direct}).startswith("pgloupe.toml: upstream: sslnegotiation=direct")
    disable = {"server_tls_sslmode": "disable"}
    both = "server_tls_sslmode is 'disable', but the upstream's URL says sslmode=require"
    strict = f"{URL}?sslmode=require"
    assert wrong(disable, flags={"upstream": strict}).startswith(f"--upstream and pgloupe.toml: {both}")
    assert wrong({**disable, "upstream": strict}).startswith(f"pgloupe.toml: upstream and pgloupe.toml: {both}")
    environ = {"PGLOUPE_UPSTREAM": strict, "PGLOUPE_SERVER_TLS_SSLMODE": "disable"}
    assert wrong(environ=environ).startswith(f"PGLOUPE_UPSTREAM and PGLOUPE_SERVER_TLS_SSLMODE: {both}")
    assert wrong({"upstream": URL}, environ={"PGLOUPE_CATALOG_URL": direct}).startswith("PGLOUPE_CATALOG_URL: ssl")
    assert wrong({"upstream": URL, "client_tls_sslmode": "require"}).startswith("pgloupe.toml: client_tls_sslmode = ")


@pytest.mark.parametrize("url", ["redis://:pw@h:port/0", "redis://[::1/0", "redis://h:70000/0", "redis://h:6379:1/0"])
def test_a_redis_url_without_a_valid_port_is_one_of_our_sentences(url: str) -> None:
    text = wrong(flags={"upstream": URL, "cache.redis": url})
    assert text.startswith("--redis: 'redis://")
    assert text.endswith(" has no valid host and port: write redis://host:6379/0")
    assert "pw" not in text


@pytest.mark.parametrize(
    ("variable", "known"),
    [
        ("PGLOUPE_SLOW_MSS", "PGLOUPE_SLOW_MS"),
        ("PGLOUPE_slow_ms", "PGLOUPE_SLOW_MS"),
        ("PGLOUPE_UPSTREM", "PGLOUPE_UPSTREAM"),
        ("PGLOUPE_REDIS", "PGLOUPE_CACHE_REDIS"),
        ("PGLOUPE_THRESHOLD", "PGLOUPE_N_PLUS_ONE_THRESHOLD"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_found(variable: str, known: str) -> None:
    assert misspelt([variable]) == [(variable, known)]


def test_variables_that_mean_something_else_are_left_alone() -> None:
    platform = [
        "PORT",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "PORT_6432_TCP",
        "PORT_6432_TCP_ADDR",
        "NAME",
        "",
        "TEST_SLOW_MSS",
    ]
    settings_of_ours = [option.variable for option in OPTIONS]
    assert misspelt([*(f"PGLOUPE_{name}" for name in platform), "SLOW_MSS", *settings_of_ours]) == []
