"""The vocabulary that the wire and the rules share.

Whoever feeds the rules (the wire, a log file, a table in a test) makes `Statement` and `Outcome` objects; the rules
give back `Decision` and `Finding`. Nothing here knows sockets, bytes of the protocol or the clock: times are floats in
seconds of any monotonic clock that the caller holds to.

Two things are lazy because most statements never need them: the `Shape` of a template (a parse by sqlglot, about a
millisecond) and the decoded values of parameters and result columns. A rule asks for values only when a template
repeats, so the common statement costs a few attribute stores.

A `Value` is comparable: the same number, uuid, text or timestamp is equal and hashes equally however it travelled
(text or binary, int2 or int8, literal or parameter). An IN list is a tuple of values behind one placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

Value: TypeAlias = Any
"""None, bool, int, Decimal, float, str, bytes, UUID, date, datetime … or a tuple of them; always hashable."""

NO_TAGS: Final[Mapping[str, str]] = {}

_INTEGER: Final = re.compile(r"-?[1-9][0-9]{0,18}|0")
_UUID: Final = re.compile(r"\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?")
_WRITTEN: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class WrittenUUID(UUID):
    """A uuid that came as text in another form than PostgreSQL writes, an MD5 sum for example. Equal to the uuid."""

    __slots__ = ("text",)
    text: str
    """As it was sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        object.__setattr__(self, "text", text)  # a UUID lets nobody set its attributes


def comparable(value: Any) -> Value:
    """The form in which a decoded value is compared and hashed.

    Drivers send numbers and uuids as untyped text, so text that is the canonical form of an integer or of a uuid becomes
    one; that holds for every text alike, so equal texts stay equal. Booleans become `t` or `f`, since True would be 1.
    """
    if isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value)
        if 32 <= len(value) <= 38:
            if _WRITTEN.fullmatch(value):
                return UUID(value)
            if _UUID.fullmatch(value):
                return WrittenUUID(value)
        return value
    if value is True:
        return "t"
    if value is False:
        return "f"
    if isinstance(value, (list, tuple)):
        return tuple(comparable(item) for item in value)
    if isinstance(value, (dict, set, bytearray)):
        return repr(value)
    return value


class Kind(StrEnum):
    """What a statement does, by its first keyword and, for WITH, by its body."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    COPY = "copy"
    FETCH = "fetch"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    """SAVEPOINT, RELEASE and ROLLBACK TO."""
    SET = "set"
    """SET, RESET and DISCARD."""
    SHOW = "show"
    DDL = "ddl"
    UTILITY = "utility"
    """Anything else that PostgreSQL calls a utility command: VACUUM, LISTEN, LOCK, EXPLAIN, CALL, DO …"""
    UNKNOWN = "unknown"


WRITES: Final = frozenset({Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE})


@dataclass(frozen=True, slots=True)
class Predicate:
    """`column operator $placeholder` found in a WHERE, ON or HAVING of a template."""

    placeholder: int
    """Number of the template's placeholder, from 1."""
    column: str
    """Unquoted column name, without its table."""
    table: str | None
    """Unquoted table name behind the column's qualifier, or the only table in scope; None where it is not certain."""
    operator: str
    """`=`, `<`, `in`, `= any`, `like` …, in lower case."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one parse of a template tells. `parsed` is False where the parser did not understand it: then `kind` is by
    the first keyword and the rest is empty, and nobody may conclude anything from what is absent."""

    kind: Kind
    parsed: bool = False
    tables: tuple[str, ...] = ()
    """Every table read or written, in order of appearance, each once: `name` or `schema.name`, unquoted; no CTEs."""
    written: tuple[str, ...] = ()
    """The tables that an INSERT, UPDATE, DELETE, MERGE, COPY FROM or TRUNCATE names as its target."""
    functions: tuple[str, ...] = ()
    """Lower-case names of the functions called, `schema.name` where qualified; keyword functions such as
    current_timestamp and current_user included."""
    predicates: tuple[Predicate, ...] = ()
    read_only: bool = False
    """A SELECT, VALUES or TABLE that surely writes nothing: no FOR UPDATE/SHARE, no INTO, no data-modifying CTE. Functions
    that it calls may still write: see `functions`."""
    aggregate: bool = False
    """The outer SELECT list aggregates (count, sum …) without GROUP BY."""
    limited: bool = False
    """The outer SELECT has LIMIT or FETCH FIRST."""
    joined: bool = False
    """More than one table in FROM."""


