"""psycopg2: literals in the text, COPY, large objects by FunctionCall, logical replication."""

from __future__ import annotations

import io
import os
import uuid
from typing import Any

import psycopg
import psycopg2
import psycopg2.errorcodes
import psycopg2.extras
import pytest

from support.raw import eventually
from support.stage import Program, Stage, failure, prepare


def psycopg2_literals(url: str) -> Any:
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for key in (1, 2, 1):
            cursor.execute("SELECT * FROM item WHERE id = %s AND name <> %s", (key, "it's \\ %"))
            seen.append((cursor.fetchall(), cursor.rowcount, cursor.statusmessage))
        cursor.execute("SELECT * FROM item WHERE id IN %s ORDER BY id", ((3, 4, 5),))
        seen.append(cursor.fetchall())
        psycopg2.extras.execute_values(
            cursor, "INSERT INTO note (item_id, body) VALUES %s", [(1, f"v{n}") for n in range(250)]
        )
        psycopg2.extras.execute_batch(cursor, "UPDATE note SET body = %s WHERE id = %s", [("u", n) for n in range(9)])
        cursor.execute("SELECT count(*), count(DISTINCT body) FROM note")
        seen.append(cursor.fetchone())
    with connection, connection.cursor("named") as named:
        named.itersize = 4
        named.execute("SELECT id FROM item ORDER BY id")
        seen.append(list(named))
    connection.set_session(autocommit=True)
    with connection.cursor() as cursor:
        for query in ("SELECT 1/0", "SELECT * FROM missing"):
            try:
                cursor.execute(query)
            except psycopg2.Error as error:
                seen.append((failure(error), str(error)))
        cursor.execute("LISTEN two")
        cursor.execute("NOTIFY two, 'hello'")
        connection.poll()
        seen += [(notify.channel, notify.payload) for notify in connection.notifies]
        seen.append(list(connection.notices))
    connection.close()
    return seen


def psycopg2_copy(url: str) -> Any:
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY note (item_id, body) FROM STDIN", io.StringIO("1\tone\n2\ttwo\n" * 5000))
        seen.append(cursor.rowcount)
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT item_id, body FROM note ORDER BY id) TO STDOUT (FORMAT csv)", out)
        seen.append(out.getvalue())
    try:
        with connection, connection.cursor() as cursor:
            cursor.copy_from(io.StringIO("x\ty\n"), "item", columns=("id", "name"))
    except psycopg2.Error as error:
        seen.append(failure(error))
    connection.close()
    return seen


def psycopg2_large_object(url: str) -> Any:
    """Large objects are read and written by FunctionCall."""
    seen: list[Any] = []
    connection = psycopg2.connect(url)
    large = connection.lobject(0, "wb")
    seen.append(large.write(os.urandom(0) + b"0123456789" * 100_000))
    oid = large.oid
    large.close()
    large = connection.lobject(oid, "rb")
    large.seek(999_990)
    seen += [large.tell(), large.read(), large.seek(0), large.read(20)]
    large.close()
    connection.commit()
    large = connection.lobject(oid, "rwb")
    large.truncate(5)
    seen.append(large.read())
    large.unlink()
    connection.commit()
    try:
        connection.lobject(oid, "rb")
    except psycopg2.Error as error:
        seen.append(type(error).__name__)
    connection.rollback()
    connection.close()
    return seen


PROGRAMS: list[Program] = [
    psycopg2_literals,
    psycopg2_copy,
    psycopg2_large_object,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, program: Program) -> None:
    stage.compare(program)


def replication_messages(url: str) -> Any:
    """A logical replication connection: IDENTIFY_SYSTEM, and changes over COPY BOTH in both directions."""
    seen: list[Any] = []
    with psycopg.connect(url, autocommit=True) as writer:
        writer.execute("DROP PUBLICATION IF EXISTS all_of_it")
        writer.execute("CREATE PUBLICATION all_of_it FOR TABLE item")
        stream = psycopg2.connect(url, connection_factory=psycopg2.extras.LogicalReplicationConnection)
        cursor = stream.cursor()
        cursor.execute("IDENTIFY_SYSTEM")
        row = cursor.fetchone()
        seen += [row[0], row[1], row[3], [column.name for column in cursor.description]]
        slot = f"slot_{uuid.uuid4().hex}"
        cursor.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        cursor.start_replication(slot, options={"proto_version": "1", "publication_names": "all_of_it"})
        writer.execute("INSERT INTO item VALUES (50, 'replicated', 1)")
        writer.execute("DELETE FROM item WHERE id = 50")
        changes: list[str] = []

        def received() -> bool:
            while (message := cursor.read_message()) is not None:
                changes.append(chr(message.payload[0]))
                cursor.send_feedback(flush_lsn=message.data_start, force=True)
            return changes.count("C") == 2

        eventually(received)
        seen.append(changes)
        stream.close()
        writer.execute("DROP PUBLICATION all_of_it")
    return seen


def test_a_replication_connection_passes_through(stage: Stage) -> None:
    superuser = stage.server.superuser_url
    if superuser is None:
        pytest.skip("replication needs a superuser, and PGLOUPE_TEST_POSTGRES gives none")
    url = f"{superuser.rpartition('/')[0]}/{stage.direct.rpartition('/')[2]}"
    prepare(stage.direct)
    expected = replication_messages(url)
    assert expected[-1] == ["B", "R", "I", "C", "B", "D", "C"]
    for proxy in (stage.watching, stage.caching):
        assert replication_messages(proxy.url_for(url)) == expected
