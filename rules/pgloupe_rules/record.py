"""What one unit of work leaves behind for the rules that compare its statements.

Recording is for every statement and must cost nearly nothing: a template seen once costs a dictionary entry and a
reference. Values are decoded when a template comes a second time, columns of results when a unit closes that has
repeats. All of it is bounded by the constants below, whatever the traffic.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from pgloupe_rules.types import Outcome, Statement, Status, Template, Value

MAX_SAMPLE_VALUE_CHARS: Final = 200


def sample_of(statement: Statement) -> str:
    """The statement as sent, cut where it is long; behind it, in a comment, the values of its parameters."""
    text = statement.query_string[:MAX_SAMPLE_CHARS]
    if statement.simple:
        return text
    values = statement.values()
    shown = ", ".join(f"${number} = {str(value)[:MAX_SAMPLE_VALUE_CHARS]}" for number, value in enumerate(values, 1))
    return f"{text} -- {shown[:MAX_SAMPLE_CHARS]}" if shown else text


MAX_TEMPLATES: Final = 512
"""Templates counted in one unit of work. When there are more, those seen once are forgotten."""
MAX_RUNS: Final = 512
"""Runs of one template whose values are kept; later ones are only counted."""
MAX_RUNS_IN_ALL: Final = 4096
"""The same over all templates of a unit of work."""
MAX_LISTS: Final = 48
"""Results of two or more rows kept as possible parents, the last ones."""
MAX_SINGLES: Final = 512
"""Results of one row kept: together they may be the parent of a nested N+1."""
MAX_VALUE_CHARS: Final = 256
"""A longer value is kept as its hash: it is compared, never shown."""
MAX_LIST_ITEMS: Final = 16
"""An IN list with more elements is kept as its hash and length."""
MAX_SAMPLES: Final = 3
MAX_SAMPLE_CHARS: Final = 2000
MAX_CURSORS: Final = 64
MAX_WRITES: Final = 1024
"""Statements that may have written, kept to tell what happened between two reads: the last ones."""

_VERB: Final = re.compile(r"[\s(]*([A-Za-z]+)")
_DECLARE: Final = re.compile(
    r'\s*DECLARE\s+("(?:[^"]|"")+"|\w+)(?:\s+(?:BINARY|INSENSITIVE|ASENSITIVE|NO|SCROLL))*\s+CURSOR'
    r"(?:\s+(?:WITH|WITHOUT)\s+HOLD)?\s+FOR\s+(.*)",
    re.IGNORECASE | re.DOTALL,
)
_CURSOR_OF_FETCH: Final = re.compile(
    r'.*?(?:\bFROM|\bIN|\bFETCH)\s+("(?:[^"]|"")+"|\w+)\s*$', re.IGNORECASE | re.DOTALL
)

_DONE: Final = frozenset({Status.COMPLETE, Status.SUSPENDED})
_CONTROL: Final = frozenset(
    {"COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "SET", "RESET", "SHOW", "DISCARD", "DEALLOCATE"}
)
_READS: Final = frozenset({"SELECT", "FETCH", "MOVE", "DECLARE", "CLOSE", "EXPLAIN", "LISTEN", "UNLISTEN"})
DEFINITIONS: Final = frozenset({"CREATE", "ALTER", "DROP", "TRUNCATE"})
"""Verbs of DDL. In one transaction with it, row-by-row work is a migration's."""


def verb_of(outcome: Outcome) -> str:
    """The command in upper case: from the command tag, which knows what a WITH did, or from the text."""
    tag = outcome.command_tag
    if tag:
        return tag.partition(" ")[0]
    match = _VERB.match(outcome.statement.template.text)
    if match is None:
        return ""
    verb = match.group(1).upper()
    return "SELECT" if verb in {"WITH", "VALUES", "TABLE"} else verb


def is_catalog(tables: Sequence[str]) -> bool:
    """Whether any of the tables belongs to a system catalog: tools and ORMs ask those table by table."""
    for table in tables:
        schema, _, name = table.rpartition(".")
        if schema in {"pg_catalog", "information_schema", "pg_toast"} or (not schema and name.startswith("pg_")):
            return True
    return False


def kept(value: Value) -> Value:
    """The value, or for a large one something small that is equal for equal values."""
    if isinstance(value, tuple):
        if len(value) > MAX_LIST_ITEMS:
            return ("list", len(value), hash(value))
        return tuple([kept(item) for item in value])
    if isinstance(value, (str, bytes)) and len(value) > MAX_VALUE_CHARS:
        return ("long", len(value), hash(value))
    return value


