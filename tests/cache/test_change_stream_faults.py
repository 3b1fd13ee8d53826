"""A change stream that cannot be had, is lost or late: rules that need it give no answers, and nobody is answered from before."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.cache.slot import Snapshot, open_slot, parse_lsn, parse_snapshot
from pgloupe.cache.stream import ChangeStream
from pgloupe.config import settings
from pgloupe.errors import ChangeStreamError, SettingsError
from support.change_stream import LAZY, LIVE, Site, prepare, site, url_of
from support.proxy import Serve
from support.raw import eventually
from support.servers import PostgresServer

AUTHORS = "SELECT id, name FROM author ORDER BY id"
ALONE = "SELECT name FROM alone"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgloupe%'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own, with commits that are on the disk when others see them. With synchronous_commit = on they
    wait for ever."""
    waiting = {"synchronous_commit": "local", "synchronous_standby_names": "nobody"}
    with PostgresServer(settings={**waiting, "max_replication_slots": "4"}) as started:
        yield started


@pytest.fixture(scope="module")
def streamed(server: PostgresServer) -> tuple[str, str]:
    """URLs of a database, for its owner and for the stream."""
    url = server.role_url()
    return url, prepare(server.url, url, publication=True)


@pytest.fixture
def live(streamed: tuple[str, str], caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    caplog.set_level(logging.INFO, "pgloupe")
    with site(*streamed, change_stream_max_lag_s="1s") as made:
        eventually(made.live)
        made.reset()
        yield made


def ask(server: PostgresServer, query: str) -> Any:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row is not None else None


def ask_all(server: PostgresServer, query: str) -> list[Any]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def backend_of_slot(server: PostgresServer) -> int:
    return int(ask(server, "SELECT active_pid FROM pg_replication_slots WHERE slot_name LIKE 'pgloupe%'"))


def no_answers(where: Site) -> None:
    """A rule that needs the stream leaves its reads to the server."""
    before = where.bypasses()
    assert not where.is_hit(AUTHORS)
    assert where.bypasses() == before + 1


def test_while_a_lost_slot_is_not_made_anew_rules_that_need_it_give_no_answers(
    server: PostgresServer, live: Site, caplog: pytest.LogCaptureFixture
) -> None:
    live.keep(AUTHORS, ALONE)
    with psycopg.connect(live.url) as open_one:
        # a new slot waits for transactions that have written something
        open_one.execute("SELECT pg_current_xact_id()")
        backend = backend_of_slot(server)
        ask(server, f"SELECT pg_terminate_backend({backend})")
        eventually(lambda: not ask(server, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}"))
        eventually(lambda: not live.live())
        live.write("UPDATE author SET name = 'missed'", "UPDATE alone SET name = 'missed'")
        no_answers(live)
        assert live.read(AUTHORS)[0][1] == "missed"
        assert live.is_hit(ALONE)
        assert live.read(ALONE) != [("missed",)], "its rule is content with its ttl"
        open_one.rollback()
    eventually(live.live)
    assert live.read(AUTHORS)[0][1] == "missed"
    assert live.read(ALONE) == [("missed",)]
    live.keep(AUTHORS, ALONE)
    records = [*caplog.get_records("setup"), *caplog.records]
    told = [record.getMessage() for record in records if "change stream" in record.getMessage()]
    assert len([text for text in told if "is live: " in text]) == 2
    assert len([text for text in told if "is not live: " in text and "connection" in text]) == 1


def test_after_a_restart_of_the_server_nobody_is_answered_from_before(server: PostgresServer, live: Site) -> None:
    live.keep(AUTHORS, ALONE)
    server.stop()
    eventually(lambda: not live.live())
    server.start()
    live.reconnect()
    live.write("UPDATE author SET name = 'restarted'", "UPDATE alone SET name = 'restarted'")
    assert live.read(AUTHORS)[0][1] == "restarted"
    eventually(live.live)
    assert live.read(AUTHORS)[0][1] == "restarted"
    assert live.read(ALONE) == [("restarted",)]


def test_a_stream_that_stands_still_is_late_and_catches_up(
    server: PostgresServer, live: Site, caplog: pytest.LogCaptureFixture
) -> None:
    live.keep(AUTHORS)
    backend = backend_of_slot(server)
    os.kill(backend, signal.SIGSTOP)
    try:
        eventually(lambda: not live.live())
        live.write("UPDATE author SET name = 'behind'")
        no_answers(live)
        assert live.read(AUTHORS)[0][1] == "behind"
        assert live.statistics()["change_stream_lag_s"] > 1
        eventually(lambda: "s behind, more than change_stream_max_lag_s" in caplog.text)
    finally:
        os.kill(backend, signal.SIGCONT)
    eventually(live.live)
    assert live.read(AUTHORS)[0][1] == "behind"
    live.keep(AUTHORS)
    assert live.statistics()["change_stream_starts"] == 1
    eventually(lambda: "has caught up" in caplog.text)


def test_a_commit_that_waits_for_a_standby_counts_when_others_see_it(server: PostgresServer, live: Site) -> None:
    """Its record is decoded while it waits. An answer that is stored then, of the old rows, must not stay."""
    live.keep(ALONE)
    changes = live.statistics()["change_stream_changes"]
    with psycopg.connect(live.url, autocommit=True) as direct:
        direct.execute("SET synchronous_commit = on")
        pid = direct.info.backend_pid
        direct.pgconn.send_query(b"UPDATE alone SET name = 'waited'")
        direct.pgconn.flush()
        try:
            eventually(lambda: ask(server, f"SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}") == "SyncRep")
            eventually(lambda: live.statistics()["change_stream_changes"] > changes)
            live.keep(ALONE)
            assert live.read(ALONE) != [("waited",)]
        finally:
            ask(server, f"SELECT pg_cancel_backend({pid})")  # of the waiting: it is committed
        while direct.pgconn.get_result() is not None:
            pass
    live.await_hit(ALONE, lambda rows: rows == [("waited",)])


def test_a_publication_that_is_changed_ends_the_slot(
    server: PostgresServer, live: Site, streamed: tuple[str, str]
) -> None:
    live.keep(ALONE)
    with psycopg.connect(url_of(server.url, "app"), autocommit=True) as superuser:
        superuser.execute("ALTER PUBLICATION pgloupe SET (publish = 'insert')")
        live.write("UPDATE alone SET name = 'not published'")
        eventually(lambda: live.statistics()["change_stream_starts"] == 2)
        superuser.execute("ALTER PUBLICATION pgloupe SET (publish = 'insert, update, delete, truncate')")
    live.await_hit(ALONE, lambda rows: rows == [("not published",)])
    assert ask(server, "SELECT plugin FROM pg_replication_slots WHERE slot_name LIKE 'pgloupe%'") == "test_decoding"


async def refusal(url: str, mode: str = "auto", publication: str = "pgloupe") -> str:
    with pytest.raises(ChangeStreamError) as caught:
        await open_slot(url, mode=mode, publication=publication, connect={}, clock=time.monotonic)
    return str(caught.value)


async def test_what_is_missing_is_said_with_what_to_do(server: PostgresServer, streamed: tuple[str, str]) -> None:
    url, stream_url = streamed
    assert "ALTER ROLE … REPLICATION" in await refusal(url, "test_decoding")
    assert 'the publication "no such" does not exist' in await refusal(stream_url, "pgoutput", "no such")
    with psycopg.connect(url_of(server.url, "app"), autocommit=True) as superuser:
        superuser.execute("CREATE PUBLICATION part FOR TABLE author")
        superuser.execute("CREATE PUBLICATION half FOR ALL TABLES WITH (publish = 'insert')")
        for name in ("part", "half"):
            assert f'the publication "{name}" does not cover all' in await refusal(stream_url, "pgoutput", name)
        superuser.execute("SELECT pg_create_physical_replication_slot('taken_' || n) FROM generate_series(1, 4) n")
        try:
            assert "raise max_replication_slots (4)" in await refusal(stream_url)
        finally:
            superuser.execute("SELECT pg_drop_replication_slot('taken_' || n) FROM generate_series(1, 4) n")


async def test_where_no_publication_covers_everything_auto_takes_test_decoding(streamed: tuple[str, str]) -> None:
    for publication, plugin in (("pgloupe", "pgoutput"), ("no such", "test_decoding")):
        slot = await open_slot(streamed[1], mode="auto", publication=publication, connect={}, clock=time.monotonic)
        assert slot.plugin == plugin
        await slot.close()


@pytest.mark.parametrize("plugin", ["pgoutput", "test_decoding"])
async def test_a_row_of_many_megabytes_is_cut_at_the_server(streamed: tuple[str, str], plugin: str) -> None:
    slot = await open_slot(streamed[1], mode=plugin, publication="pgloupe", connect={}, clock=time.monotonic)
    with psycopg.connect(streamed[0], autocommit=True) as direct:
        direct.execute("INSERT INTO author SELECT n, repeat('x', 4000000) FROM generate_series(900, 903) n")
        direct.execute("TRUNCATE author CASCADE")
    arguments = (slot.name, 5000, "pgloupe") if plugin == "pgoutput" else (slot.name, 5000)
    rows = await slot._read.fetch(*arguments)
    await slot.close()
    # of each transaction a line for each table, whatever is in the rows, and their number
    assert max(count for data, _, count in rows if data is not None) == 4
    assert len(rows) < 10
    assert all(data is None or len(data) <= 300 for data, _, _ in rows)


@pytest.fixture(scope="module")
def plain_server() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"wal_level": "replica"}) as started:
        yield started