class Template:
    """Normalised SQL that all the forms of one statement share.

    `text` has each literal and parameter replaced by `$1`, `$2` … in order of appearance; `fingerprint` is the 64-bit id
    of the statement's meaning in 16 hex digits; `placeholders` is the number of placeholders.
    """

    __slots__ = ("_shape", "fingerprint", "placeholders", "text")

    def __init__(self, fingerprint: str, text: str, placeholders: int) -> None:
        self.fingerprint = fingerprint
        self.text = text
        self.placeholders = placeholders
        self._shape: Shape | None = None

    def shape(self, parse: Callable[[str], Shape]) -> Shape:
        """The shape, parsed by `parse` at the first call and kept."""
        if self._shape is None:
            self._shape = parse(self.text)
        return self._shape

    def __repr__(self) -> str:
        return f"Template({self.fingerprint}, {self.text!r})"


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal of the query string, decoded to a comparable value."""

    value: Value


Slot: TypeAlias = "int | Literal | tuple[int | Literal, ...]"
"""Where a placeholder's value comes from: parameter number `$n` of the Bind message, a literal, or (IN list) several."""


class Recognised:
    """One statement of a query string: its template and where the template's placeholders get their values.

    `bare` is the statement's text without comments and without surrounding white space or `;` (the cache's key is made
    of it); `tags` are those of sqlcommenter comments.
    """

    __slots__ = ("bare", "slots", "tags", "template")

    def __init__(
        self, template: Template, slots: tuple[Slot, ...], bare: str, tags: Mapping[str, str] = NO_TAGS
    ) -> None:
        self.template = template
        self.slots = slots
        self.bare = bare
        self.tags = tags

    def __repr__(self) -> str:
        return f"Recognised({self.template!r}, {self.slots!r})"


class Recogniser(Protocol):
    """Splits a query string into statements and recognises each. Never raises; memoised and bounded inside.

    An empty query string (white space, comments, `;`) gives an empty tuple.
    """

    def __call__(self, query_string: str, /) -> tuple[Recognised, ...]: ...


@dataclass(slots=True)
class SessionInfo:
    """Who is talking. One per connection of a client; the same object for all of its statements."""

    session: int
    """A number that is never used again within one process."""
    database: str = ""
    user: str = ""
    application_name: str = ""
    client: str = ""
    """Address of the client, `host:port`."""
    started_s: float = 0.0


class Statement:
    """One thing that rules judge: one Execute of a portal, or one statement of a simple Query.

    Made when the frontend's message is seen, before any reply.
    """

    __slots__ = (
        "_decode",
        "_values",
        "batch",
        "position",
        "prepared_name",
        "query_string",
        "received_s",
        "recognised",
        "sequence",
        "serial",
        "session",
        "simple",
        "size_bytes",
        "status",
        "transaction",
    )

    def __init__(
        self,
        session: SessionInfo,
        sequence: int,
        recognised: Recognised,
        query_string: str,
        *,
        simple: bool = True,
        prepared_name: str = "",
        decode: Callable[[Statement], tuple[Value, ...]] | None = None,
        received_s: float = 0.0,
        batch: int = 0,
        serial: bool = True,
        status: str = "I",
        transaction: int = 0,
        position: int = 0,
        size_bytes: int = 0,
    ) -> None:
        self.session = session
        self.sequence = sequence
        """Number of the statement in its session, from 1."""
        self.recognised = recognised
        self.query_string = query_string
        """As sent; for a simple Query of several statements the whole of it."""
        self.simple = simple
        """Simple query or extended query."""
        self.prepared_name = prepared_name
        """Name of the prepared statement, "" for the unnamed one and for a simple Query."""
        self._decode = decode
        self._values: tuple[Value, ...] | None = None
        self.received_s = received_s
        """When its last byte came from the frontend."""
        self.batch = batch
        """Statements with one number were sent without waiting for each other's replies: a multi-statement Query, a
        pipeline, executemany. A client that waits gets a new number for each."""
        self.serial = serial
        """The frontend had every earlier reply when it sent this: no other request was outstanding."""
        self.status = status
        """Transaction status when it was sent, as far as known: `I` idle, `T` in a transaction block, `E` failed."""
        self.transaction = transaction
        """Number of the transaction block in its session; 0 outside of one."""
        self.position = position
        """Place within the transaction block, from 1; 0 outside of one."""
        self.size_bytes = size_bytes
        """Memory that its query string or its Bind message takes, roughly."""

    @property
    def template(self) -> Template:
        return self.recognised.template

    @property
    def tags(self) -> Mapping[str, str]:
        return self.recognised.tags

    def values(self) -> tuple[Value, ...]:
        """The value of each placeholder of the template, `$1` first; an IN list is one tuple. Decoded at first call.

        Shorter than `template.placeholders` (empty) where the values could not be known. Never raises.
        """
        if self._values is None:
            self._values = self._decode(self) if self._decode is not None else literal_values(self.recognised.slots)
        return self._values


