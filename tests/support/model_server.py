"""The rules of the protocol as a server follows them, over two tables that are counters, as a pure function of bytes.

It exists to compare: the same client, directly and through a session with a cache, must see the same bytes and leave the
same tables behind. Which statement is bound, what an error skips, when a transaction ends and what a failing one undoes are
as in PostgreSQL (postgres.c); what is not needed for that is left out. Tests of what PostgreSQL itself does are elsewhere,
against PostgreSQL.

Query strings: `SELECT * FROM author` (or post, or elsewhere; with `WHERE id = $1`) gives two rows of the table's counter
and the settings, `UPDATE author SET n = 1` counts, `SET x = 1`, BEGIN, COMMIT, ROLLBACK, and `SELECT wrong` fails.
"""

from __future__ import annotations

import re

from pgloupe.wire.codes import FrontendCode as F
from pgloupe.wire.frames import FrameReader
from pgloupe.wire.frontend import (
    parse_bind_names,
    parse_bind_values,
    parse_execute,
    parse_named,
    parse_parse,
    parse_query,
)
from support.conversation import (
    BOUND,
    CLOSED,
    EMPTY,
    NO_DATA,
    PARSED,
    SUSPENDED,
    complete,
    data_row,
    error,
    parameter_description,
    ready,
    row_description,
)

_TABLE = re.compile(r"SELECT \* FROM (\w+)")


class _Failed(Exception):
    """Its argument is the SQLSTATE."""


class _Portal:
    def __init__(self, query: str, values: list[bytes | None]) -> None:
        self.query = query
        self.values = values
        self.rest: list[bytes] | None = None


