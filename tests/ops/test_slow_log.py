"""A slow statement is one line of JSON that says where the time went, and no statement makes the log fail."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.ops.slow_log import KEPT, SlowLog
from pgloupe_rules.types import Outcome, Recognised, SessionInfo, Statement, Status, Template

NOW = datetime(2024, 2, 29, 14, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=2)))
SECRET = "alice@example.org"


def outcome(
    server_s: float = 0.25,
    *,
    proxy_s: float = 0.0005,
    template: str = "SELECT 1 WHERE a = $1",
    tags: dict[str, str] | None = None,
    values: tuple[Any, ...] = (SECRET,),
    status: Status = Status.COMPLETE,
    sqlstate: str = "",
    transaction: int = 0,
    position: int = 0,
    cache: str = "",
) -> Outcome:
    session = SessionInfo(7, "shop", "app", "web", "127.0.0.1:5000")
    statement = Statement(
        session,
        1,
        Recognised(Template("a" * 16, template, 1), (), "SELECT", tags or {}),
        f"SELECT 1 WHERE a = '{SECRET}'",
        decode=lambda statement: values,
        transaction=transaction,
        position=position,
    )
    return Outcome(
        statement,
        status,
        rows=3,
        size_bytes=120,
        server_s=server_s,
        proxy_s=proxy_s,
        sqlstate=sqlstate,
        cache=cache,
    )


def log(threshold_ms: float = 100, *, parameters: bool = False) -> tuple[SlowLog, list[str]]:
    lines: list[str] = []
    return SlowLog(threshold_ms, lines.append, parameters=parameters, clock=lambda: NOW), lines


def logged(found: Outcome, *, parameters: bool = False) -> dict[str, Any]:
    slow, lines = log(parameters=parameters)
    slow.observe(found)
    (line,) = lines
    record: dict[str, Any] = json.loads(line)
    assert slow.recent[-1] == record
    return record


def test_a_line_says_when_who_what_and_where_the_time_went() -> None:
    found = outcome(tags={"route": "/posts"}, transaction=4, position=2, cache="miss")
    assert logged(found) == {
        "time": "2024-02-29T12:30:00.123Z",
        "duration_ms": 250.5,
        "server_ms": 250.0,
        "proxy_ms": 0.5,
        "rows": 3,
        "bytes": 120,
        "database": "shop",
        "user": "app",
        "application_name": "web",
        "client": "127.0.0.1:5000",
        "session": 7,
        "transaction": 4,
        "position": 2,
        "status": "complete",
        "fingerprint": "a" * 16,
        "template": "SELECT 1 WHERE a = $1",
        "tags": {"route": "/posts"},
        "cache": "miss",
    }


def test_outside_of_a_transaction_block_and_of_the_cache_there_are_nulls() -> None:
    record = logged(outcome())
    assert (record["transaction"], record["position"], record["cache"]) == (None, None, None)


def test_an_error_has_its_sqlstate() -> None:
    record = logged(outcome(status=Status.ERROR, sqlstate="57014"))
    assert (record["status"], record["sqlstate"]) == ("error", "57014")


@pytest.mark.parametrize(
    ("threshold_ms", "server_s", "proxy_s", "count"),
    [
        (100, 0.0999, 0.0, 0),
        (100, 0.1, 0.0, 1),
        (100, 0.06, 0.06, 1),
        (0, 0.0, 0.0, 1),
        (-1, 1e9, 0.0, 0),
    ],
)
def test_the_threshold_is_that_of_log_min_duration_statement(
    threshold_ms: float, server_s: float, proxy_s: float, count: int
) -> None:
    slow, lines = log(threshold_ms)
    slow.observe(outcome(server_s, proxy_s=proxy_s))
    assert len(lines) == slow.lines == count


def test_a_statement_that_the_server_skipped_is_not_logged() -> None:
    slow, lines = log(0)
    slow.observe(outcome(status=Status.SKIPPED))
    assert lines == []


def test_no_value_is_logged_unless_asked_for() -> None:
    assert SECRET not in json.dumps(logged(outcome()))
    assert logged(outcome(), parameters=True)["parameters"] == [SECRET]


def test_parameters_are_text_and_bounded() -> None:
    values = (None, 42, "x" * 1000, b"\x00\xff", b"x" * 10**6, (1, None, (2, "b")), tuple(range(10**5)), Decimal("1.5"))
    texts = logged(outcome(values=(*values, 10**5000, datetime(2024, 1, 1, tzinfo=UTC), *range(100))), parameters=True)
    parameters = texts["parameters"]
    assert parameters[:2] == [None, "42"]
    assert parameters[3] == "\\x00ff"
    assert parameters[5] == "{1,NULL,{2,b}}"
    assert parameters[7] == "1.5"
    assert parameters[9] == "2024-01-01 00:00:00+00:00"
    assert len(parameters) == 50
    assert all(len(text) <= 200 for text in parameters if text is not None)


def test_a_long_template_and_long_tags_are_cut() -> None:
    tags = {f"{number}" + "n" * 500: "v" * 10_000 for number in range(200)}
    slow, lines = log()
    slow.observe(outcome(template="SELECT " + "x" * 10**6, tags=tags))
    record = json.loads(lines[0])
    assert len(record["template"]) == 4000
    assert record["template"].endswith("…")
    assert len(record["tags"]) == 20
    assert len(lines[0]) < 30_000


@given(st.text(st.characters(), max_size=50))
def test_any_text_makes_one_line_of_ascii(text: str) -> None:
    slow, lines = log(parameters=True)
    slow.observe(outcome(template=text, tags={text: text}, values=(text, (text,)), sqlstate=text, cache=text))
    (line,) = lines
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["template"] == text


def test_a_log_that_cannot_be_written_is_counted_and_what_is_slow_is_still_kept() -> None:
    def full_disk(line: str) -> None:
        raise OSError(28, "No space left on device")

    slow = SlowLog(0, full_disk, clock=lambda: NOW)
    slow.observe(outcome())
    assert (slow.lines, slow.failures) == (1, 1)
    assert slow.recent[0]["fingerprint"] == "a" * 16


def test_times_that_are_no_number_are_logged_as_valid_json() -> None:
    for time in (float("nan"), float("inf")):
        slow, lines = log()
        slow.observe(outcome(time))
        record = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert record["server_ms"] == 0.0


def test_the_last_hundred_are_kept() -> None:
    slow, lines = log(0)
    for number in range(KEPT + 5):
        slow.observe(outcome(float(number)))
    assert len(lines) == 105
    assert len(slow.recent) == 100
    assert slow.recent[0]["server_ms"] == 5000.0
    assert slow.recent[-1]["server_ms"] == 104_000.0
