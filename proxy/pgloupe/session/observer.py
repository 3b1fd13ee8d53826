"""Frames and pipeline to statements and outcomes.

The observer follows both directions of a conversation. It never changes, delays or answers anything: the session does,
with what the observer tells it. `frontend` and `backend` are called with whole frames in the order in which they travelled;
when a reply fits nothing that was asked they raise ProtocolViolation, and the session stops looking (phase OPAQUE).

A statement is made when its Execute or Query is seen, an outcome when its last reply is. Row values are not decoded here: an
outcome keeps the first rows as bytes (bounded) and decodes them when a rule asks.

Source: protocol documentation, "Message Flow".
"""

from __future__ import annotations

from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.context import Context
from pgloupe.session.ledger import Ledger
from pgloupe.session.pipeline import Kind, Request
from pgloupe.session.results import MAX_SAMPLE_BYTES, take_sample
from pgloupe.session.statements import UNKNOWN, Portal, Prepared, Statements, renames
from pgloupe.wire.backend import (
    error_sqlstate,
    parse_command_complete,
    parse_parameter_description,
    parse_parameter_status,
    parse_ready_for_query,
)
from pgloupe.wire.codes import BackendCode, FrontendCode, TransactionStatus
from pgloupe.wire.frames import PIECE, WHOLE
from pgloupe.wire.frontend import parse_bind_names, parse_execute, parse_named, parse_parse, parse_query
from pgloupe_rules.types import Recogniser, SessionInfo, Statement, Status

MAX_SKIPPED: Final = 100
"""How many skipped messages are remembered for their names."""

MAX_KEPT_BYTES: Final = 8 << 20
"""So much of the messages that the server has not answered is kept to know what they mean. Of those above it only the
short ones are."""

SHORT_BYTES: Final = 512

_OID_BYTES: Final = 36
"""What a parameter type takes in memory beside its four bytes in the message, about."""


