"""A program for `pgloupe check`: reads the comments of each post, in a loop or by a join.

python loop.py asyncpg|psycopg|psycopg2 lazy|joined
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

POSTS = "SELECT id, title FROM post ORDER BY id"
COMMENTS = "SELECT id, body FROM remark WHERE post_id = {}"
JOINED = "SELECT p.id, p.title, r.id, r.body FROM post p LEFT JOIN remark r ON r.post_id = p.id ORDER BY p.id"


async def by_asyncpg(url: str, lazy: bool) -> int:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        if not lazy:
            return len(await connection.fetch(JOINED))
        statement = await connection.prepare(COMMENTS.format("$1"))
        return sum([len(await statement.fetch(post["id"])) for post in await connection.fetch(POSTS)])
    finally:
        await connection.close()


def by_dbapi(module: str, url: str, lazy: bool) -> int:
    connection = importlib.import_module(module).connect(url)
    try:
        cursor = connection.cursor()
        if not lazy:
            cursor.execute(JOINED)
            return len(cursor.fetchall())
        cursor.execute(POSTS)
        count = 0
        for post in cursor.fetchall():
            cursor.execute(COMMENTS.format("%s"), (post[0],))
            count += len(cursor.fetchall())
        return count
    finally:
        connection.close()


def main() -> None:
    driver, form = sys.argv[1:]
    url = os.environ["DATABASE_URL"]
    lazy = form == "lazy"
    found = asyncio.run(by_asyncpg(url, lazy)) if driver == "asyncpg" else by_dbapi(driver, url, lazy)
    sys.stdout.write(f"{found} rows\n")


if __name__ == "__main__":
    main()
