"""Session tests as conversations: what the client sends, what the server answers, what came out on either side.

The messages that only a server or only a COPY sends are made here; those of the frontend that pgloupe itself builds come
from `pgloupe.wire.frontend`. `Conversation` owns a session as a link does: it performs the actions, takes the bytes, then
lets the session look.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from struct import pack
from typing import Final

from pgloupe.session.actions import Action, Ask, BeginWrite, EndWrite, Fill
from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.session.session import Session
from pgloupe.session.set_config import sets_by_function
from pgloupe.wire.backend import PARSE_COMPLETE
from pgloupe.wire.codes import BackendCode, FrontendCode
from pgloupe.wire.frontend import (
    Formats,
    build_bind,
    build_describe,
    build_execute,
    build_frame,
    build_parse,
    build_sync,
)
from pgloupe_rules.cacheable import AllowRule, CacheRules, EffectKind, effect_of
from pgloupe_rules.fingerprint import Recognition
from pgloupe_rules.types import Decision, Outcome, Recognised, SessionInfo, Statement

recognise: Final = Recognition()

# --- what a server sends ---

AUTHENTICATION_OK: Final = build_frame(BackendCode.AUTHENTICATION, pack("!i", 0))
PARSED: Final = PARSE_COMPLETE
BOUND: Final = build_frame(BackendCode.BIND_COMPLETE)
CLOSED: Final = build_frame(BackendCode.CLOSE_COMPLETE)
NO_DATA: Final = build_frame(BackendCode.NO_DATA)
SUSPENDED: Final = build_frame(BackendCode.PORTAL_SUSPENDED)
EMPTY: Final = build_frame(BackendCode.EMPTY_QUERY_RESPONSE)
COPY_IN: Final = build_frame(BackendCode.COPY_IN_RESPONSE, pack("!bhh", 0, 1, 0))
COPY_OUT: Final = build_frame(BackendCode.COPY_OUT_RESPONSE, pack("!bhh", 0, 1, 0))
COPY_BOTH: Final = build_frame(BackendCode.COPY_BOTH_RESPONSE, pack("!bh", 0, 0))
COPY_DONE: Final = build_frame(BackendCode.COPY_DONE)
COPY_FAIL: Final = build_frame(FrontendCode.COPY_FAIL, b"no more\0")
FUNCTION_CALL: Final = build_frame(FrontendCode.FUNCTION_CALL, pack("!ihhh", 1598, 0, 0, 0))
FUNCTION_RESULT: Final = build_frame(BackendCode.FUNCTION_CALL_RESPONSE, pack("!i", -1))
NOTIFICATION: Final = build_frame(BackendCode.NOTIFICATION_RESPONSE, pack("!i", 7) + b"channel\0payload\0")
NOTICE: Final = build_frame(BackendCode.NOTICE_RESPONSE, b"SNOTICE\0VNOTICE\0C00000\0Mlisten\0\0")


def ready(status: str = "I") -> bytes:
    return build_frame(BackendCode.READY_FOR_QUERY, status.encode())


def complete(tag: str) -> bytes:
    return build_frame(BackendCode.COMMAND_COMPLETE, tag.encode() + b"\0")


def error(sqlstate: str = "42601", severity: str = "ERROR") -> bytes:
    body = f"S{severity}\0V{severity}\0C{sqlstate}\0Msomething is wrong\0\0"
    return build_frame(BackendCode.ERROR_RESPONSE, body.encode())


def row_description(*names: str, oid: int = 25, format_code: int = 0) -> bytes:
    fields = b"".join(name.encode() + b"\0" + pack("!IhIhih", 0, 0, oid, -1, -1, format_code) for name in names)
    return build_frame(BackendCode.ROW_DESCRIPTION, pack("!H", len(names)) + fields)


def data_row(*values: str | bytes | None) -> bytes:
    parts = [pack("!H", len(values))]
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        parts.append(pack("!i", -1) if data is None else pack("!i", len(data)) + data)
    return build_frame(BackendCode.DATA_ROW, b"".join(parts))


def parameter_status(name: str, value: str) -> bytes:
    return build_frame(BackendCode.PARAMETER_STATUS, name.encode() + b"\0" + value.encode() + b"\0")


def parameter_description(*oids: int) -> bytes:
    return build_frame(BackendCode.PARAMETER_DESCRIPTION, pack(f"!H{len(oids)}I", len(oids), *oids))


def copy_data(data: bytes) -> bytes:
    return build_frame(FrontendCode.COPY_DATA, data)


GREETING: Final = AUTHENTICATION_OK + parameter_status("client_encoding", "UTF8") + ready()


# --- what a client sends ---


def extended(
    query: str | None,
    *values: bytes | None,
    name: str = "",
    oids: tuple[int, ...] = (),
    describe: bool = True,
    limit: int = 0,
    formats: Formats = (),
    results: Formats = (),
    sync: bool = True,
) -> bytes:
    """`[Parse] Bind [Describe portal] Execute [Sync]`; no Parse where `query` is None."""
    return b"".join(
        (
            build_parse(name, query, oids) if query is not None else b"",
            build_bind("", name, values, formats, results),
            build_describe("P", "") if describe else b"",
            build_execute("", limit),
            build_sync() if sync else b"",
        )
    )


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these points."""
    places = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [data[start:end] for start, end in pairwise(places)]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# --- the owner of a session ---