class Observer(Ledger):
    """Follows one session. `outcomes` collects what ended; the session takes it."""

    __slots__ = (
        "_closing",
        "_failed",
        "_recognise",
        "_skipped",
        "_skipped_bytes",
        "_syncs",
        "context",
        "refused",
        "statements",
        "unsynced",
    )

    def __init__(self, info: SessionInfo, recognise: Recogniser, context: Context | None) -> None:
        super().__init__(info)
        self.context = context
        """None where nobody needs it followed: without a cache."""
        self._recognise = recognise
        self.statements = Statements()
        self.refused = False
        """Since the last ReadyForQuery the server refused one statement as no SQL, outside of a transaction block."""
        self.unsynced = False
        """Messages of the extended query went to the server that no Sync has ended yet: an implicit transaction is open."""
        self._failed = False  # an error came since the last ReadyForQuery
        self._syncs = 1  # sent, and one, so that none has the number 0
        self._closing = 0  # Close of a known statement, sent and not answered
        self._skipped: list[Request] = []  # sent since an error and before its Sync
        self._skipped_bytes = 0

    # --- frontend ---

    def frontend(self, code: int, raw: bytes, count: int, received_s: float, dispatched_s: float) -> Request | None:
        """A frame that goes to the server. Gives the request that it became, None where no reply belongs to it."""
        if count == PIECE:
            return None
        pipeline = self.pipeline
        if code == FrontendCode.SYNC:
            if pipeline.copying_in():
                pipeline.copy_sync()
                return None
            self._undo_skipped()
            self.unsynced = False
            pipeline.sync_sent()
            self._syncs += 1
            request = Request(Kind.SYNC)
            pipeline.push(request)
            return request
        if code == FrontendCode.COPY_DATA:
            return None
        if code in (FrontendCode.COPY_DONE, FrontendCode.COPY_FAIL):
            pipeline.copy_end()
            return None
        if code in (FrontendCode.FLUSH, FrontendCode.TERMINATE, FrontendCode.PASSWORD):
            return None
        self.unsynced = code not in (FrontendCode.QUERY, FrontendCode.FUNCTION_CALL)
        known = raw if count == WHOLE else b""
        size = len(known)
        if (
            size > SHORT_BYTES
            and code in _LONG
            and (pipeline.kept_bytes + size > MAX_KEPT_BYTES or self._skipped_bytes > MAX_KEPT_BYTES)
        ):
            known = b""
        try:
            request = self._request(code, known, received_s)
        except ProtocolViolation:
            if not known or code not in _KNOWN:
                raise
            request = self._request(code, b"", received_s)  # the server is going to say what is wrong with it
        request.kept_bytes = len(known)
        if code == FrontendCode.PARSE and request.prepared is not None:
            request.kept_bytes += _OID_BYTES * len(request.prepared.oids)
        request.received_s = received_s
        request.dispatched_s = dispatched_s
        if pipeline.skipping:
            # undone at the Sync: until then its names tell what the messages behind it mean
            self._skipped.append(request)
            self._skipped_bytes += size
            if len(self._skipped) > MAX_SKIPPED:
                self._undo_skipped()
            self._end_all(request, Status.SKIPPED, dispatched_s, dispatched_s)
        else:
            pipeline.push(request)
            if request.kind == Kind.CLOSE and request.previous is not None:
                self._closing += 1
        return request

    def _request(self, code: int, raw: bytes, received_s: float) -> Request:
        """`raw` is b"" for a frame that is too large to keep or malformed: then what it says is unknown."""
        if code == FrontendCode.QUERY:
            return self.simple(parse_query(raw) if raw else None, received_s)
        if code == FrontendCode.PARSE:
            request = self.parse(raw)
            if request.prepared is not None and (not request.name or request.previous is not None or self._closing):
                request.prepared.doubt = self._syncs
            return request
        if code == FrontendCode.BIND:
            request = Request(Kind.BIND)
            if raw:
                request.portal = self.bind(raw)
                self.statements.bind(request.portal)
            else:
                self.statements.lose_portals()
            return request
        if code == FrontendCode.EXECUTE:
            request = Request(Kind.EXECUTE)
            request.portal = portal = self.statements.portal(parse_execute(raw)[0]) if raw else None
            request.statements = (self.execute(portal, received_s),)
            request.renames = portal is None or portal.prepared.renames
            if portal is not None:
                request.columns = portal.columns or portal.prepared.columns
            return request
        if code == FrontendCode.DESCRIBE:
            kind, name = parse_named(raw) if raw else ("", "")
            if kind == "S":
                request = Request(Kind.DESCRIBE_STATEMENT)
                request.prepared = self.statements.prepared(name)
            else:
                request = Request(Kind.DESCRIBE_PORTAL)
                request.portal = self.statements.portal(name)
            return request
        if code == FrontendCode.CLOSE:
            request = Request(Kind.CLOSE)
            kind, request.name = parse_named(raw) if raw else ("", "")
            if kind == "S":
                request.previous = self.statements.close_prepared(request.name)
            elif kind == "P":
                self.statements.close_portal(request.name)
            return request
        if code == FrontendCode.FUNCTION_CALL:
            return Request(Kind.FUNCTION_CALL)
        raise ProtocolViolation(f"a frontend message of unknown type 0x{code:02x}")

    def parse(self, raw: bytes) -> Request:
        """A Parse, which makes its name mean something at once."""
        request = Request(Kind.PARSE)
        if not raw:
            self.statements.close_prepared("")  # too large to look at, so it may be the unnamed one
        else:
            name, query, oids = parse_parse(raw)
            request.prepared = Prepared(name, query, self._recognise(query), oids)
            request.prepared.made = self._sequence
            request.name = name
            request.previous = self.statements.prepare(request.prepared)
            if request.previous is not None:
                request.prepared.inherit(request.previous)
        return request

    def bind(self, raw: bytes) -> Portal:
        """The portal that a Bind makes."""
        name, statement_name, offset = parse_bind_names(raw)
        prepared = self.statements.prepared(statement_name)
        if prepared is None or prepared.doubt not in (0, self._syncs) or (statement_name and self.pipeline.renaming):
            # behind a Sync an unanswered Parse may have failed, and the name may mean what it meant before; behind a statement
            # that changes names it may mean anything
            prepared = Prepared(statement_name, "", (UNKNOWN,))
        return Portal(name, prepared, raw, offset)

    def execute(self, portal: Portal | None, received_s: float) -> Statement:
        """The statement of an Execute; the same one again where a suspended portal is fetched on."""
        if portal is None:
            return self._statement(UNKNOWN, "", False, None, received_s)
        if portal.statement is None:
            prepared = portal.prepared
            portal.statement = self._statement(prepared.recognised, prepared.query_string, False, portal, received_s)
        return portal.statement

    def simple(self, query: str | None, received_s: float) -> Request:
        """A simple Query; None for one that was too long to look at."""
        request = Request(Kind.QUERY)
        request.previous = self.statements.simple_query()
        parts = (UNKNOWN,) if query is None else self._recognise(query)
        statements: list[Statement] = []
        for part in parts:
            statements.append(self._statement(part, query or "", True, None, received_s, first=not statements))
            request.renames = request.renames or renames(part)
        request.statements = tuple(statements)
        return request

    # --- backend ---

    def backend(self, code: int, raw: bytes, count: int, received_s: float, delivered_s: float) -> Request | None:
        """A frame that came from the server. Gives the request that it answers, None for what answers nothing.

        Raises ProtocolViolation for a reply to nothing asked.
        """
        if code == BackendCode.NOTICE_RESPONSE or code == BackendCode.NOTIFICATION_RESPONSE:  # noqa: PLR1714 (speed)
            return None
        if code == BackendCode.PARAMETER_STATUS:
            if count == WHOLE:
                self._parameter_status(raw)
            elif self.context is not None:
                self.context.distrust("a reported setting of an absurd length")
            return None
        head = self.pipeline.head_for(code)
        if head is None:
            if code == BackendCode.ERROR_RESPONSE:
                return None  # the server says why it is going to close
            if code == BackendCode.COPY_DATA or code == BackendCode.COPY_DONE:  # noqa: PLR1714
                return None
            raise ProtocolViolation(f"a reply of type 0x{code:02x} to nothing that was asked")
        kind = head.kind
        if code == BackendCode.DATA_ROW:
            if kind not in (Kind.EXECUTE, Kind.QUERY):
                raise _unfit(code, kind)
            head.bytes += len(raw)
            if count > 0:
                head.rows += count
                take_sample(head, raw)
            else:
                if count < 0:
                    head.rows += 1
                head.sample_bytes = MAX_SAMPLE_BYTES  # the rows behind one that is not kept are not the first ones
            return head
        if count == PIECE and code != BackendCode.COPY_DATA:
            return head  # its last piece stands for all of it
        if code == BackendCode.COMMAND_COMPLETE:
            head.bytes += len(raw)
            self._complete(head, parse_command_complete(raw), received_s, delivered_s)
        elif code == BackendCode.READY_FOR_QUERY:
            self._ready(head, parse_ready_for_query(raw), received_s, delivered_s)
        elif code == BackendCode.PARSE_COMPLETE:
            self._answer(head, kind == Kind.PARSE, code)
            if head.prepared is not None:
                head.prepared.doubt = 0
        elif code == BackendCode.BIND_COMPLETE:
            self._answer(head, kind == Kind.BIND, code)
        elif code == BackendCode.CLOSE_COMPLETE:
            self._answer(head, kind == Kind.CLOSE, code)
            if head.previous is not None:
                self._closing -= 1
        elif code == BackendCode.ROW_DESCRIPTION:
            self._row_description(head, raw if count == WHOLE else b"")
        elif code == BackendCode.NO_DATA:
            self._answer(head, kind in (Kind.DESCRIBE_STATEMENT, Kind.DESCRIBE_PORTAL), code)
        elif code == BackendCode.ERROR_RESPONSE:
            self._error(error_sqlstate(raw), received_s, delivered_s)
        elif code == BackendCode.PARAMETER_DESCRIPTION:
            if head.prepared is not None and count == WHOLE:
                self.statements.described(head.prepared, oids=parse_parameter_description(raw))
        elif code == BackendCode.PORTAL_SUSPENDED:
            self._expect(kind == Kind.EXECUTE, code, kind)
            self.pipeline.pop()
            if head.statements:
                self._effects(head.statements[0], "", head.portal)  # it may never be fetched to its end
            self._end(head, Status.SUSPENDED, received_s, delivered_s)
        elif code == BackendCode.EMPTY_QUERY_RESPONSE:
            self._expect(kind in (Kind.EXECUTE, Kind.QUERY), code, kind)
            if kind == Kind.EXECUTE:
                self.pipeline.pop()
                self._end(head, Status.EMPTY, received_s, delivered_s)
        elif code == BackendCode.COPY_IN_RESPONSE:
            self._expect(kind in (Kind.EXECUTE, Kind.QUERY), code, kind)
            self.pipeline.copy_in()
        elif code in (BackendCode.COPY_DATA, BackendCode.COPY_DONE):
            head.bytes += len(raw)
        elif code not in (
            BackendCode.COPY_OUT_RESPONSE,
            BackendCode.COPY_BOTH_RESPONSE,
            BackendCode.FUNCTION_CALL_RESPONSE,
        ):
            raise ProtocolViolation(f"a backend message of unknown type 0x{code:02x}")
        return head

    def _expect(self, fits: bool, code: int, kind: int) -> None:
        if not fits:
            raise _unfit(code, kind)

    def _answer(self, head: Request, fits: bool, code: int) -> None:
        self._expect(fits, code, head.kind)
        self.pipeline.pop()

    def _row_description(self, head: Request, raw: bytes) -> None:
        if head.kind == Kind.QUERY:
            head.columns = raw
            head.sample = None
            head.sample_bytes = 0
            return
        if head.kind == Kind.DESCRIBE_STATEMENT:
            if head.prepared is not None:
                self.statements.described(head.prepared, columns=raw)
        elif head.kind == Kind.DESCRIBE_PORTAL:
            if head.portal is not None:
                head.portal.columns = raw
                self.statements.told(head.portal.prepared, raw)
                self._hand_down(head.portal, raw)
        else:
            raise _unfit(BackendCode.ROW_DESCRIPTION, head.kind)
        self.pipeline.pop()

    def _hand_down(self, portal: Portal, raw: bytes) -> None:
        """An Execute that was sent in one batch with the Describe learns its columns now."""
        following = self.pipeline.following()
        if following is not None and following.kind == Kind.EXECUTE and following.portal is portal:
            following.columns = raw

    def _complete(self, head: Request, tag: str, received_s: float, delivered_s: float) -> None:
        self._expect(head.kind in (Kind.EXECUTE, Kind.QUERY), BackendCode.COMMAND_COMPLETE, head.kind)
        if head.index < len(head.statements):
            statement = head.statements[head.index]
            self.statements.completed(tag, statement.recognised, statement.sequence)
            self._effects(statement, tag, head.portal)
            if tag in _BLOCK_TAGS:
                self._block(tag, statement)
        else:  # of a Query that nobody could read
            self.statements.completed(tag, UNKNOWN, self._sequence)
        self._end(head, Status.COMPLETE, received_s, delivered_s, tag)
        self.pipeline.copied()
        if head.kind == Kind.EXECUTE:
            self.pipeline.pop()
        else:
            head.index += 1
            head.columns = b""

    def _effects(self, statement: Statement, tag: str, portal: Portal | None) -> None:
        """What the statement has done to the session."""
        if self.context is not None:
            unknown = statement.sequence in self.unknown_effect
            self.context.completed(statement.recognised, tag, unknown_effect=unknown, portal=portal)

    def _failed_effects(self, statement: Statement) -> None:
        """What failed has done nothing to the session, unless it could commit before it failed."""
        unknown = statement.sequence in self.unknown_effect
        if self.context is not None and unknown and _first_word(statement) in _COMMITTING:
            self.context.distrust("a procedure that failed")

    def _block(self, tag: str, statement: Statement) -> None:
        """A transaction block began or ended. ReadyForQuery says so too, but in a pipeline it may come much later."""
        if tag in ("BEGIN", "START TRANSACTION"):
            if self.status == TransactionStatus.IDLE:  # otherwise the server only warns
                self._begin()
        elif "TO" not in statement.recognised.bare.upper().split():
            self.status = TransactionStatus.IDLE
            if self.context is not None:
                self.context.ended(committed=tag != "ROLLBACK")

    def _ready(self, head: Request, status: str, received_s: float, delivered_s: float) -> None:
        if head.kind not in (Kind.SYNC, Kind.QUERY, Kind.FUNCTION_CALL):
            raise _unfit(BackendCode.READY_FOR_QUERY, head.kind)
        self.pipeline.ready()
        # the server saw fewer statements in the Query than we did
        self._end_all(head, Status.LOST, received_s, delivered_s)
        if status == TransactionStatus.IDLE:
            if self.context is not None:
                self.context.ended(committed=not self._failed)
            if not len(self.pipeline):
                self.statements.end_transaction()  # else there may be portals of the next one among them
        elif self.status == TransactionStatus.IDLE:
            self._begin()  # COMMIT AND CHAIN
        self._failed = False
        self.refused = False
        self.status = status

    def _error(self, sqlstate: str, received_s: float, delivered_s: float) -> None:
        self._failed = True
        failed = self.pipeline.fail()
        if sqlstate == _SYNTAX_ERROR and self.status == TransactionStatus.IDLE and failed:
            self.refused = len(failed[0].statements) == 1 and _first_word(failed[0].statements[0]) not in _COMMITTING
        for number in range(len(failed) - 1, -1, -1):  # the last first: each remembers what it found
            self._undo(failed[number], skipped=number > 0)
            if failed[number].kind == Kind.CLOSE and failed[number].previous is not None:
                self._closing -= 1
        if failed and failed[0].index < len(failed[0].statements):
            self._failed_effects(failed[0].statements[failed[0].index])
        for number, request in enumerate(failed):
            self._end_all(
                request, Status.SKIPPED if number else Status.ERROR, received_s, delivered_s, "" if number else sqlstate
            )

    def _undo(self, request: Request, *, skipped: bool) -> None:
        """What the request did to names did not happen: it failed, or the server never looked at it."""
        if request.kind == Kind.PARSE and request.prepared is not None:
            # a failing Parse of the unnamed statement has destroyed the former one all the same, and so has a failing Query
            kept = skipped or request.name
            self.statements.undo(request.name, request.prepared, request.previous if kept else None)
        elif request.previous is not None and (request.kind == Kind.CLOSE or (request.kind == Kind.QUERY and skipped)):
            self.statements.undo(request.name, None, request.previous)

    def _undo_skipped(self) -> None:
        while self._skipped:
            self._undo(self._skipped.pop(), skipped=True)
        self._skipped_bytes = 0

    def _parameter_status(self, raw: bytes) -> None:
        name, value = parse_parameter_status(raw)
        if self.context is not None:
            self.context.reported(name, value)
        if name == "application_name":
            self.info.application_name = value


_SYNTAX_ERROR: Final = "42601"

_COMMITTING: Final = frozenset({"", "CALL", "DO"})
"""First words of statements that may commit before they fail; "" stands for those of which nobody saw the text."""


def _first_word(statement: Statement) -> str:
    words = statement.recognised.bare.split(None, 1)
    return words[0].upper() if words else ""


_KNOWN: Final = frozenset(
    {
        FrontendCode.QUERY,
        FrontendCode.PARSE,
        FrontendCode.BIND,
        FrontendCode.EXECUTE,
        FrontendCode.DESCRIBE,
        FrontendCode.CLOSE,
    }
)

_LONG: Final = frozenset({FrontendCode.QUERY, FrontendCode.PARSE, FrontendCode.BIND})

_BLOCK_TAGS: Final = frozenset({"BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION"})

_KIND_NAMES: Final = (
    "Parse",
    "Bind",
    "Describe",
    "Describe",
    "Execute",
    "Close",
    "Sync",
    "Query",
    "FunctionCall",
    "CopyDone",
)


def _unfit(code: int, kind: int) -> ProtocolViolation:
    return ProtocolViolation(f"a reply of type 0x{code:02x} to {_KIND_NAMES[kind]}")
