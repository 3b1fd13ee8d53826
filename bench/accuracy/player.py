"""Plays a trace as bytes: what client and server of each connection would have sent, through the session that the proxy uses
and the engine with its rules.

So a trace tries the whole way from messages to findings: forms of statements, binary values, pipelines, transactions.
Only sockets and the catalogs are missing: columns have OIDs of tables, and nobody tells which foreign keys there are.

Time is the trace's own and nothing waits. A client needs `pace` between an answer and its next statement, the server the
statement's time for the answer. In an `overlap:` the connections run beside each other, each at its own pace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Final

from bench.accuracy.trace import Call, Close, Connect, Form, Overlap, Pipeline, Step, Trace, TraceError, Wait
from bench.accuracy.values import TEXT, Value, as_literal, encode, type_of
from pgloupe.session.session import Session
from pgloupe.wire.codes import BackendCode, FrontendCode
from pgloupe.wire.frontend import (
    build_bind,
    build_describe,
    build_execute,
    build_frame,
    build_parse,
    build_query,
    build_sync,
    build_terminate,
)
from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Finding, Outcome, SessionInfo

_START_S: Final = 1000.0
_TICK_S: Final = 1.0
"""How often the proxy closes units of work that have ended."""
_UNNAMED_FIRST: Final = 5
_OVERLAP_S: Final = 0.00005
_FIRST_TABLE_OID: Final = 16400
_FIELDS_MOST: Final = 1600

_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_FROM: Final = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?\"?([a-z_]\w*)\"?", re.IGNORECASE)
_COMPUTED: Final = frozenset({"count", "exists", "sum", "max", "min", "avg", "coalesce", "nextval", "?column?", "one"})

_COPY_FORMAT: Final = pack("!bhh", 0, 1, 0)


class _Connection:
    """One client and its server, and the session between them."""

    def __init__(self, number: int, name: str, options: dict[str, str], at_s: float) -> None:
        host = options.get("host", "10.1.0.5")
        self.name = name
        self.info = SessionInfo(
            number,
            database=options.get("database", "app"),
            user=options.get("user", "app"),
            application_name=options.get("app", "service"),
            client=f"{host}:{40000 + number}",
            started_s=at_s,
        )
        self.session = Session(self.info, recognise)
        self.status = "I"
        self.prepared: dict[tuple[str, tuple[int, ...]], str] = {}
        """Names of prepared statements by text and types of the parameters: another type is another statement."""
        self.runs: dict[str, int] = {}
        self.pending: Call | None = None
        self.free_s = at_s
        greeting = build_frame(BackendCode.AUTHENTICATION, pack("!i", 0))
        greeting += build_frame(BackendCode.PARAMETER_STATUS, b"client_encoding\0UTF8\0") + self.ready()
        self.backend(greeting, at_s)

    def ready(self) -> bytes:
        return build_frame(BackendCode.READY_FOR_QUERY, self.status.encode())

    def frontend(self, data: bytes, at_s: float) -> None:
        self.session.receive_frontend(data, at_s)
        self.session.data_to_backend()
        self.session.analyse(at_s)

    def backend(self, data: bytes, at_s: float) -> None:
        self.session.receive_backend(data, at_s)
        self.session.data_to_frontend()
        self.session.analyse(at_s)


class Player:
    """Connections, a clock and an engine."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._failures: list[tuple[str, Exception]] = []
        self._engine = Engine(Settings(), on_failure=lambda name, error: self._failures.append((name, error)))
        self._form = trace.form
        self._now_s = _START_S
        self._ticked_s = _START_S
        self._open: dict[str, _Connection] = {}
        self._made = 0
        self._current = "main"
        self._tables: dict[str, dict[str, int]] = {}
        self.findings: list[Finding] = []
        self.outcomes: list[Outcome] = []

    def play(self) -> list[Finding]:
        """All findings, in the order in which the engine gave them. Raises TraceError where the session lost track of the
        messages or a rule failed."""
        self._steps(self._trace.steps)
        for name in list(self._open):
            self._close(name)
        self.findings += self._engine.close()
        if self._failures:
            name, error = self._failures[0]
            raise TraceError(f"{self._trace.name}: rule {name} failed: {error!r}") from error
        return self.findings

    def _steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Call):
                self._run([step], pipelined=False)
            elif isinstance(step, Pipeline):
                self._run(step.calls, pipelined=True)
            elif isinstance(step, Overlap):
                self._overlap(step.steps)
            elif isinstance(step, Wait):
                self._wait(step.seconds)
            else:
                self._switch(step)

    def _switch(self, step: Connect | Close | Form) -> None:
        if isinstance(step, Form):
            self._form = step.name
        elif isinstance(step, Close):
            if step.name not in self._open:
                raise TraceError(f"{self._trace.name}: there is no connection {step.name} to close")
            self._close(step.name)
        else:
            self._current = step.name
            self._connection(step.name, dict(step.options))

    # --- connections and time ---

    def _connection(self, name: str, options: dict[str, str] | None = None) -> _Connection:
        if name not in self._open:
            self._made += 1
            self._open[name] = _Connection(self._made, name, options or {}, self._now_s)
        return self._open[name]

    def _close(self, name: str) -> None:
        connection = self._open.pop(name)
        connection.frontend(build_terminate(), self._now_s)
        connection.session.close(self._now_s)
        self._take(connection)
        self.findings += self._engine.end_session(connection.info)

    def _wait(self, seconds: float) -> None:
        end_s = self._now_s + seconds
        while self._ticked_s + _TICK_S <= end_s:
            self._ticked_s += _TICK_S
            self.findings += self._engine.tick(self._ticked_s)
        self._now_s = end_s

    def _take(self, connection: _Connection) -> None:
        if connection.session.trouble:
            raise TraceError(f"{self._trace.name}: the session lost track: {connection.session.trouble}")
        for outcome in connection.session.take_outcomes():
            self.outcomes.append(outcome)
            self.findings += self._engine.observe(outcome)

    # --- statements ---

    def _run(self, calls: Sequence[Call], *, pipelined: bool) -> None:
        connection = self._connection(self._current)
        self._wait(self._trace.pace_s)
        sent, answered = self._messages(connection, calls, pipelined)
        connection.frontend(sent, self._now_s)
        self._wait(sum(call.took_s for call in calls))
        connection.backend(answered, self._now_s)
        self._take(connection)

    def _overlap(self, steps: Sequence[Step]) -> None:
        """Each connection goes through its own statements; the events of all of them are put in order."""
        queues: dict[str, list[tuple[Sequence[Call], bool]]] = {}
        for step in steps:
            if isinstance(step, Connect):
                self._switch(step)
            elif isinstance(step, Call):
                queues.setdefault(self._current, []).append(([step], False))
            elif isinstance(step, Pipeline):
                queues.setdefault(self._current, []).append((step.calls, True))
            else:
                raise TraceError(f"{self._trace.name}: in an overlap stand statements, pipelines and `on`")
        begin_s = self._now_s + self._trace.pace_s
        free: dict[str, float] = {name: begin_s + at * _OVERLAP_S for at, name in enumerate(queues)}
        waiting: dict[str, tuple[bytes, float]] = {}
        while any(queues.values()) or waiting:
            sends = [(free[name], 1, name) for name, queue in queues.items() if queue and name not in waiting]
            answers = [(due_s, 0, name) for name, (_, due_s) in waiting.items()]
            at_s, sending, name = min(sends + answers)
            self._wait(max(0.0, at_s - self._now_s))
            connection = self._connection(name)
            if sending:
                calls, pipelined = queues[name].pop(0)
                sent, answered = self._messages(connection, calls, pipelined)
                connection.frontend(sent, self._now_s)
                waiting[name] = (answered, self._now_s + sum(call.took_s for call in calls))
            else:
                answered, _ = waiting.pop(name)
                connection.backend(answered, self._now_s)
                self._take(connection)
                free[name] = self._now_s + self._trace.pace_s

    def _messages(self, connection: _Connection, calls: Sequence[Call], pipelined: bool) -> tuple[bytes, bytes]:
        """What the client sends for these, and what the server answers."""
        if self._form == "simple" or calls[0].sql[:5].upper() == "COPY ":
            return self._simple(connection, calls)
        sent, answered = b"", b""
        for call in calls:
            asked, said = self._extended(connection, call)
            sent += asked
            answered += said
            if call.sqlstate:
                break
        if not pipelined and len(calls) > 1:
            raise TraceError(f"{self._trace.name}: several statements outside of a pipeline")
        return sent + build_sync(), answered + connection.ready()

    def _simple(self, connection: _Connection, calls: Sequence[Call]) -> tuple[bytes, bytes]:
        texts, answered, sent_behind = [], b"", b""
        for call in calls:
            parts = _PLACEHOLDER.split(call.sql)
            parts[1::2] = [as_literal(call.params[int(number) - 1]) for number in parts[1::2]]
            texts.append("".join(parts))
            if call.sql[:5].upper() == "COPY ":
                copied = [f"{number}\trow {number}\n".encode() for number in range(call.rows or 0)]
                if re.search(r"\bFROM\s+STDIN\b", call.sql, re.IGNORECASE):
                    answered += build_frame(BackendCode.COPY_IN_RESPONSE, _COPY_FORMAT)
                    sent_behind = b"".join(build_frame(FrontendCode.COPY_DATA, line) for line in copied)
                    sent_behind += build_frame(FrontendCode.COPY_DONE)
                else:
                    answered += build_frame(BackendCode.COPY_OUT_RESPONSE, _COPY_FORMAT)
                    answered += b"".join(build_frame(FrontendCode.COPY_DATA, line) for line in copied)
                    answered += build_frame(BackendCode.COPY_DONE)
            elif call.columns and not call.sqlstate:
                answered += self._description(call, binary=False)
            answered += self._rows(connection, call, binary=False)
            if call.sqlstate:
                break
        return build_query("; ".join(texts)) + sent_behind, answered + connection.ready()

    def _extended(self, connection: _Connection, call: Call) -> tuple[bytes, bytes]:
        binary = self._form == "binary"
        if not call.sql:
            if connection.pending is None:
                raise TraceError(f"{self._trace.name}, line {call.line}: there is no portal to resume")
            return build_execute("c", 50), self._rows(connection, call, binary)
        oids = tuple(
            type_of(value, kind) if value is not None else TEXT
            for value, kind in zip(call.params, call.types, strict=True)
        )
        sent, answered, described = b"", b"", False
        named = self._form in ("named", "binary")
        if self._form == "after5":
            connection.runs[call.sql] = connection.runs.get(call.sql, 0) + 1
            named = connection.runs[call.sql] > _UNNAMED_FIRST
        known = (call.sql, oids)
        name = connection.prepared.get(known, "") if named else ""
        if not name:
            if named:
                name = connection.prepared[known] = f"s{len(connection.prepared) + 1}"
            sent += build_parse(name, call.sql, oids if binary else ())
            answered += build_frame(BackendCode.PARSE_COMPLETE)
            if named:
                sent += build_describe("S", name)
                answered += build_frame(BackendCode.PARAMETER_DESCRIPTION, pack(f"!H{len(oids)}I", len(oids), *oids))
                answered += self._described(call, binary)
                described = True
        values = tuple(encode(value, oid, binary) for value, oid in zip(call.params, oids, strict=True))
        formats = (1,) if binary else ()
        portal = "c" if call.more else ""
        if call.sqlstate:
            sent += build_bind(portal, name, values, formats, formats) + build_execute(portal)
            return sent, answered + build_frame(BackendCode.BIND_COMPLETE) + self._rows(connection, call, binary)
        sent += build_bind(portal, name, values, formats, formats)
        answered += build_frame(BackendCode.BIND_COMPLETE)
        if not named and not described:
            sent += build_describe("P", portal)
            answered += self._described(call, binary)
        sent += build_execute(portal, 50 if call.more else 0)
        if call.more:
            connection.pending = call
        return sent, answered + self._rows(connection, call, binary)

    def _described(self, call: Call, binary: bool) -> bytes:
        return self._description(call, binary) if call.columns else build_frame(BackendCode.NO_DATA)

    # --- what the server says ---

    def _description(self, call: Call, binary: bool) -> bytes:
        sql = _COMMENT.sub("", call.sql)
        tables = [match.lower() for match in _FROM.findall(sql)]
        fields = b""
        for name, values in call.columns.items():
            table, _, column = name.rpartition(".")
            if not table and len(tables) == 1 and column not in _COMPUTED:
                table = tables[0]
            oid = attribute = 0
            if table:
                known = self._tables.setdefault(table, {})
                oid = _FIRST_TABLE_OID + 10 * list(self._tables).index(table)
                attribute = known.setdefault(column, len(known) + 1)
            kind = self._type(call, name, values)
            fields += column.encode() + b"\0" + pack("!IhIhih", oid, attribute, kind, -1, -1, int(binary))
        return build_frame(BackendCode.ROW_DESCRIPTION, pack("!H", len(call.columns)) + fields)

    def _type(self, call: Call, name: str, values: Sequence[Value]) -> int:
        known = [value for value in values if value is not None]
        if not known:
            return TEXT
        return max((type_of(value, call.column_types[name]) for value in known), key=lambda oid: oid != TEXT and oid)

    def _rows(self, connection: _Connection, call: Call, binary: bool) -> bytes:
        if call.sqlstate:
            connection.status = "E" if connection.status != "I" else "I"
            body = f"SERROR\0VERROR\0C{call.sqlstate}\0Mit failed\0\0"
            return build_frame(BackendCode.ERROR_RESPONSE, body.encode())
        out = []
        oids = [self._type(call, name, values) for name, values in call.columns.items()]
        rows = list(zip(*call.columns.values(), strict=True))
        for row in rows:
            parts = [pack("!H", len(row))]
            for value, oid in zip(row, oids, strict=True):
                data = encode(value, oid, binary)
                parts.append(pack("!i", -1) if data is None else pack("!i", len(data)) + data)
            out.append(build_frame(BackendCode.DATA_ROW, b"".join(parts)))
        if call.more:
            return b"".join(out) + build_frame(BackendCode.PORTAL_SUSPENDED)
        sql = call.sql or (connection.pending.sql if connection.pending is not None else "")
        out.append(build_frame(BackendCode.COMMAND_COMPLETE, _tag(connection, sql, call, len(rows)).encode() + b"\0"))
        return b"".join(out)


