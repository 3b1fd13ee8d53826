"""Plays a trace, a table of what clients sent and got, through the real recogniser and the real engine.

A trace is a JSON object: `title`, `why`, `settings` (optional), `expect` (a list of what must be found, see `missed`) and
`steps`. A step is one of

- `{"sql": …}`: one simple Query or one Execute. `params` are the values of `$1`, `$2` …; `columns` maps the names of the
  result's columns to their values, row by row; `rows` is the number of rows where no columns are given (1 for a write,
  0 else); `error` an SQLSTATE; `suspended` true where the portal has more rows, `resumes` true for an
  Execute that fetches them; `ms` the server time; `tag` the command tag;
- `{"for": {"name": [values], …}, "do": [steps]}`: the steps once for each value, `{name}` replaced in them;
- `{"pipeline": [steps]}`: sent without waiting, one batch;
- `{"pause_ms": 70}`: nobody says anything;
- `{"discard": true}`: the session ends.

`session` in a step names its session, 1 if absent. The player numbers statements, batches and transactions as the wire
does and keeps a clock of its own: nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import (
    Column,
    Finding,
    Literal,
    Outcome,
    Recognised,
    SessionInfo,
    Slot,
    Statement,
    Status,
    Value,
    comparable,
)

TURN_S = 0.0008
"""What the client and the network need between two statements."""


class Player:
    """A clock, sessions and an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now_s = 100.0
        self.findings: list[Finding] = []
        self.batch = 0
        self._sessions: dict[int, _Session] = {}

    def session(self, number: int = 1) -> _Session:
        if number not in self._sessions:
            self._sessions[number] = _Session(SessionInfo(number, database="shop", user="app", client="127.0.0.1:5000"))
        return self._sessions[number]

    def end(self, number: int = 1) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self.findings += self.engine.end_session(session.info)

    def run(
        self,
        sql: str,
        params: list[Any] | None = None,
        columns: dict[str, list[Any]] | None = None,
        *,
        rows: int | None = None,
        session: int = 1,
        error: str = "",
        suspended: bool = False,
        ms: float = 0.5,
        tag: str = "",
        pipelined: bool = False,
        cache: str = "",
        resumes: bool = False,
    ) -> list[Outcome]:
        """One query string, all its statements in one batch; `pipelined` joins the batch before."""
        at = self.session(session)
        if not pipelined:
            self.batch += 1
            self.now_s += TURN_S
        serial = not pipelined
        outcomes = []
        for recognised in recognise(sql):
            statement = at.last if resumes and at.last is not None else None
            if statement is None:
                statement = at.statement(recognised, sql, params, self.now_s, self.batch, serial)
            if suspended:
                at.last = statement
            serial = False
            self.now_s += ms / 1000
            outcome = _outcome(statement, columns or {}, rows, error, suspended, ms, tag, self.now_s, cache)
            at.after(recognised.template.text, error)
            self.findings += self.engine.observe(outcome)
            outcomes.append(outcome)
        return outcomes

    def steps(self, steps: list[dict[str, Any]], names: dict[str, Any] | None = None, pipelined: bool = False) -> None:
        names = names or {}
        for position, step in enumerate(steps):
            joins = pipelined and position > 0
            if "for" in step:
                for values in _rows_of(step["for"]):
                    self.steps(step["do"], {**names, **values})
            elif "pipeline" in step:
                flat = list(_flatten(step["pipeline"], names))
                for number, (inner, inner_names) in enumerate(flat):
                    self._step(inner, inner_names, number > 0)
            elif "pause_ms" in step:
                self.now_s += step["pause_ms"] / 1000
            elif "discard" in step:
                self.end(step.get("session", 1))
            else:
                self._step(step, names, joins)

    def _step(self, step: dict[str, Any], names: dict[str, Any], pipelined: bool) -> None:
        filled = _fill(step, names)
        self.run(
            filled["sql"],
            filled.get("params"),
            filled.get("columns"),
            rows=filled.get("rows"),
            session=filled.get("session", 1),
            error=filled.get("error", ""),
            suspended=filled.get("suspended", False),
            ms=filled.get("ms", 0.5),
            tag=filled.get("tag", ""),
            resumes=filled.get("resumes", False),
            pipelined=pipelined,
        )

    def close(self) -> list[Finding]:
        self.findings += self.engine.close()
        return self.findings