class Policy:
    """Reads of `author` and `post` may be cached; what writes is what the rules say."""

    def __init__(self) -> None:
        self._rules = CacheRules((AllowRule("catalogue", 60.0, tables=frozenset({"author", "post"})),))

    def decide(self, statement: Statement) -> Decision:
        return self._rules.decide(statement)

    def writes(self, recognised: Recognised, database: str) -> frozenset[str] | None:
        effect = effect_of(recognised)
        return None if effect.kind is EffectKind.EVERYTHING else effect.tables

    def strange(self, recognised: Recognised) -> bool:
        if effect_of(recognised).kind is EffectKind.EVERYTHING:
            return True
        calls = recognised.template.text.count("set_config")
        return calls > 0 and sets_by_function(recognised.bare, calls)

    def unasked(self, statement: Statement, why: str) -> None:
        pass

    def not_stored(self, rule: str, why: str) -> None:
        pass

    def defaults_change(self, recognised: Recognised) -> bool:
        return False

    def defaults_changed(self) -> None:
        raise AssertionError("nothing changes defaults")


POLICY: Final = Policy()


class Mark:
    """What a cache knows of a transaction that writes."""

    def __init__(self, tables: frozenset[str] | None) -> None:
        self.tables = tables
        self.open = True


class Desk:
    """A cache in a dictionary. With `later`, what is asked waits in `waiting` until `tell`."""

    def __init__(self, *, later: bool = False) -> None:
        self.later = later
        self.waiting: list[Action] = []
        self.entries: dict[object, tuple[bytes, bytes]] = {}
        self.tables: dict[object, tuple[str, ...]] = {}
        self.marks: list[Mark] = []
        self.log: list[Action] = []
        self.asks = 0
        self.hits = 0
        self.limit_bytes = 1 << 20

    def perform(self, action: Action, session: GatedSession, now_s: float) -> None:
        self.log.append(action)
        if self.later and not isinstance(action, Fill):
            self.waiting.append(action)
        else:
            self._tell(action, session, now_s)

    def tell(self, session: GatedSession, now_s: float) -> None:
        """Give the result of the action that waits longest."""
        self._tell(self.waiting.pop(0), session, now_s)

    @property
    def open_marks(self) -> list[Mark]:
        return [mark for mark in self.marks if mark.open]

    def _dirty(self, tables: tuple[str, ...]) -> bool:
        return any(mark.tables is None or mark.tables & set(tables) for mark in self.open_marks)

    def _tell(self, action: Action, session: GatedSession, now_s: float) -> None:
        if isinstance(action, Ask):
            self.asks += 1
            key = (
                action.context,
                action.recognised.bare,
                action.simple,
                action.oids,
                action.parameters,
                action.results,
                action.columns,
                action.limit,
                action.described,
            )
            self.tables[key] = action.rule.tables
            entry = self.entries.get(key)
            if entry is not None and not self._dirty(action.rule.tables):
                self.hits += 1
                session.answered(entry, None, self.limit_bytes, now_s)
            else:
                session.answered(None, None if self._dirty(action.rule.tables) else key, self.limit_bytes, now_s)
        elif isinstance(action, Fill):
            if not self._dirty(self.tables[action.capture.ticket]):
                entry = (action.capture.row_description, b"".join(action.capture.body))
                self.entries[action.capture.ticket] = entry
        elif isinstance(action, BeginWrite):
            if isinstance(action.mark, Mark) and action.mark.open:
                mark = action.mark
                mark.tables = None if mark.tables is None or action.tables is None else mark.tables | action.tables
            else:
                mark = Mark(action.tables)
                self.marks.append(mark)
            session.marked(mark, now_s)
        else:
            self._end(action, session, now_s)

    def _end(self, action: EndWrite, session: GatedSession, now_s: float) -> None:
        mark = action.mark
        assert isinstance(mark, Mark)
        assert mark.open, "a mark was ended twice"
        mark.open = False
        for key, tables in self.tables.items():
            if mark.tables is None or mark.tables & set(tables):
                self.entries.pop(key, None)
        if action.lost:
            return
        fresh = Mark(action.tables) if action.again else None
        if fresh is not None:
            self.marks.append(fresh)
        session.unmarked(fresh, now_s)