def literal_values(slots: Sequence[Slot]) -> tuple[Value, ...]:
    """Values of slots that are all literals; an unknown parameter makes the whole unknown: `()`."""
    out: list[Value] = []
    for slot in slots:
        if isinstance(slot, Literal):
            out.append(slot.value)
        elif isinstance(slot, tuple) and all(isinstance(item, Literal) for item in slot):
            out.append(tuple(item.value for item in slot if isinstance(item, Literal)))
        else:
            return ()
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a RowDescription."""

    name: str
    table_oid: int = 0
    """OID of the table it comes from, 0 if it is no simple column."""
    attribute: int = 0
    """Attribute number in that table, 0 if it is no simple column."""
    type_oid: int = 0


class Status(StrEnum):
    """How a statement ended."""

    COMPLETE = "complete"
    SUSPENDED = "suspended"
    """Execute with a row limit: more rows wait in the portal."""
    EMPTY = "empty"
    ERROR = "error"
    SKIPPED = "skipped"
    """Sent, but the server skipped it because of an earlier error in its batch."""
    LOST = "lost"
    """The session ended before the reply was complete: nobody knows what happened."""


class Outcome:
    """What became of a statement. Made when its last reply was seen."""

    __slots__ = (
        "_column_values",
        "_decode",
        "_decoded",
        "bytes",
        "cache",
        "cache_rule",
        "columns",
        "command_tag",
        "dispatched_s",
        "finished_s",
        "proxy_s",
        "rows",
        "server_s",
        "sqlstate",
        "statement",
        "status",
    )

    def __init__(
        self,
        statement: Statement,
        status: Status = Status.COMPLETE,
        *,
        rows: int = 0,
        size_bytes: int = 0,
        command_tag: str = "",
        sqlstate: str = "",
        dispatched_s: float = 0.0,
        finished_s: float = 0.0,
        server_s: float = 0.0,
        proxy_s: float = 0.0,
        columns: tuple[Column, ...] = (),
        decode: Callable[[Outcome], tuple[tuple[Value, ...], ...]] | None = None,
        cache: str = "",
        cache_rule: str = "",
    ) -> None:
        self.statement = statement
        self.status = status
        self.rows = rows
        """DataRows sent, or the count in the command tag where no row was sent (UPDATE 3, COPY 7)."""
        self.bytes = size_bytes
        """Bytes of the statement's replies."""
        self.command_tag = command_tag
        self.sqlstate = sqlstate
        self.dispatched_s = dispatched_s
        """When the proxy handed it to the server."""
        self.finished_s = finished_s
        """When its last reply came from the server."""
        self.server_s = server_s
        """Time on the server and its network, without the time in which earlier statements of a pipeline ran."""
        self.proxy_s = proxy_s
        """Time that the proxy itself added, both ways."""
        self.columns = columns
        self._decode = decode
        self._decoded = False
        self._column_values: tuple[tuple[Value, ...], ...] = ()
        self.cache = cache
        """`hit`, `miss`, or "" where the cache was not asked."""
        self.cache_rule = cache_rule
        """The rule under which the cache was asked, "" where it was not."""

    def column_values(self) -> tuple[tuple[Value, ...], ...]:
        """One tuple of comparable values for each of `columns`, rows in order, over the first rows of the result
        (bounded in rows and bytes). Empty where nothing was kept. Decoded at first call. Never raises."""
        if not self._decoded:
            self._decoded = True
            if self._decode is not None:
                self._column_values = self._decode(self)
                self._decode = None
        return self._column_values


@dataclass(frozen=True, slots=True)
class Forward:
    """The server answers. What every rule says that has no opinion."""


@dataclass(frozen=True, slots=True)
class Cacheable:
    """The answer may come from the cache and may be stored there, under the configured rule `rule`."""

    rule: str
    ttl_s: float
    tables: tuple[str, ...]
    """The tables whose versions the answer depends on, bare lower-level names as the shape gives them."""
    functions: tuple[str, ...] = ()
    """The functions that it calls, as the shape gives them."""
    max_entry_bytes: int = 1 << 20
    """A larger answer is not stored."""
    stale_s: float = 0.0
    """`stale_while_revalidate`: how long after its `ttl` an answer may still be given while another reader asks for a new
    one."""
    max_rows: int = 0
    """An answer with more rows is not stored; 0 for any number."""
    dry_run: bool = False
    """Look up, compare and count, and let the server answer all the same."""
    key_by_user: bool = True
    """False: users share answers, whoever may read what."""