class _Session:
    def __init__(self, info: SessionInfo) -> None:
        self.info = info
        self.sequence = 0
        self.transaction = 0
        self.status = "I"
        self.position = 0
        self.last: Statement | None = None
        """The statement of the suspended portal."""

    def statement(
        self,
        recognised: Recognised,
        sql: str,
        params: list[Any] | None,
        now_s: float,
        batch: int,
        serial: bool,
    ) -> Statement:
        self.sequence += 1
        begins = recognised.template.text.upper().startswith(("BEGIN", "START TRANSACTION"))
        if self.status == "I" and begins:
            self.transaction += 1
            self.position = 0
        inside = self.status != "I" or begins
        self.position += 1
        values = [_value(value) for value in params or []]
        return Statement(
            self.info,
            self.sequence,
            recognised,
            sql,
            simple=params is None,
            decode=lambda statement: tuple(_slot(slot, values) for slot in statement.recognised.slots),
            received_s=now_s,
            batch=batch,
            serial=serial,
            status=self.status,
            transaction=self.transaction if inside else 0,
            position=self.position if inside else 0,
        )

    def after(self, text: str, error: str) -> None:
        words = text.upper().split()
        if error:
            self.status = "E" if self.status != "I" else "I"
        elif words[0] in {"BEGIN", "START"}:
            self.status = "T"
        elif (words[0] == "ROLLBACK" and "TO" in words) or (
            self.status == "E" and words[0] not in {"ROLLBACK", "COMMIT"}
        ):
            self.status = "T" if words[0] == "ROLLBACK" else self.status
        elif words[0] in {"COMMIT", "END", "ROLLBACK", "ABORT"}:
            self.status = "I"


def _value(value: Any) -> Value:
    return comparable(value)


def _slot(slot: Slot, params: list[Value]) -> Value:
    if isinstance(slot, Literal):
        return slot.value
    if isinstance(slot, tuple):
        return tuple(_slot(item, params) for item in slot)
    return params[slot - 1]


def _outcome(
    statement: Statement,
    columns: dict[str, list[Any]],
    rows: int | None,
    error: str,
    suspended: bool,
    ms: float,
    tag: str,
    now_s: float,
    cache: str,
) -> Outcome:
    verb = statement.template.text.split(" ", 1)[0].upper()
    if rows is None:
        rows = len(next(iter(columns.values()))) if columns else (1 if verb in {"INSERT", "UPDATE", "DELETE"} else 0)
    status = Status.ERROR if error else Status.SUSPENDED if suspended else Status.COMPLETE
    values = tuple(tuple(comparable(value) for value in column) for column in columns.values())
    return Outcome(
        statement,
        status,
        rows=0 if error else rows,
        command_tag=tag,
        sqlstate=error,
        dispatched_s=statement.received_s,
        finished_s=now_s,
        server_s=ms / 1000,
        columns=tuple(Column(name) for name in columns),
        decode=lambda _outcome: values,
        cache=cache,
    )


def _rows_of(loop: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*loop.values(), strict=True):
        yield dict(zip(loop, values, strict=True))


def _flatten(steps: list[dict[str, Any]], names: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for step in steps:
        if "for" in step:
            for values in _rows_of(step["for"]):
                yield from _flatten(step["do"], {**names, **values})
        else:
            yield step, names


def _fill(item: Any, names: dict[str, Any]) -> Any:
    """`item` with `{name}` replaced; a string that is nothing but `{name}` becomes the value itself."""
    if isinstance(item, dict):
        return {key: _fill(value, names) for key, value in item.items()}
    if isinstance(item, list):
        return [_fill(value, names) for value in item]
    if isinstance(item, str):
        for name, value in names.items():
            mark = "{" + name + "}"
            if item == mark:
                return value
            item = item.replace(mark, str(value))
    return item


def play(trace: dict[str, Any]) -> list[Finding]:
    """All findings of a trace."""
    failures: list[tuple[str, Exception]] = []
    engine = Engine(
        Settings(**trace.get("settings", {})), on_failure=lambda name, error: failures.append((name, error))
    )
    player = Player(engine)
    player.steps(trace["steps"])
    findings = player.close()
    if failures:
        raise AssertionError(f"rule {failures[0][0]} failed") from failures[0][1]
    return findings


def described(finding: Finding) -> dict[str, Any]:
    """What a trace can expect of a finding."""
    return {
        "rule": finding.rule,
        "confidence": finding.confidence.value,
        "tables": list(finding.tables),
        "count": finding.count,
        "distinct": finding.distinct_params,
        "parent": None if finding.parent is None else list(finding.parent.tables),
        "parent_column": None if finding.parent is None else finding.parent.column,
        "parent_rows": None if finding.parent is None else finding.parent.rows,
        "child_column": None if finding.child is None else finding.child.column,
        "advice": None if finding.advice is None else finding.advice.kind,
    }
