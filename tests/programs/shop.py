"""A program for `pgloupe check` whose faults are chosen by name: python shop.py [posts] [authors] [import] [settings] …

Each name is a request of its own on one connection, with its route in a comment as sqlcommenter writes it. Requests are
parted by a trace, so nothing depends on time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import psycopg

Ask = Callable[..., Any]


def posts(ask: Ask) -> None:
    """An N+1: the remarks of each post."""
    for (post,) in ask("SELECT id FROM post ORDER BY id").fetchall():
        ask("SELECT body FROM remark WHERE post_id = %s", post)


def feed(ask: Ask) -> None:
    """The same on another route."""
    posts(ask)


def authors(ask: Ask) -> None:
    """An N+1 of another child: the author of each post."""
    for (author,) in ask("SELECT author_id FROM post ORDER BY id").fetchall():
        ask("SELECT name FROM author WHERE id = %s", author)


def settings(ask: Ask) -> None:
    """A redundant query."""
    ask("BEGIN")
    for _ in range(6):
        ask("SELECT value FROM setting WHERE key = %s", "currency")
    ask("COMMIT")


def good(ask: Ask) -> None:
    """One query."""
    ask("SELECT p.id, r.body FROM post p JOIN remark r ON r.post_id = p.id")


def main() -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="shop") as connection:
        for number, name in enumerate(sys.argv[1:], 1):
            tags = f"/*route='/{name}',traceparent='00-{number:032x}-{1:016x}-01'*/"

            def ask(sql: str, *values: object, tags: str = tags) -> Any:
                return connection.execute(f"{sql} {tags}", values or None)

            globals()[name](ask)


if __name__ == "__main__":
    main()
