"""What one unit of work leaves behind for the rules that compare its statements.

Recording is for every statement and must cost nearly nothing: a template seen once costs a dictionary entry and a
reference. Values are decoded when a template comes a second time, columns of results when a unit closes that has
repeats. All of it is bounded in bytes by the constants below, whatever the traffic; what goes beyond is counted only.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from math import isfinite
from typing import Final, NamedTuple, final
from uuid import UUID

from pgloupe_rules.tags import trace_id
from pgloupe_rules.types import Literal, Outcome, Severity, Statement, Status, Template, Value

MAX_SAMPLE_VALUE_CHARS: Final = 200
MAX_TEMPLATES: Final = 512
"""Templates counted in one unit of work. When there are more, those seen once are forgotten."""
MAX_RUNS: Final = 192
"""Runs of one template whose values are kept; later ones are only counted."""
MAX_STATE_BYTES: Final = 64 * 1024
"""What templates, runs and samples of one unit of work may weigh, roughly."""
MAX_RESULT_BYTES: Final = 64 * 1024
"""What the results kept as possible parents may weigh, roughly. Of a template that came again and again the last results
are kept, and its earlier ones are the first to go: the list that a loop goes over came once."""
MAX_RESULT_ROW_BYTES: Final = 17_000
"""What one result holds of its rows at most; whoever made the outcome sees to it."""
MAX_EAGER_BYTES: Final = 4096
"""A statement that holds more is decoded at once, so that it can be let go."""
MAX_VALUE_CHARS: Final = 96
"""A longer value is kept as its hash: it is compared, never shown."""
MAX_LIST_ITEMS: Final = 16
"""An IN list with more elements is kept as its hash and length."""
MAX_RUN_BYTES: Final = 4096
"""Values of one run that weigh more are not kept."""
MAX_SAMPLES: Final = 3
MAX_SAMPLE_CHARS: Final = 2000
MAX_SAMPLE_BYTES: Final = 12_000
"""What the samples of one unit of work may weigh; later ones are cut short."""
SHORT_SAMPLE_CHARS: Final = 120
MAX_CURSORS: Final = 16
"""Cursors whose queries are known, the last ones declared, and as many more whose rows were kept."""
MAX_CURSOR_CHARS: Final = 3000
"""The query of a longer DECLARE is not known."""
MAX_FETCH_CHARS: Final = 300
MAX_WRITES: Final = 96
"""Statements that may have written, kept to tell what happened between two reads: the last ones. Those of one template in
one transaction with no read between them are one."""
FEW: Final = 16
CROWD: Final = 32
"""Templates that one loop seldom has."""
MAX_UNDONE: Final = 1024
"""Transactions of which it is kept that they were rolled back."""

_RESULT_WEIGHT: Final = 1100
_ENTRY_WEIGHT: Final = 700
_RUN_WEIGHT: Final = 200
_LITERAL_WEIGHT: Final = 110

_VERB: Final = re.compile(r"[\s(]*([A-Za-z]+)")
_DECLARE: Final = re.compile(
    r'\s*DECLARE\s+("(?:[^"]|"")+"|\w+)(?:\s+(?:BINARY|INSENSITIVE|ASENSITIVE|NO|SCROLL))*\s+CURSOR'
    r"(?:\s+(?:WITH|WITHOUT)\s+HOLD)?\s+FOR\s+(.*)",
    re.IGNORECASE | re.DOTALL,
)
_CURSOR_OF_DECLARE: Final = re.compile(r'\s*DECLARE\s+("(?:[^"]|"")+"|\w+)', re.IGNORECASE)
_CURSOR_OF_FETCH: Final = re.compile(
    r'.*?(?:\bFROM|\bIN|\bFETCH)\s+("(?:[^"]|"")+"|\w+)\s*$', re.IGNORECASE | re.DOTALL
)

_ROLLBACK_PART: Final = re.compile(r"ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO\b", re.IGNORECASE)
_DONE: Final = frozenset({Status.COMPLETE, Status.SUSPENDED})
_CONTROL: Final = frozenset(
    {"COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "SET", "RESET", "SHOW", "DISCARD", "DEALLOCATE"}
)
_READS: Final = frozenset({"SELECT", "FETCH", "MOVE", "DECLARE", "CLOSE", "EXPLAIN", "LISTEN", "UNLISTEN"})
ROW_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
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


def _goes_on(text: str) -> bool:
    """Whether a ROLLBACK leaves its transaction open: it goes back to a savepoint, or chains."""
    return _ROLLBACK_PART.match(text) is not None


def sample_of(statement: Statement) -> str:
    """The statement as sent, cut where it is long; behind it, in a comment, the values of its parameters."""
    text = statement.query_string[:MAX_SAMPLE_CHARS]
    if statement.simple:
        return text
    values = statement.values()
    shown = ", ".join(f"${number} = {str(value)[:MAX_SAMPLE_VALUE_CHARS]}" for number, value in enumerate(values, 1))
    return f"{text} -- {shown[:MAX_SAMPLE_CHARS]}" if shown else text


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
        return tuple([kept(plain(item)) for item in value])
    if isinstance(value, (str, bytes)) and len(value) > MAX_VALUE_CHARS:
        return f"\0{len(value)}:{hash(value)}"
    return value


def whole(value: Value) -> bool:
    """Whether `kept` left a value as it was; no for a few that look as if it had not. No text of PostgreSQL has a null."""
    if isinstance(value, tuple):
        mark = len(value) == 3 and value[0] == "list" and isinstance(value[1], int) and isinstance(value[2], int)
        return not mark and all(whole(item) for item in value)
    return not (isinstance(value, str) and value[:1] == "\0")


_DECIMAL: Final = re.compile(r"-?[0-9]{1,30}\.[0-9]{1,30}")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)


def plain(value: Value) -> Value:
    """The form in which numbers and moments are equal however they were written: a driver sends 120.50 as the untyped text
    120.5, and a timestamp as ISO 8601."""
    if isinstance(value, (int, UUID)):
        return value
    if isinstance(value, str):
        if not value or not ("0" <= value[0] <= "9" or value[0] == "-") or len(value) > 40:
            return value
        if _DECIMAL.fullmatch(value):
            return _number(Decimal(value))
        return _moment(value) if _MOMENT.fullmatch(value) else value
    if isinstance(value, Decimal):
        return _number(value) if value.is_finite() else value
    if isinstance(value, float):
        return _number(Decimal(repr(value))) if isfinite(value) else value
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
    return value


def _number(value: Decimal) -> Value:
    return int(value) if -18 < value.adjusted() < 18 and value == value.to_integral_value() else value.normalize()


def _moment(text: str) -> Value:
    try:
        return date.fromisoformat(text) if len(text) == 10 else plain(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return text


def single(value: Value) -> Value:
    """The element of a list of one, any other value as it is: `IN ($1)` with one element is `= $1`."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def weight_of(value: Value) -> int:
    """Bytes that a kept value takes, roughly."""
    if isinstance(value, int):
        return 32
    if isinstance(value, (str, bytes)):
        return 60 + (len(value) if isinstance(value, bytes) or value.isascii() else 4 * len(value))
    if isinstance(value, tuple):
        return 56 + sum([8 + weight_of(item) for item in value])
    return 80


