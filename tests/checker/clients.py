"""Clients of the random workload: psycopg and asyncpg, each with a name for the way it asks.

A client is one connection, so one session. It gives rows as tuples, and says of an error whether the server refused
the statement (then nothing has happened) or nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import psycopg

_sessions: Final = itertools.count(1_000_000)
_LIMIT_S: Final = 20.0

ERRORS: Final = (
    *(psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, EOFError),
    asyncpg.InternalClientError,  # what asyncpg says when a connection ends between its Parse and its Bind
)

DRIVERS: Final = ("psycopg", "psycopg prepared", "psycopg binary", "asyncpg")


def refused(error: BaseException) -> bool:
    """The server has refused the statement and the session goes on."""
    state = getattr(error, "sqlstate", None)
    return bool(state) and state[:2] not in ("08", "57")


def lacks_privilege(error: BaseException) -> bool:
    return getattr(error, "sqlstate", None) == "42501"


class Client:
    """Made by `connect`."""

    def __init__(self, driver: str, connection: Any) -> None:
        self.driver = driver
        self.session = next(_sessions)
        self.connection = connection

    async def run(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """One statement, to its end. Raises one of `ERRORS`."""
        async with asyncio.timeout(_LIMIT_S):
            if self.driver == "asyncpg":
                if not parameters and not text.startswith(("SELECT", "WITH", "UPDATE")):
                    await self.connection.execute(text)
                    return []
                return [tuple(row) for row in await self.connection.fetch(text, *parameters)]
            binary = self.driver == "psycopg binary"
            cursor = await self.connection.execute(text, parameters or None, binary=binary and bool(parameters))
            return await cursor.fetchall() if cursor.description is not None else []

    async def copy(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """COPY FROM STDIN; psycopg only."""
        async with asyncio.timeout(_LIMIT_S), self.connection.cursor() as cursor, cursor.copy(text) as copy:
            for row in rows:
                await copy.write_row(row)

    async def close(self) -> None:
        if self.driver == "asyncpg":
            self.connection.terminate()
        else:
            with contextlib.suppress(*ERRORS):
                await self.connection.close()


async def connect(driver: str, url: str, setting: str = "") -> Client:
    """Raises one of `ERRORS`."""
    async with asyncio.timeout(_LIMIT_S):
        if driver == "asyncpg":
            client = Client(driver, await asyncpg.connect(url))
        else:
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, cursor_factory=psycopg.AsyncRawCursor
            )
            connection.prepare_threshold = 0 if driver == "psycopg prepared" else None
            client = Client(driver, connection)
    if setting:
        try:
            await client.run(setting)
        except BaseException:
            await client.close()
            raise
    return client
