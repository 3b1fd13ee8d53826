"""How many queries a unit of work needed: what a budget is compared with.

A query is a statement for the application's data that the client sent: SELECT, INSERT, UPDATE, DELETE, MERGE, COPY, CALL,
FETCH, DDL and so on, also one that failed. Statements of one template that were sent without waiting for each other
(`executemany`, a pipeline) are one query. Counted beside the queries, not among them, is what drivers and pools say of
their own accord and what an application does not write as a query:

- transactions: BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE and their like;
- the session: SET, RESET, SHOW, DISCARD, PREPARE, DEALLOCATE, CLOSE, LISTEN, UNLISTEN;
- a SELECT without a table that calls nothing, or only what tells about the session: `SELECT 1`, `SELECT version()`;
- questions to the system catalogs alone.

So the number is that of Django's assertNumQueries without its savepoints, and does not change with the driver.
"""

from __future__ import annotations

import re
from typing import Final, final

from pgloupe_rules.record import is_catalog
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Kind, Outcome, Status, Template
from pgloupe_rules.unit_of_work import trace_id
from pgloupe_rules.words import NO_QUERIES

MAX_TEMPLATES: Final = 512
"""Templates that are told apart in one unit of work; statements of further ones are counted in the sum alone."""
MAX_JUDGED: Final = 4096
MAX_TRACES: Final = 64
"""Traces that are told apart in one unit of work; what further ones bring is counted for the last of these."""

_VERB: Final = re.compile(r"[\s(;]*([A-Za-z]+)")
_ABOUT_SESSION: Final = frozenset(
    [
        "version",
        "current_schema",
        "current_schemas",
        "current_database",
        "current_catalog",
        "current_user",
        "session_user",
        "current_role",
        "user",
        "system_user",
        "current_setting",
        "set_config",
        "pg_backend_pid",
        "pg_is_in_recovery",
        "pg_advisory_unlock_all",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
    ]
)
_NOT_RUN: Final = frozenset({Status.EMPTY, Status.SKIPPED})


def is_query(template: Template) -> bool:
    """Whether statements of this template are queries, as the head of this module has it."""
    match = _VERB.match(template.text)
    if match is not None and match.group(1).upper() in NO_QUERIES:
        return False
    shape = shape_of(template)
    if not shape.parsed or shape.kind is not Kind.SELECT:
        return True
    if shape.tables:
        return not all(is_catalog((table,)) for table in shape.tables)
    return not _ABOUT_SESSION.issuperset(name.removeprefix("pg_catalog.") for name in shape.functions)


@final
class Calls:
    """The queries of one template."""

    __slots__ = ("count", "server_s", "template")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.count = 0
        self.server_s = 0.0


@final
class Part:
    """The queries of one trace within a unit of work."""

    __slots__ = ("calls", "others", "queries", "server_s")

    def __init__(self) -> None:
        self.queries = 0
        self.others = 0
        """Statements that are no queries."""
        self.server_s = 0.0
        """Server time of the queries."""
        self.calls: dict[str, Calls] = {}
        """By fingerprint, in order of appearance."""


@final
class Tally:
    """The queries of one unit of work, by trace. A statement without a trace belongs to the trace before it.

    A unit of work is mostly one trace. It has several where each statement names a trace of its own, and where a
    connection of a pool was used for a statement of one request and then for one of another: which of the two it is
    shows only when the traces of other sessions are known.
    """

    __slots__ = ("_batch", "_in_batch", "_judged", "_part", "_templates", "parts")

    def __init__(self, judged: dict[str, bool]) -> None:
        """`judged` is a memo of `is_query` by fingerprint that the tallies of all sessions share."""
        self._judged = judged
        self._batch = -1
        self._in_batch: set[str] = set()
        self._templates = 0
        self._part = Part()
        self.parts: dict[str, Part] = {"": self._part}
        """By trace; "" is what came before any."""

    def observe(self, outcome: Outcome) -> None:
        """Take an outcome in. Outcomes come in order."""
        if outcome.status in _NOT_RUN:
            return
        statement = outcome.statement
        if statement.tags:
            self._enter(trace_id(statement.tags))
        part = self._part
        template = statement.template
        fingerprint = template.fingerprint
        query = self._judged.get(fingerprint)
        if query is None:
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            query = self._judged[fingerprint] = is_query(template)
        if not query:
            part.others += 1
            return
        part.server_s += outcome.server_s
        calls = part.calls.get(fingerprint)
        if calls is None and self._templates < MAX_TEMPLATES:
            self._templates += 1
            calls = part.calls[fingerprint] = Calls(template)
        if calls is not None:
            calls.server_s += outcome.server_s
        if statement.batch != self._batch:
            self._batch = statement.batch
            self._in_batch.clear()
        elif fingerprint in self._in_batch:
            return
        part.queries += 1
        if calls is not None:
            self._in_batch.add(fingerprint)
            calls.count += 1

    def _enter(self, trace: str) -> None:
        """What follows belongs to this trace."""
        if not trace:
            return
        known = self.parts.get(trace)
        if known is None and len(self.parts) < MAX_TRACES:
            known = self.parts[trace] = Part()
        if known is not None:
            self._part = known