class Write(NamedTuple):
    """A statement that may have written."""

    sequence: int
    transaction: int
    verb: str
    template: Template


@final
class Run:
    """One run of a repeated template."""

    __slots__ = (
        "_sent",
        "_statement",
        "_values",
        "opener",
        "rows",
        "sequence",
        "server_s",
        "trace",
        "transaction",
        "unknown",
    )

    def __init__(self, outcome: Outcome, opener: str) -> None:
        statement = outcome.statement
        self._statement: Statement | None = statement
        self._values: tuple[Value, ...] = ()
        self._sent: tuple[Value, ...] = ()
        self.sequence: float = statement.sequence
        """When it was asked, as a place in the order of statements."""
        self.transaction = statement.transaction
        self.trace = trace_id(statement.tags) if statement.tags else ""
        """What names the request in the statement's tags."""
        self.opener = opener
        """Fingerprint of the first statement of its transaction, "" outside of one."""
        self.rows = outcome.rows
        self.server_s = outcome.server_s
        self.unknown = False
        """It had parameters, and they are not known. Known when the values are."""

    def values(self) -> tuple[Value, ...]:
        """Values of the placeholders, large ones replaced; the statement is let go. Empty where they are not known."""
        statement = self._statement
        if statement is not None:
            given = statement.values()
            self._values = tuple([kept(plain(value)) for value in given])
            self._statement = None
            if self._values != given:
                self._sent = tuple(
                    [sent if whole(small) else small for sent, small in zip(given, self._values, strict=True)]
                )
            self.unknown = not self._values and statement.template.placeholders > 0
            if len(self._values) > FEW and weight_of(self._values) > MAX_RUN_BYTES:
                self._values = self._sent = ()
                self.unknown = True
        return self._values

    def sent(self) -> tuple[Value, ...]:
        """The values in the form in which they were sent, `1.50` as text and a moment with its zone; large ones replaced, see
        `whole`."""
        return self.values() if not self._sent else self._sent


