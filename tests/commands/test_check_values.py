"""`pgloupe check --show-values`: the queries to write instead, with the values that the command sent, run in psql as pasted."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from xml.etree import ElementTree as ET

import psycopg
import pytest

from pgloupe.report.render import FORMATS, render
from support.proxy import pgloupe
from support.psql import paste
from support.servers import Postgres

PROGRAM = str(Path(__file__).parents[1] / "programs" / "typed_loops.py")
WORDS = [
    "it's",
    'say "so"',
    "a,b",
    "{c}",
    "\\",
    "\\x41",
    "NULL",
    "",
    "größe",
    "line\nbreak",
    "d41d8cd98f00b204e9800998ecf8427e",
]

BORN = datetime(2024, 1, 1, 10, tzinfo=timezone(timedelta(hours=5)))


@pytest.fixture(scope="module")
def items(postgres: Postgres) -> str:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE item (id int, code uuid, word text, price numeric, born timestamptz, day date, name varchar(40), "
            "hash bytea, number bigint, digits text, ratio double precision, kind text, rank int)"
        )
        for n, word in enumerate(WORDS):
            digest = hashlib.sha256(word.encode()).digest()
            row = [n, UUID(bytes=digest[:16]), word, Decimal(n) * 11 / 10, BORN + n * timedelta(minutes=1001)]
            row += [BORN.date() + timedelta(days=n), word, digest, n * 10**12, f"{n * 11}.50", n / 3.0, "x", n]
            connection.execute(f"INSERT INTO item VALUES ({', '.join(['%s'] * len(row))})", row)
    return url


class Checked(NamedTuple):
    got: dict[str, list[int]]
    """What the loop over each column got."""
    report: dict[str, Any]


def check(url: str, driver: str, *arguments: str) -> Checked:
    """The program under `pgloupe check`, and the report as JSON."""
    arguments = ("check", "--upstream", url, "--format", "json", "--output", "-", "--fail-on", "none", *arguments)
    done = pgloupe(*arguments, "--", sys.executable, PROGRAM, driver)
    assert done.returncode == 0, done.stderr
    loops, brace, rest = done.stdout.partition("\n{")
    return Checked(dict(json.loads(line) for line in loops.splitlines()), json.loads(brace + rest))


@pytest.fixture(scope="module")
def shown(items: str) -> Checked:
    return check(items, "psycopg2", "--show-values")


@pytest.fixture(scope="module")
def hidden(items: str) -> Checked:
    return check(items, "asyncpg")


def rendered(report: dict[str, Any], form: str) -> str:
    stream = io.StringIO()
    render(report, form, stream)
    return stream.getvalue()


def paste_all(postgres: Postgres, url: str, checked: Checked) -> None:
    findings = checked.report["findings"]
    assert {finding["child"]["column"] for finding in findings} == set(checked.got)
    for finding in findings:
        rows = paste(postgres, url, finding["advice"]["example"])
        assert sorted(int(row[-1]) for row in rows) == checked.got[finding["child"]["column"]]
        assert len(rows) == len(WORDS)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_each_loop_of_a_driver_with_parameters_has_an_example_that_gives_its_rows(
    postgres: Postgres, items: str, driver: str
) -> None:
    paste_all(postgres, items, check(items, driver, "--show-values"))


def test_each_loop_of_a_driver_with_literals_has_an_example_that_gives_its_rows(
    postgres: Postgres, items: str, shown: Checked
) -> None:
    paste_all(postgres, items, shown)


@pytest.mark.parametrize("form", FORMATS)
def test_without_the_flag_no_format_holds_a_value_and_the_text_says_how_to_get_it(hidden: Checked, form: str) -> None:
    report = rendered(hidden.report, form)
    assert "item" in report
    for value in ("it's", "2024-01", "psql:", '"example"', '"values"', "3000000000000"):
        assert value not in report
    hint = "--show-values adds each query with its values, to paste into psql."
    assert report.splitlines().count(hint) == (form == "text")


@pytest.mark.parametrize("form", ["text", "markdown", "sarif", "junit"])
def test_each_format_for_people_has_the_query_in_one_line_to_paste(
    postgres: Postgres, items: str, shown: Checked, form: str
) -> None:
    report = rendered({**shown.report, "check": None}, form)  # as one whose findings fail
    assert "to paste into psql" not in report
    if form == "sarif":
        report = "\n".join(result["message"]["text"] for result in json.loads(report)["runs"][0]["results"])
    elif form == "junit":
        report = "\n".join(found.text or "" for found in ET.fromstring(report).iter("failure"))
    (line,) = [line for line in report.splitlines() if "number = ANY('{0,1000000000000,2000000000000," in line]
    rows = paste(postgres, items, line[line.index("SELECT") :])
    assert [row[1] for row in rows] == [str(n) for n in range(len(WORDS))]