class Conversation:
    """A session and what came out of it. `bytewise` feeds everything byte by byte. The clock goes on by a second with
    each turn of either side."""

    def __init__(
        self, session: Session, desk: Desk | None = None, *, bytewise: bool = False, greeting: bytes = GREETING
    ) -> None:
        self.session = session
        self.desk = desk
        self.bytewise = bytewise
        self.now_s = 100.0
        self.to_server = b""
        self.to_client = b""
        self.outcomes: list[Outcome] = []
        if greeting:
            self.server(greeting)
            self.to_client = b""

    def client(self, *messages: bytes) -> None:
        """The client sends these in one go."""
        self.now_s += 1.0
        self.client_chunks(self._chunks(b"".join(messages)))

    def server(self, *messages: bytes) -> None:
        """The server sends these in one go."""
        self.now_s += 1.0
        self.server_chunks(self._chunks(b"".join(messages)))

    def client_chunks(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self.session.receive_frontend(chunk, self.now_s)
            self.run()

    def server_chunks(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self.session.receive_backend(chunk, self.now_s)
            self.run()

    def tell(self) -> None:
        """The cache gives the result of what it was asked first."""
        assert self.desk is not None
        assert isinstance(self.session, GatedSession)
        self.desk.tell(self.session, self.now_s)
        self.run()

    def release(self) -> None:
        assert isinstance(self.session, GatedSession)
        self.session.release(self.now_s)
        self.run()

    def close(self) -> None:
        self.now_s += 1.0
        self.session.close(self.now_s)
        self.run()

    def run(self) -> None:
        """What a link does after each event."""
        session = self.session
        while True:
            while session.actions:
                actions, session.actions = session.actions, []
                for action in actions:
                    assert self.desk is not None
                    assert isinstance(session, GatedSession)
                    self.desk.perform(action, session, self.now_s)
            self.to_server += session.data_to_backend()
            self.to_client += session.data_to_frontend()
            session.analyse(self.now_s)
            if not session.actions:
                break
        self.outcomes += session.take_outcomes()

    def _chunks(self, data: bytes) -> list[bytes]:
        return byte_by_byte(data) if self.bytewise else [data]

    # --- what tests ask for ---

    def taken_server(self) -> bytes:
        data, self.to_server = self.to_server, b""
        return data

    def taken_client(self) -> bytes:
        data, self.to_client = self.to_client, b""
        return data

    def ends(self) -> list[tuple[str, str, str]]:
        """Query text, status and command tag or SQLSTATE of each outcome, taken."""
        outcomes, self.outcomes = self.outcomes, []
        return [(o.statement.recognised.bare, o.status.value, o.command_tag or o.sqlstate) for o in outcomes]


def plain(*, bytewise: bool = False, context: Context | None = None) -> Conversation:
    """A session without a cache, ready for its first query."""
    return Conversation(Session(SessionInfo(1), recognise, context), bytewise=bytewise)


def gated(*, later: bool = False, bytewise: bool = False, startup: dict[str, str] | None = None) -> Conversation:
    """A session with a cache, ready for its first query."""
    session = GatedSession(SessionInfo(1), recognise, Context(startup or {}), POLICY)
    return Conversation(session, Desk(later=later), bytewise=bytewise)