@final
class Repeats:
    """The runs of one template in one unit of work."""

    __slots__ = (
        "batch",
        "count",
        "first",
        "form",
        "last_counted",
        "last_kept",
        "runs",
        "samples",
        "sequence",
        "template",
        "verb",
        "weight",
    )

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
        self.first: Statement | None = None
        """The first run's statement, until there is a second."""
        self.form = ""
        """The text of the first run without comments; "" where there was no second, and where it is long."""
        self.samples: list[str] = []
        self.weight = 0
        """Its share of the record's bytes."""


@final
class Record:
    """What a unit of work ran and what came back. One for all the rules that compare its statements."""

    __slots__ = (
        "_begin_batch",
        "_bytes",
        "_cursors",
        "_entered",
        "_fetched",
        "_full",
        "_opener",
        "_overflowing",
        "_result_bytes",
        "_results",
        "_sample_bytes",
        "_transaction",
        "database",
        "definitions",
        "evicted",
        "read_since_write",
        "repeats",
        "undone",
        "writes",
        "writes_lost",
    )

    def __init__(self, database: str = "") -> None:
        self.database = database
        self.repeats: dict[str, Repeats] = {}
        """By fingerprint: what reads and what writes."""
        self.evicted: set[str] = set()
        """Fingerprints of templates of which results were let go; of hostile numbers of them only some."""
        self._cursors: dict[str, Template] = {}
        """By name, the DECLARE."""
        self._fetched: dict[str, Template] = {}
        """By the fingerprint of a DECLARE, its query: of those whose rows were kept."""
        self.writes: deque[Write] = deque(maxlen=MAX_WRITES)
        self.writes_lost = 0
        """Sequence number of the last write that is no longer among `writes`."""
        self.read_since_write = False
        self.definitions = False
        """There was DDL: the catalogs have changed."""
        self.undone: set[int] = set()
        """Numbers of the transactions whose writes were rolled back; of very many only the first."""
        self._results: dict[str, deque[Outcome]] = {}
        self._result_bytes = 0
        self._bytes = 0
        self._sample_bytes = 0
        self._full = False
        self._overflowing = False
        self._entered = 0
        self._transaction = 0
        self._opener = ""
        self._begin_batch = 0

    def observe(self, outcome: Outcome) -> None:
        """Take an outcome in."""
        if outcome.status not in _DONE:
            return
        statement = outcome.statement
        verb = verb_of(outcome)
        counted = False
        if verb == "SELECT":
            counted = True
            self.read_since_write = True
        elif verb in {"BEGIN", "START"}:
            if statement.serial:
                self._begin_batch = statement.batch
            return
        elif verb in _CONTROL:
            if verb == "ROLLBACK" and not _goes_on(statement.template.text):
                self.undo(statement.transaction)
            return
        elif verb == "DECLARE":
            self._declare(statement)
        elif verb not in _READS:
            self._write(statement, verb)
            counted = verb in ROW_WRITES
        if outcome.rows and outcome.columns:
            self._keep(outcome)
        if statement.transaction != self._transaction:
            self._transaction = statement.transaction
            self._opener = statement.template.fingerprint if self._transaction else ""
        if counted:
            self._count(outcome, statement, verb)

    @property
    def crowded(self) -> bool:
        """It is full, and not of one loop: of later statements too little would be kept to judge them."""
        return self._overflowing and self._entered > CROWD

    def undo(self, transaction: int) -> None:
        """What the transaction wrote was taken back. One that only read is no test for that: drivers and pools end those of
        ordinary requests by ROLLBACK."""
        if len(self.undone) < MAX_UNDONE and any(write.transaction == transaction for write in self.writes):
            self.undone.add(transaction)

    def severity(self, runs: Iterable[Run]) -> Severity:
        """That of a finding which says no more than that the runs were in one transaction. If this was rolled back it was
        a test's: what it set up, and several requests that it made."""
        return Severity.INFO if all(run.transaction in self.undone for run in runs) else Severity.WARNING

    def _write(self, statement: Statement, verb: str) -> None:
        writes = self.writes
        if verb in DEFINITIONS:
            self.definitions = True
        if writes and not self.read_since_write:
            last = writes[-1]
            if (
                last.template.fingerprint == statement.template.fingerprint
                and last.transaction == statement.transaction
            ):
                return
        if len(writes) == MAX_WRITES:
            self.writes_lost = writes[0].sequence
        writes.append(Write(statement.sequence, statement.transaction, verb, statement.template))
        self.read_since_write = False

    def _count(self, outcome: Outcome, statement: Statement, verb: str) -> None:
        template = statement.template
        repeats = self.repeats.get(template.fingerprint)
        if repeats is None:
            if len(self.repeats) >= MAX_TEMPLATES:
                self._forget()
            repeats = self.repeats[template.fingerprint] = Repeats(template, verb)
            self._entered += 1
            self._charge(repeats, _ENTRY_WEIGHT + len(template.text) + min(held_by(statement), MAX_EAGER_BYTES))
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
                    repeats.first = None
            return
        repeats.batch = batch
        repeats.last_counted = repeats.last_kept = False
        if not statement.serial and not (batch and batch == self._begin_batch):
            return
        repeats.count += 1
        repeats.last_counted = True
        runs = repeats.runs
        if len(repeats.samples) < MAX_SAMPLES:
            self._sample(repeats, statement)
        if len(runs) >= (FEW if self._full else MAX_RUNS):
            self._overflowing = True
            return
        run = Run(outcome, self._opener)
        if runs:
            if len(runs) == 1:
                runs[0].values()
            self._charge(repeats, _RUN_WEIGHT + weight_of(run.values()))
        elif held_by(statement) > MAX_EAGER_BYTES:
            run.values()
        runs.append(run)
        repeats.last_kept = True
        if self._bytes > MAX_STATE_BYTES:
            self._shrink(repeats)

    def _charge(self, repeats: Repeats, weight: int) -> None:
        repeats.weight += weight
        self._bytes += weight

    def _sample(self, repeats: Repeats, statement: Statement) -> None:
        """Samples are written when a template comes a second time."""
        if not repeats.samples and repeats.first is None and repeats.count < 2:
            if held_by(statement) <= MAX_EAGER_BYTES:
                repeats.first = statement
                return
        elif repeats.first is not None:
            first, repeats.first = repeats.first, None
            self._add_sample(repeats, first)
            if len(first.recognised.bare) <= MAX_EAGER_BYTES:
                repeats.form = first.recognised.bare
                self._charge(repeats, len(repeats.form))
        self._add_sample(repeats, statement)

    def _add_sample(self, repeats: Repeats, statement: Statement) -> None:
        sample = sample_of(statement)
        if self._sample_bytes + len(sample) > MAX_SAMPLE_BYTES or not sample.isascii():
            sample = sample[:SHORT_SAMPLE_CHARS]
        weight = weight_of(sample)
        self._sample_bytes += weight
        self._charge(repeats, weight)
        repeats.samples.append(sample)

    def _forget(self) -> None:
        """Let those seen once go; where everything repeats the oldest: a dictionary keeps the order of insertion."""
        for name in [name for name, repeats in self.repeats.items() if repeats.count < 2]:
            self._bytes -= self.repeats.pop(name).weight
        if len(self.repeats) >= MAX_TEMPLATES:
            self._bytes -= self.repeats.pop(next(iter(self.repeats))).weight

    def _shrink(self, current: Repeats) -> None:
        for name in [name for name, repeats in self.repeats.items() if repeats.count < 2 and repeats is not current]:
            self._bytes -= self.repeats.pop(name).weight
        while self._bytes > MAX_STATE_BYTES * 3 // 4 and len(self.repeats) > FEW:
            self._bytes -= self.repeats.pop(next(iter(self.repeats))).weight
        self._full = self._bytes > MAX_STATE_BYTES * 3 // 4

    # --- results ---

    def _keep(self, outcome: Outcome) -> None:
        fingerprint = self._source(outcome.statement)
        results = self._results.get(fingerprint)
        if results is None:
            results = self._results[fingerprint] = deque()
        results.append(outcome)
        self._result_bytes += result_weight(outcome)
        if self._result_bytes > MAX_RESULT_BYTES:
            self._evict()

    def _evict(self) -> None:
        """Let the older half of what came again and again go, then the oldest."""
        for fingerprint, results in self._results.items():
            if self._result_bytes <= MAX_RESULT_BYTES * 3 // 4:
                return
            for _ in range(len(results) // 2):
                self._drop(fingerprint, results)
        while self._result_bytes > MAX_RESULT_BYTES * 3 // 4 and self._results:
            fingerprint = next(iter(self._results))
            for outcome in self._results.pop(fingerprint):
                self._result_bytes -= result_weight(outcome)
            self._note_evicted(fingerprint)

    def _drop(self, fingerprint: str, results: deque[Outcome]) -> None:
        self._result_bytes -= result_weight(results.popleft())
        self._note_evicted(fingerprint)

    def _note_evicted(self, fingerprint: str) -> None:
        if len(self.evicted) < MAX_WRITES:
            self.evicted.add(fingerprint)

    def results(self) -> list[tuple[Template, Outcome]]:
        """The results that were kept, in the order of their statements, each behind the query that it came from: for FETCH
        that of its cursor, under the fingerprint of the DECLARE, where it was seen."""
        found = [
            (self._fetched.get(fingerprint, outcome.statement.template), outcome)
            for fingerprint, results in self._results.items()
            for outcome in results
        ]
        found.sort(key=lambda pair: pair[1].statement.sequence)
        return found

    def lists(self) -> list[tuple[Template, Outcome]]:
        """Those of two rows or more."""
        return [pair for pair in self.results() if pair[1].rows > 1]

    def _declare(self, statement: Statement) -> None:
        """Names of cursors are often numbered, and templates have one number for all: the name is in the text."""
        match = _CURSOR_OF_DECLARE.match(statement.recognised.bare[:MAX_FETCH_CHARS])
        if match is None:
            return
        self._cursors.pop(match.group(1), None)
        if len(statement.template.text) > MAX_CURSOR_CHARS:
            return
        if len(self._cursors) >= MAX_CURSORS:
            del self._cursors[next(iter(self._cursors))]
        self._cursors[match.group(1)] = statement.template

    def _source(self, statement: Statement) -> str:
        """The fingerprint of the query that the statement's rows come from."""
        template = statement.template
        text = statement.recognised.bare
        if template.text[:5].upper() != "FETCH" or len(text) > MAX_FETCH_CHARS:
            return template.fingerprint
        match = _CURSOR_OF_FETCH.match(text)
        declared = self._cursors.get(match.group(1)) if match is not None else None
        if declared is None:
            return template.fingerprint
        if declared.fingerprint not in self._fetched:
            query = _DECLARE.match(declared.text)
            if query is None or not self._room_for_cursor():
                return template.fingerprint
            self._fetched[declared.fingerprint] = Template(declared.fingerprint, query.group(2), declared.placeholders)
        return declared.fingerprint

    def _room_for_cursor(self) -> bool:
        if len(self._fetched) >= MAX_CURSORS:
            for fingerprint in [known for known in self._fetched if known not in self._results]:
                del self._fetched[fingerprint]
        return len(self._fetched) < MAX_CURSORS


def held_by(statement: Statement) -> int:
    """Bytes that a statement holds, roughly: its text or its Bind message, and the literals in the text."""
    weight = statement.size_bytes
    for slot in statement.recognised.slots:
        if isinstance(slot, tuple):
            weight += _LITERAL_WEIGHT * len(slot)
        elif isinstance(slot, Literal):
            weight += _LITERAL_WEIGHT
    return weight


def result_weight(outcome: Outcome) -> int:
    """Bytes that a kept outcome takes, roughly."""
    rows = min(outcome.bytes, MAX_RESULT_ROW_BYTES)
    return _RESULT_WEIGHT + rows + held_by(outcome.statement) + 40 * len(outcome.columns)
