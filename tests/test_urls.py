"""Connection URLs: read as libpq reads them, rewritten without contradicting themselves."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from pgloupe.urls import Address, check_parameters, parse_upstream, rewrite

HERE = Address("127.0.0.1", 6432)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:secret@db:5433/shop",
        "postgresql://app:secret@db:5433/shop?host=other&port=5434",
        "postgresql://app:secret@db/shop?host=/run/postgresql",
        "postgresql://app:secret@db/shop?user=other&password=another&dbname=crm",
        "postgresql://db/shop?user=other",
    ],
)
def test_a_parameter_wins_over_what_stands_before_it_as_in_libpq(url: str) -> None:
    theirs, ours = conninfo_to_dict(url), parse_upstream(url)
    assert (ours.host, ours.user, ours.database) == (theirs["host"], theirs["user"], theirs["dbname"])
    assert (ours.port, ours.password) == (int(theirs.get("port", 5432)), theirs.get("password"))


@pytest.mark.parametrize("name", ["sslmod", "SSLMODE", "sslMode", "ssl_mode", "sslrootcrt"])
def test_a_misspelt_parameter_about_encryption_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown parameter '{name}' in the URL; did you mean 'ssl"):
        parse_upstream(f"postgresql://app@db/shop?{name}=require")


def test_a_rewritten_url_is_that_of_the_upstream_in_its_parameters_too() -> None:
    upstream = parse_upstream("postgresql://app:secret@db/shop")
    found = conninfo_to_dict(
        rewrite("postgresql:///x?user=me&password=mine&dbname=y&connect_timeout=3", HERE, upstream)
    )
    assert (found["user"], found["password"], found["dbname"]) == ("app", "secret", "shop")
    assert (found["host"], found["port"], found["connect_timeout"]) == ("127.0.0.1", "6432", "3")


def test_a_rewritten_url_keeps_a_password_that_the_upstream_does_not_name() -> None:
    url = "postgresql://app@db/shop?password=mine"
    assert conninfo_to_dict(rewrite(url, HERE, parse_upstream("postgresql://app@db/shop")))["password"] == "mine"


def test_each_parameter_that_libpq_knows_is_accepted() -> None:
    for option in pq.Conninfo.get_defaults():
        check_parameters(f"postgresql://db/shop?{option.keyword.decode()}=x")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("applicaton_name", "did you mean 'application_name'?"),
        ("connect_timout", "did you mean 'connect_timeout'?"),
        ("Application_Name", "did you mean 'application_name'?"),
        ("zzz", "libpq does not know it either, so take it out"),
    ],
)
def test_a_parameter_that_libpq_refuses_is_refused_with_the_nearest(name: str, hint: str) -> None:
    for value in ("x", ""):
        with pytest.raises(psycopg.ProgrammingError, match="invalid URI query parameter"):
            conninfo_to_dict(f"postgresql://db/shop?{name}={value}")
        with pytest.raises(ValueError, match=re.escape(f"unknown parameter {name!r} in the URL; {hint}")):
            check_parameters(f"postgresql://db/shop?{name}={value}")