def single(value: Value) -> Value:
    """The element of a list of one, any other value as it is: `IN ($1)` with one element is `= $1`."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


class Write(NamedTuple):
    """A statement that may have written."""

    sequence: int
    transaction: int
    verb: str
    template: Template


@final
class Run:
    """One run of a repeated template."""

    __slots__ = ("_statement", "_values", "opener", "rows", "sequence", "server_s", "transaction")

    def __init__(self, outcome: Outcome, opener: str) -> None:
        statement = outcome.statement
        self._statement: Statement | None = statement
        self._values: tuple[Value, ...] = ()
        self.sequence = statement.sequence
        self.transaction = statement.transaction
        self.opener = opener
        """Fingerprint of the first statement of its transaction, "" outside of one."""
        self.rows = outcome.rows
        self.server_s = outcome.server_s

    def values(self) -> tuple[Value, ...]:
        """Values of the placeholders, large ones replaced; the statement is let go."""
        statement = self._statement
        if statement is not None:
            self._values = tuple([kept(value) for value in statement.values()])
            self._statement = None
        return self._values


@final
class Repeats:
    """The runs of one template in one unit of work."""

    __slots__ = ("batch", "count", "last_counted", "last_kept", "runs", "samples", "sequence", "template", "verb")

    def __init__(self, template: Template, verb: str) -> None:
        self.template = template
        self.verb = verb
        self.runs: list[Run] = []
        self.count = 0
        """Serial runs, those that were not kept included."""
        self.batch = 0
        """The batch of the last run."""
        self.last_counted = False
        self.last_kept = False
        self.sequence = 0
        """Number of the last statement: a portal that is fetched on gives another outcome of the same statement."""
        self.samples: list[Statement] = []


@final
class Record:
    """What a unit of work ran and what came back. `observe` is told what it should count."""

    __slots__ = (
        "_begin_batch",
        "_kept_runs",
        "_opener",
        "_transaction",
        "cursors",
        "lists",
        "repeats",
        "singles",
        "writes",
    )

    def __init__(self) -> None:
        self.repeats: dict[str, Repeats] = {}
        self.lists: deque[Outcome] = deque(maxlen=MAX_LISTS)
        self.singles: deque[Outcome] = deque(maxlen=MAX_SINGLES)
        self.cursors: dict[str, Template] = {}
        self.writes: deque[Write] = deque(maxlen=MAX_WRITES)
        self._kept_runs = 0
        self._transaction = 0
        self._opener = ""
        self._begin_batch = 0

    def observe(self, outcome: Outcome, verb: str, counted: bool) -> None:
        """Take an outcome in; `counted` says whether its template's runs are of interest."""
        status = outcome.status
        statement = outcome.statement
        if status not in _DONE:
            return
        if verb == "SELECT":
            pass
        elif verb in {"BEGIN", "START"}:
            if statement.serial:
                self._begin_batch = statement.batch
            return
        elif verb in _CONTROL:
            return
        elif verb == "DECLARE":
            self._declare(statement.template)
        elif verb not in _READS:
            self.writes.append(Write(statement.sequence, statement.transaction, verb, statement.template))
        if outcome.rows and outcome.columns:
            if outcome.rows > 1:
                self.lists.append(outcome)
            else:
                self.singles.append(outcome)
        if statement.transaction != self._transaction:
            self._transaction = statement.transaction
            self._opener = statement.template.fingerprint if self._transaction else ""
        if counted:
            self._count(outcome, statement, verb)

    def _count(self, outcome: Outcome, statement: Statement, verb: str) -> None:
        template = statement.template
        repeats = self.repeats.get(template.fingerprint)
        if repeats is None:
            if len(self.repeats) >= MAX_TEMPLATES:
                self._forget()
            repeats = self.repeats[template.fingerprint] = Repeats(template, verb)
        if statement.sequence == repeats.sequence:
            return
        repeats.sequence = statement.sequence
        batch = statement.batch
        if batch and batch == repeats.batch:
            # Several of one template in one batch: the client did not wait between them, so the first does not count.
            if repeats.last_counted:
                repeats.last_counted = False
                repeats.count -= 1
                if repeats.last_kept:
                    repeats.last_kept = False
                    repeats.runs.pop()
                    self._kept_runs -= 1
            return
        repeats.batch = batch
        repeats.last_counted = repeats.last_kept = False
        if not statement.serial and not (batch and batch == self._begin_batch):
            return
        repeats.count += 1
        repeats.last_counted = True
        if len(repeats.samples) < MAX_SAMPLES:
            repeats.samples.append(statement)
        runs = repeats.runs
        if len(runs) >= MAX_RUNS or self._kept_runs >= MAX_RUNS_IN_ALL:
            return
        run = Run(outcome, self._opener)
        if runs:
            run.values()
            if len(runs) == 1:
                runs[0].values()
        runs.append(run)
        repeats.last_kept = True
        self._kept_runs += 1

    def _forget(self) -> None:
        once = [name for name, repeats in self.repeats.items() if repeats.count < 2]
        for name in once:
            self._kept_runs -= len(self.repeats.pop(name).runs)
        if len(self.repeats) >= MAX_TEMPLATES:
            # Everything repeats. Let the oldest go; a dictionary keeps the order of insertion.
            name = next(iter(self.repeats))
            self._kept_runs -= len(self.repeats.pop(name).runs)

    def _declare(self, template: Template) -> None:
        match = _DECLARE.match(template.text)
        if match is not None and len(self.cursors) < MAX_CURSORS:
            self.cursors[match.group(1)] = Template(template.fingerprint, match.group(2), template.placeholders)

    def source(self, template: Template) -> Template:
        """The query that a result came from: for FETCH that of its cursor, under the fingerprint of the DECLARE, where it
        was seen."""
        if template.text[:5].upper() != "FETCH":
            return template
        match = _CURSOR_OF_FETCH.match(template.text)
        return template if match is None else self.cursors.get(match.group(1), template)
