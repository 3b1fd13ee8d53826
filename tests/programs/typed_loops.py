"""A program for `pgloupe check`: a loop over the rows of a list for each type of key, with parameters.

python typed_loops.py asyncpg|psycopg|psycopg2

Prints a line of JSON for each loop: the column, and the ids that the loop got.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys

COLUMNS = ("code", "word", "price", "born", "day", "name", "hash", "number", "digits", "ratio")
LIST = "SELECT {} FROM item ORDER BY id"
CHILD = "SELECT id FROM item WHERE {} = {} AND kind <> {} AND rank < {}"
KIND, RANK = "it's", 1000


def say(column: str, ids: list[int]) -> None:
    sys.stdout.write(json.dumps([column, sorted(ids)]) + "\n")


async def by_asyncpg(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    for column in COLUMNS:
        async with connection.transaction():
            ids: list[int] = []
            for row in await connection.fetch(LIST.format(column)):
                child = CHILD.format(column, "$1", "$2", "$3")
                ids += [found["id"] for found in await connection.fetch(child, row[0], KIND, RANK)]
        say(column, ids)
    await connection.close()


def by_dbapi(module: str, url: str) -> None:
    connection = importlib.import_module(module).connect(url)
    cursor = connection.cursor()
    for column in COLUMNS:
        ids: list[int] = []
        cursor.execute(LIST.format(column))
        for row in cursor.fetchall():
            cursor.execute(CHILD.format(column, "%s", "%s", "%s"), (row[0], KIND, RANK))
            ids += [found[0] for found in cursor.fetchall()]
        connection.commit()
        say(column, ids)
    connection.close()


if __name__ == "__main__":
    driver = sys.argv[1]
    if driver == "asyncpg":
        asyncio.run(by_asyncpg(os.environ["DATABASE_URL"]))
    else:
        by_dbapi(driver, os.environ["DATABASE_URL"])