def test_without_logical_wal_the_log_says_what_to_do_and_other_rules_answer(
    plain_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = plain_server.role_url()
    stream_url = prepare(plain_server.url, url, publication=False)
    with caplog.at_level(logging.INFO), site(url, stream_url) as made:
        made.keep(ALONE)
        no_answers(made)
        app = made.proxy.running._app
        assert app.cache is not None
        assert app.cache._stream is not None
        assert not made.live()
        assert made.statistics()["change_stream_lag_s"] > 0
    told = [record.getMessage() for record in caplog.records if "change stream" in record.getMessage()]
    assert told == [
        "the change stream is not live: wal_level is replica: set wal_level = logical in postgresql.conf and restart "
        "PostgreSQL; until it is, rules with require_change_stream leave reads to the server"
    ]


async def test_what_fails_again_for_the_same_reason_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stream = ChangeStream("postgresql://nobody@127.0.0.1:1/none")

    async def never(tables: frozenset[str] | None, database: str) -> None:
        raise AssertionError((tables, database))

    await stream.start(never)
    assert stream._task is not None
    for _ in range(3):
        stream._stopped(stream._reason)
    await stream.stop()
    assert not stream.live()
    assert len(caplog.records) == 1


def test_a_proxy_that_stops_while_its_slot_is_being_made_leaves_nothing(
    server: PostgresServer, streamed: tuple[str, str]
) -> None:
    with psycopg.connect(streamed[0]) as open_one:
        open_one.execute("SELECT pg_current_xact_id()")
        with site(*streamed) as made:
            assert not made.live()
            no_answers(made)
        backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgloupe change stream'"
        eventually(lambda: not ask(server, backends))
        assert not slots_left(server)


async def test_what_is_not_on_the_disk_is_not_known_until_it_is(
    server: PostgresServer, streamed: tuple[str, str]
) -> None:
    """The WAL writer is stopped, so that a commit which others see is not decoded. Time passes by the clock of the slot."""
    now = iter(range(1_000_000))
    slot = await open_slot(streamed[1], mode="auto", publication="pgloupe", connect={}, clock=lambda: float(next(now)))
    # a checkpoint or a snapshot of the background writer would write it out
    stopped = [
        pid
        for pid, name in ask_all(server, "SELECT pid, backend_type FROM pg_stat_activity")
        if name in ("walwriter", "background writer", "checkpointer")
    ]
    assert len(stopped) == 3
    with psycopg.connect(streamed[0]) as open_one, psycopg.connect(streamed[0], autocommit=True) as direct:
        direct.execute("INSERT INTO author VALUES (77, 'first') ON CONFLICT DO NOTHING")
        while (before := await slot.poll()).known_s is None or before.more:
            pass
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            open_one.execute("INSERT INTO author VALUES (78, 'open')")
            idle = await slot.poll()
            assert idle.known_s is not None
            assert idle.known_s > before.known_s, "nobody has committed, and that is known"
            direct.execute("SET synchronous_commit = off")
            direct.execute("UPDATE author SET name = 'in memory' WHERE id = 77")
            late = [await slot.poll() for _ in range(3)]
            assert [(poll.known_s, poll.changes) for poll in late] == [(idle.known_s, 0)] * 3
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        direct.execute("SET synchronous_commit = local")
        direct.execute("UPDATE author SET name = 'on the disk' WHERE id = 77")
        found = await slot.poll()
        assert found.changes == 2
        assert found.known_s is not None
        assert found.known_s > idle.known_s
        open_one.rollback()
    await slot.close()


def slots_left(server: PostgresServer) -> bool:
    return bool(ask(server, SLOTS))


def test_a_proxy_that_stops_leaves_no_slot(server: PostgresServer, streamed: tuple[str, str]) -> None:
    with site(*streamed) as made:
        eventually(made.live)
        assert slots_left(server)
    eventually(lambda: not slots_left(server))


def test_a_proxy_that_is_killed_leaves_no_slot(
    server: PostgresServer, streamed: tuple[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "pgloupe.toml"
    config.write_text(
        f'[cache]\nchange_stream = "auto"\nchange_stream_url = "{streamed[1]}"\n'
        '[[cache.allow]]\ntables = ["author"]\nttl = "60s"\nrequire_change_stream = true\n'
    )
    with Serve("--upstream", streamed[0], "--config", str(config)) as served:
        eventually(lambda: slots_left(server))
        served.stop(signal.SIGKILL)
    eventually(lambda: not slots_left(server))


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ({"allow": [{**LIVE, "require_change_stream": True}]}, "require_change_stream needs cache.change_stream"),
        ({"change_stream": "wal2json"}, "'wal2json' is none of auto, pgoutput, test_decoding"),
        ({"change_stream": "auto", "change_stream_interval_ms": 0}, "is not a whole number from 1 up"),
    ],
)
def test_settings_that_cannot_be_are_refused(cache: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings({"upstream": "postgres://u@h/d", "cache": cache})


def test_without_a_setting_there_is_no_stream(streamed: tuple[str, str]) -> None:
    with site(streamed[0], streamed[1], LAZY, change_stream="") as made:
        made.keep(ALONE)
        assert {name: value for name, value in made.statistics().items() if name.startswith("change_stream")} == {
            f"change_stream_{name}": 0 for name in ("live", "lag_s", "changes", "raises", "starts")
        }


def test_snapshots_and_positions_are_read_as_the_server_writes_them() -> None:
    assert parse_snapshot("10:20:10,14,15") == Snapshot(10, 20, frozenset({10, 14, 15}))
    assert parse_snapshot("10:10:") == Snapshot(10, 10, frozenset())
    assert parse_lsn("16/B374D848") == 0x16B374D848
    assert parse_lsn("0/0") == 0


@given(st.integers(0x80000000, 1 << 50), st.integers(-0x7FFFFFFF, 0x7FFFFFFF))
def test_a_snapshot_shows_transactions_by_their_32_bits_across_the_wraparound(xmax: int, distance: int) -> None:
    full = xmax + distance
    assert Snapshot(xmax, xmax, frozenset()).shows(full & 0xFFFFFFFF) == (distance < 0)
    assert not Snapshot(full, xmax, frozenset({full})).shows(full & 0xFFFFFFFF)
