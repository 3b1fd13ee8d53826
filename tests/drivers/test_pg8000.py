"""pg8000: a driver in Python alone, by its own interface and by that of the DB-API."""

from __future__ import annotations

import io
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest
from psycopg.conninfo import conninfo_to_dict

from support.stage import Program, Stage


def _parts(url: str) -> dict[str, Any]:
    found = conninfo_to_dict(url)
    return {
        "user": found["user"],
        "password": found["password"],
        "host": found["host"],
        "port": int(found["port"]),
        "database": found["dbname"],
    }


def pg8000_queries(url: str) -> Any:
    seen: list[Any] = []
    connection = pg8000.native.Connection(**_parts(url))
    for key in (1, 2, 1):
        seen.append(connection.run("SELECT id, name FROM item WHERE id = :key", key=key))
    prepared = connection.prepare("SELECT name FROM item WHERE id = :key")
    seen += [prepared.run(key=1), prepared.run(key=2), prepared.close()]
    seen.append(connection.run("COPY note (item_id, body) FROM STDIN", stream=io.StringIO("1\tone\n2\ttwo\n")))
    out = io.BytesIO()
    connection.run("COPY (SELECT body FROM note ORDER BY id) TO STDOUT", stream=out)
    seen.append(out.getvalue())
    try:
        connection.run("SELECT 1/0")
    except pg8000.native.DatabaseError as error:
        seen.append(error.args[0]["C"])
    connection.run("LISTEN eight")
    connection.run("NOTIFY eight, 'x'")
    seen += [(channel, payload) for _, channel, payload in connection.notifications]
    connection.run("START TRANSACTION")
    connection.run("INSERT INTO note (item_id) VALUES (1)")
    seen.append(connection.run("SELECT count(*) FROM note"))
    connection.run("ROLLBACK")
    seen.append(connection.run("SELECT count(*) FROM note"))
    connection.close()
    database = pg8000.dbapi.connect(**_parts(url))
    cursor = database.cursor()
    cursor.execute("SELECT name FROM item WHERE id IN (%s, %s) ORDER BY id", (1, 2))
    seen.append([list(row) for row in cursor.fetchall()])
    cursor.executemany("INSERT INTO note (item_id, body) VALUES (%s, %s)", [(1, "a"), (2, "b")])
    cursor.execute("SELECT count(*) FROM note")
    seen.append(list(cursor.fetchone()))
    database.commit()
    database.close()
    return seen


PROGRAMS: list[Program] = [
    pg8000_queries,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, program: Program) -> None:
    stage.compare(program)