class ModelServer:
    """Feed `receive` with what the client sends; it gives what the server sends."""

    def __init__(self) -> None:
        self.tables = {"author": 0, "post": 0, "elsewhere": 0}
        self.settings: dict[str, str] = {}
        self.ran: list[str] = []
        self._reader = FrameReader(join_rows=False)
        self._prepared: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._portals: dict[str, _Portal] = {}
        self._status = "I"
        self._saved: tuple[dict[str, int], dict[str, str]] | None = None
        self._skipping = False
        self._waiting: list[bytes] = []

    def receive(self, data: bytes) -> bytes:
        sent: list[bytes] = []
        for code, raw, _ in self._reader.feed(data):
            self._take(code, raw)
            if code in (F.SYNC, F.QUERY, F.FLUSH):  # replies are kept until then, as in a server's buffer
                sent += self._waiting
                self._waiting = []
        return b"".join(sent)

    def _take(self, code: int, raw: bytes) -> None:
        if code == F.SYNC:
            self._skipping = False
            self._end_implicit()
            self._waiting.append(ready(self._status))
        elif self._skipping or code == F.FLUSH:
            return
        elif code == F.QUERY:
            try:
                self._query(parse_query(raw))
                self._end_implicit()
            except _Failed as failure:
                self._fail(failure)
            self._waiting.append(ready(self._status))
        else:
            self._begin()
            try:
                self._message(code, raw)
            except _Failed as failure:
                self._fail(failure)
                self._skipping = True

    # --- transactions ---

    def _begin(self) -> None:
        if self._saved is None:
            self._saved = (dict(self.tables), dict(self.settings))

    def _end_implicit(self) -> None:
        if self._status == "I":
            self._end()

    def _end(self) -> None:
        self._saved = None
        self._status = "I"
        self._portals.clear()

    def _fail(self, failure: _Failed) -> None:
        self._waiting.append(error(failure.args[0]))
        self._undo()
        if self._status == "T":
            self._status = "E"
        elif self._status == "I":
            self._saved = None

    def _undo(self) -> None:
        assert self._saved is not None
        tables, settings = self._saved
        self.tables, self.settings = dict(tables), dict(settings)
        self._portals.clear()

    # --- statements ---

    def _query(self, text: str) -> None:
        self._begin()
        self._prepared.pop("", None)
        self._portals.pop("", None)
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if not parts:
            self._waiting.append(EMPTY)
        for part in parts:
            self._begin()  # anew behind a COMMIT
            self._check(part)
            description, rows, tag = self._run(part, [])
            self._waiting += [description, *rows, complete(tag)]

    def _check(self, query: str) -> None:
        if self._status == "E" and query not in ("ROLLBACK", "COMMIT"):
            raise _Failed("25P02")
        if query == "SELECT wrong":
            raise _Failed("42703")

    def _description(self, query: str) -> bytes:
        return row_description("n", "settings", "id") if query.startswith("SELECT") else b""

    def _run(self, query: str, values: list[bytes | None]) -> tuple[bytes, list[bytes], str]:
        self._begin()
        self.ran.append(query)
        word = query.partition(" ")[0]
        if word == "SELECT":
            found = _TABLE.match(query)
            table = found.group(1) if found is not None else "elsewhere"
            value = values[0] if values else b"-"
            row = data_row(str(self.tables[table]), str(sorted(self.settings.items())), value)
            return self._description(query), [row, row], "SELECT 2"
        if word == "UPDATE":
            self.tables[query.split()[1]] += 1
            return b"", [], "UPDATE 1"
        if word == "SET":
            _, name, _, value_text = query.split()
            self.settings[name] = value_text
        elif word == "BEGIN":
            self._status = "T"
        else:
            tag = "ROLLBACK" if self._status == "E" or word == "ROLLBACK" else "COMMIT"
            if tag == "ROLLBACK":
                self._undo()
            self._end()
            return b"", [], tag
        return b"", [], word

    # --- the extended query ---

    def _message(self, code: int, raw: bytes) -> None:
        waiting = self._waiting
        if code == F.PARSE:
            name, query, oids = parse_parse(raw)
            if not name:
                self._prepared.pop("", None)
            if query:
                self._check(query)
            if name in self._prepared:
                raise _Failed("42P05")
            self._prepared[name] = (query, oids or ((25,) if "$1" in query else ()))
            waiting.append(PARSED)
        elif code == F.BIND:
            portal_name, name, offset = parse_bind_names(raw)
            if name not in self._prepared:
                raise _Failed("26000")
            query, oids = self._prepared[name]
            values = parse_bind_values(raw, offset)[1]
            if len(values) != len(oids):
                raise _Failed("08P01")
            if query:
                self._check(query)
            self._portals[portal_name] = _Portal(query, values)
            waiting.append(BOUND)
        elif code == F.DESCRIBE:
            kind, name = parse_named(raw)
            if name not in (self._prepared if kind == "S" else self._portals):
                raise _Failed("26000" if kind == "S" else "34000")
            if kind == "S":
                waiting.append(parameter_description(*self._prepared[name][1]))
            query = self._prepared[name][0] if kind == "S" else self._portals[name].query
            waiting.append(self._description(query) or NO_DATA)
        elif code == F.EXECUTE:
            self._execute(*parse_execute(raw))
        elif code == F.CLOSE:
            kind, name = parse_named(raw)
            (self._prepared if kind == "S" else self._portals).pop(name, None)
            waiting.append(CLOSED)

    def _execute(self, name: str, limit: int) -> None:
        portal = self._portals.get(name)
        if portal is None:
            raise _Failed("34000")
        if not portal.query:
            self._waiting.append(EMPTY)
            return
        if portal.rest is None:
            self._check(portal.query)
            _, portal.rest, tag = self._run(portal.query, portal.values)
            if not portal.query.startswith("SELECT"):
                self._waiting.append(complete(tag))
                return
        rows = portal.rest[:limit] if limit > 0 else portal.rest
        portal.rest = portal.rest[len(rows) :]
        self._waiting += rows
        self._waiting.append(SUSPENDED if limit > 0 and len(rows) == limit else complete(f"SELECT {len(rows)}"))