Decision: TypeAlias = Forward | Cacheable

FORWARD: Final = Forward()


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Confidence(StrEnum):
    PROVEN = "proven"
    LIKELY = "likely"


@dataclass(frozen=True, slots=True)
class Parent:
    """The query that returned the rows."""

    fingerprint: str
    template: str
    tables: tuple[str, ...]
    column: str
    """By its real name where the catalogs are known, else as the result calls it."""
    rows: int
    table: str = ""
    """The table that the column belongs to, where the catalogs are known."""
    output: str = ""
    """What the query's result calls the column."""


@dataclass(frozen=True, slots=True)
class Child:
    """Which placeholder of the repeated template varies, and which column it is compared with."""

    parameter: int
    column: str
    table: str = ""
    """The table that the column belongs to, where the catalogs are known."""
    varying: tuple[int, ...] = ()
    """All placeholders whose values varied over the runs, `parameter` among them."""
    unique: bool = False
    """The catalogs say that the column has each value once."""


class Stands(StrEnum):
    """What a placeholder of the SQL of an advice stands for."""

    KEYS = "keys"
    """An array of all values of one placeholder of the child."""
    KEY = "key"
    """One value of one placeholder of the child, in a list of whole keys."""
    ROOT = "root"
    """The first value of one placeholder of the child: where a tree begins."""
    CHILD = "child"
    """A value of the child that does not vary."""
    PARENT = "parent"
    """A value of the parent."""


class Role(NamedTuple):
    """What a placeholder of the SQL of an advice stands for: which placeholder of which template."""

    stands: Stands
    number: int


@dataclass(frozen=True, slots=True)
class Advice:
    """What to write instead. `kind` is join, any_array, group_by, lateral, batch_write or reuse."""

    kind: str
    sql: str
    text: str
    roles: tuple[Role, ...] = ()
    """Of each placeholder of `sql`, `$1` first; empty where nobody asks."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The values that one loop of reads sent, bounded, from which an example of its advice is made. Nothing of it is
    ever shown but on request."""

    form: str
    """The child as one of its runs was sent, without comments: it tells `5` from `'5'`."""
    numbers: tuple[int, ...]
    """The child's placeholders that are the key."""
    keys: tuple[tuple[Value, ...], ...]
    """The first distinct values of these, in order."""
    distinct: int
    """How many distinct keys were known."""
    more: bool
    """There were runs whose values were not kept."""
    queries: int
    """Runs in all."""
    values: tuple[Value, ...]
    """Of each placeholder of the child; those of the key are of one run."""
    over_parent: bool = False
    """The parent writes nothing, so that it can be run again."""
    parent_form: str = ""
    """As `form`; "" where its values are not known."""
    parent_values: tuple[Value, ...] = ()


@dataclass(slots=True)
class Finding:
    """What a rule found in one unit of work. A report adds up equal ones."""

    rule: str
    severity: Severity
    confidence: Confidence
    fingerprint: str
    template: str
    tables: tuple[str, ...]
    count: int
    distinct_params: int
    total_ms: float
    avoidable_round_trips: int
    parent: Parent | None = None
    child: Child | None = None
    advice: Advice | None = None
    tags: dict[str, list[str]] = field(default_factory=dict)
    """Tag names to the values seen, `application_name` among them."""
    samples: list[str] = field(default_factory=list)
    """A few query strings as sent; those of drivers that inline literals hold values."""
    session: int = 0
    foreign_key: str = ""
    """The foreign key between the child's column and the parent's, `comment.post_id → post.id`; "" where none is known."""
    sent: Sent | None = field(default=None, repr=False)
    """What the runs sent, for an example of the advice; None where not all of it is known."""


class Rule(Protocol):
    """One rule. `start` makes the state it keeps for one unit of work; the engine holds it and throws it away."""

    name: str

    def start(self) -> object:
        """New state for one unit of work."""
        ...

    def observe(self, state: Any, outcome: Outcome) -> None:
        """Take an outcome in. Cheap: it runs for each statement."""
        ...

    def close(self, state: Any) -> list[Finding]:
        """The unit of work is over: what was found in it."""
        ...