def _tag(connection: _Connection, sql: str, call: Call, rows: int) -> str:
    """The command tag; follows the transaction status."""
    words = _COMMENT.sub("", sql).upper().replace("(", " ").split()
    verb = words[0]
    if verb in ("BEGIN", "START"):
        connection.status = "T"
        return "BEGIN" if verb == "BEGIN" else "START TRANSACTION"
    if verb in ("COMMIT", "END", "ROLLBACK", "ABORT"):
        if "TO" in words:
            connection.status = "T"
            return "ROLLBACK"
        failed = connection.status == "E"
        connection.status = "I"
        return "COMMIT" if verb in ("COMMIT", "END") and not failed else "ROLLBACK"
    if verb == "WITH":
        verb = next((word for word in ("INSERT", "UPDATE", "DELETE") if word in words), "SELECT")
    if verb in ("INSERT", "UPDATE", "DELETE", "MERGE"):
        count = call.rows if call.rows is not None else rows if call.columns else 1
        return f"INSERT 0 {count}" if verb == "INSERT" else f"{verb} {count}"
    if verb in ("SELECT", "FETCH", "COPY", "MOVE", "VALUES", "TABLE"):
        count = call.rows if verb == "COPY" and call.rows is not None else rows
        return f"{'SELECT' if verb in ('VALUES', 'TABLE') else verb} {count}"
    if verb in ("CREATE", "ALTER", "DROP"):
        return " ".join(words[:2])
    return {"DECLARE": "DECLARE CURSOR", "CLOSE": "CLOSE CURSOR"}.get(verb, verb)
