"""A session with a cache: reads that may be answered here, writes that must be announced first.

The frontend's frames are looked at before they go on. The backend's are looked at first only while something has to be
swallowed or held (the reply to a request of ours; the ReadyForQuery that tells the client that its write is done), and go
out first otherwise.

Reads. Only while nothing is outstanding, between two messages of the server, outside of a transaction block, in a session
whose context is known, a whole cycle (see `cycle`) that a rule allows is asked for (`Ask`) and either answered or sent on
with a capture of its reply. Where a Sync is due for what the client sent before (asyncpg prepares with Flush), the rows are
answered here and the cycle's Sync goes to the server, so that it does not keep the locks of its open transaction.

Writes. Before a statement that may write reaches the server its tables are marked (`BeginWrite`); the mark is taken off,
and what depended on the tables made unreachable, before the client sees the ReadyForQuery with which its transaction is over
(`EndWrite`). A session that ends with a mark ends it too: nobody knows what became of its writes.

Debts (see `debt`) are paid at the beginning of the next batch that goes to the server.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from pgloupe.errors import ProtocolViolation
from pgloupe.session.actions import Ask, EndWrite, Fill
from pgloupe.session.capture import Capture, split
from pgloupe.session.context import Context
from pgloupe.session.cycle import NONE, PARTIAL, Cycle, QueuedFrame, find_cycle
from pgloupe.session.debt import Debt
from pgloupe.session.marks import Marks
from pgloupe.session.pipeline import Kind, Reply, Request
from pgloupe.session.session import Session
from pgloupe.session.statements import UNKNOWN
from pgloupe.session.states import Phase
from pgloupe.session.writes import Effects, Writes
from pgloupe.wire.backend import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, READY_IDLE
from pgloupe.wire.codes import BackendCode, FrontendCode, TransactionStatus
from pgloupe.wire.frames import BROKEN, Frame
from pgloupe.wire.frontend import parse_bind_names, parse_bind_values
from pgloupe_rules.types import Cacheable, Decision, Recognised, Recogniser, SessionInfo, Statement

KEEP_ALIVE_S: Final = 20.0
"""A session that lives on answers from here is idle for the server. After so long one read goes there all the same, so that
idle_session_timeout does not end a session that is in use."""


class Policy(Effects, Protocol):
    """What the gate asks the rules."""

    def decide(self, statement: Statement, /) -> Decision: ...

    def unasked(self, statement: Statement, why: str, /) -> None:
        """A statement goes to the server and the cache was not asked; `why` is the reason if a rule would allow it."""
        ...

    def not_stored(self, rule: str, why: str, /) -> None:
        """The server's answer to a read that this rule allows is not one to be stored."""
        ...

    def defaults_change(self, recognised: Recognised, /) -> bool:
        """It changes the settings with which sessions begin. Has counted that by `defaults_changed` then."""
        ...

    def defaults_changed(self) -> None:
        """Sessions that began before now are not to share answers with those that begin later."""
        ...

    def strange(self, recognised: Recognised, /) -> bool:
        """It may change settings, roles or names in ways that cannot be followed."""
        ...


class GatedSession(Session):
    """See the head of the module."""

    def __init__(self, info: SessionInfo, recognise: Recogniser, context: Context, policy: Policy) -> None:
        super().__init__(info, recognise, context)
        self._context = context
        self._policy = policy
        self._recognise = recognise
        self._frontend_queue: deque[QueuedFrame] = deque()
        self._backend_queue: deque[tuple[Frame, float]] = deque()
        self._sent_ahead = 0  # bytes of the backend's unfinished frame that the client has already
        self._cycle: Cycle | None = None  # the one that was asked for
        self._capture: Capture | None = None
        self._pending_capture: Capture | None = None
        self._passing = 0  # frames of a cycle that was asked for and has no answer
        self.holding = False
        """A cycle is not whole yet. The caller sees to it that `release` is called soon."""
        self._marks = Marks()
        self._writes = Writes(policy, info.database, recognise, self.observer.statements)
        self._sent_s = float("inf")  # when the server was last sent something that it answers
        self._changes_defaults = False  # a statement under way changes with what settings sessions begin
        self._released = False  # the ReadyForQuery in the queue waits for no EndWrite any more
        self._open = False  # the server waits for a Sync and holds the locks of the transaction that it will end
        self._asked: Cacheable | None = None  # the rule of the cycle that was asked for
        self._asked_context = b""
        self._pending_rule = ""
        self._debt = Debt()

    # --- frontend ---

    def receive_frontend(self, data: bytes, now_s: float) -> None:
        self._now_s = now_s
        if self.phase >= Phase.OPAQUE:
            self._to_backend.append(data)
            return
        for code, raw, count in self._frontend_reader.feed(data):
            self._frontend_queue.append((code, raw, count, now_s))
        self._pump_frontend(now_s)

    def release(self, now_s: float) -> None:
        """The rest of a cycle did not come in time: what there is goes on."""
        if self.holding:
            self.holding = False
            self._passing = len(self._frontend_queue)
            self._pump_frontend(now_s)

    def _pump_frontend(self, now_s: float) -> None:
        queue = self._frontend_queue
        try:
            while queue and not self.frontend_blocked:
                if not self._passing and self._may_answer():
                    cycle = find_cycle(queue, self.observer.statements, self._recognise)
                    if cycle.length != NONE and self._consider(cycle):
                        return
                self.holding = False
                if not self._pass(now_s):
                    return
            if not queue and self._frontend_reader.unfinished not in _BEGUN:
                # nobody knows how long the server wants to wait for the rest of it
                raise ProtocolViolation(f"a frontend message of unknown type 0x{self._frontend_reader.unfinished:02x}")
        except ProtocolViolation as error:
            self.lose_track(str(error))

    def _may_answer(self) -> bool:
        observer = self.observer
        return (
            self.phase == Phase.READY
            and not len(observer.pipeline)
            and observer.status == TransactionStatus.IDLE
            and not observer.pipeline.skipping
            and not self._marks.held
            and not self._backend_queue
            and not self._unread_backend
            and self._backend_reader.clean  # the client may have the beginning of a message
            and not self._last_word
            and self._now_s - self._sent_s < KEEP_ALIVE_S
            and self._context.key() is not None
            and not self._context.pending  # by Execute and Flush: the transaction is open
        )

    def _consider(self, cycle: Cycle) -> bool:
        """Ask for the cycle, or hold its beginning. False: it goes to the server."""
        recognised = cycle.recognised
        context = self._context.key()
        if recognised is None or context is None or (self._open and cycle.simple):
            return False
        statement = Statement(self.info, 0, recognised, cycle.query, simple=cycle.simple)
        decision = self._policy.decide(statement)
        if not isinstance(decision, Cacheable):
            return False
        if cycle.length == PARTIAL:
            self.holding = True
            return True
        self.holding = False
        self._cycle = cycle
        self._asked = decision
        self._asked_context = context
        self.frontend_blocked = True
        self.actions.append(self._question(cycle, decision, context, recognised))
        return True

    def _question(self, cycle: Cycle, rule: Cacheable, context: bytes, recognised: Recognised) -> Ask:
        parameters = b""
        results: tuple[int, ...] = ()
        oids: tuple[int, ...] = ()
        if cycle.bind and cycle.prepared is not None:
            offset = parse_bind_names(cycle.bind)[2]
            parameters = cycle.bind[offset:]
            results = parse_bind_values(cycle.bind, offset)[2]
            parameters = parameters[: len(parameters) - 2 - 2 * len(results)]
            oids = cycle.prepared.oids
        common, roles = (b"", ()) if rule.key_by_user else self._context.common()
        return Ask(
            rule,
            context,
            recognised,
            cycle.simple,
            oids,
            parameters,
            results,
            cycle.limit,
            late=self._open,
            described=cycle.described,
            columns=b"" if cycle.described or cycle.prepared is None else cycle.prepared.columns,
            common=common,
            roles=roles,
        )

    def answered(
        self, answer: tuple[bytes, bytes] | None, ticket: object | None, limit_bytes: int, now_s: float
    ) -> None:
        """The result of an `Ask`: RowDescription (or b"") and the rows with their CommandComplete; or None, and the
        ticket under which the server's answer may be stored (None: not at all)."""
        cycle = self._cycle
        self._cycle = None
        rule = self._asked
        self._asked = None
        self.frontend_blocked = False
        if cycle is None or rule is None or self.phase != Phase.READY:
            return
        if self._context.key() != self._asked_context:
            answer = ticket = None  # the server has reported something meanwhile
        if answer is not None and self._may_answer():
            self._reply(cycle, answer, rule.rule, now_s)
        else:
            self._passing = cycle.length
            self._pending_rule = rule.rule
            self._pending_capture = (
                Capture(ticket, limit_bytes, rule.max_rows, rule.rule) if ticket is not None else None
            )
        self._pump_frontend(now_s)

    def _reply(self, cycle: Cycle, answer: tuple[bytes, bytes], rule: str, now_s: float) -> None:
        row_description, body = answer
        queue = self._frontend_queue
        received_s = queue[cycle.length - 1][3]
        observer = self.observer
        if cycle.simple:
            request = observer.simple(cycle.query, received_s)
            self._debt.owe_close()
            reply = row_description + body
        else:
            if cycle.parse:
                observer.parse(cycle.parse)
                self._debt.owe_parse(cycle.parse)
            portal = observer.bind(cycle.bind)
            request = Request(Kind.EXECUTE)
            request.portal = portal
            request.statements = (observer.execute(portal, received_s),)
            if row_description and cycle.prepared is not None:
                observer.statements.told(cycle.prepared, row_description)
            reply = (PARSE_COMPLETE if cycle.parse else b"") + BIND_COMPLETE + row_description + body
            if cycle.closed:
                reply += CLOSE_COMPLETE
        request.columns = row_description or (cycle.prepared.columns if cycle.prepared is not None else b"")
        # a Sync that is due goes to the server, which ends its transaction and says that it is ready
        for _ in range(cycle.length - 1 if self._open else cycle.length):
            queue.popleft()
        self._passing = 1 if self._open else 0
        self._to_frontend.append(reply if self._open else reply + READY_IDLE)
        request.cache_rule = rule
        rows, tag = split(body)
        observer.answered(request, rows, tag, received_s, now_s)

    def _pass(self, now_s: float) -> bool:
        """Send the first frame of the queue on. False if it must wait for a mark."""
        queue = self._frontend_queue
        code, raw, count, received_s = queue[0]
        if self.observer.pipeline.stalled and code in _ASKS:
            raise ProtocolViolation("a message behind a copy that failed, of which nobody knows whether it is skipped")
        if count == BROKEN:
            raise ProtocolViolation("a message declares a length that no message can have")
        if code in _MAY_WRITE and not self._announce(code, raw, count):
            return False
        queue.popleft()
        self.holding = False
        if self._passing:
            self._passing -= 1
        if self._debt.owed:
            self._pay(code, raw, count)
        self._to_backend.append(raw)
        idle = now_s - self._sent_s >= KEEP_ALIVE_S
        self._sent_s = now_s
        request = self.observer.frontend(code, raw, count, received_s, now_s)
        if self.phase < Phase.READY:
            self._check_early()
        if code in _OPENS:
            self._open = True
        elif code == FrontendCode.TERMINATE:
            self._last_word = True
        elif code == FrontendCode.FUNCTION_CALL:
            self._context.distrust("a function call by the fast path")
        if request is not None and request.statements and not self.observer.pipeline.skipping:
            for statement in request.statements:
                if statement.recognised is UNKNOWN or self._policy.strange(statement.recognised):
                    self.observer.unknown_effect.add(statement.sequence)
                    if self._policy.defaults_change(statement.recognised):
                        self._changes_defaults = True
            if self._pending_rule:
                request.cache_rule = self._pending_rule
                self._pending_rule = ""
                if self._pending_capture is not None:
                    request.capture = self._capture = self._pending_capture
                    self._pending_capture = None
            else:
                for statement in request.statements:
                    self._policy.unasked(statement, self._why_unasked(request, statement, idle))
        return True

    def _why_unasked(self, request: Request, statement: Statement, idle: bool) -> str:
        if statement.status != "I":
            return "in a transaction block"
        if self._context.reason:
            return f"the session: {self._context.reason}"
        if self._context.pending:
            return "the transaction has settings of its own"
        if len(request.statements) > 1:
            return "several statements in one Query"
        if not statement.serial:
            return "sent behind another statement"
        if self._marks.held:
            return "the session's own write"
        if idle:
            return "to keep the session alive"
        return "not in a form that is answered"

    def _announce(self, code: int, raw: bytes, count: int) -> bool:
        """True if the frame may go on: it writes nothing, or its tables are marked."""
        tables = self._writes.of_frame(code, raw, count) if self._context.readable() else None
        if (tables is not None and not tables) or self._marks.covers(tables):
            return True
        self.frontend_blocked = True
        self.actions.append(self._marks.begin(tables))
        return False

    def marked(self, mark: object, now_s: float) -> None:
        """The result of a `BeginWrite`."""
        former = self._marks.begun(mark)
        if self.phase >= Phase.OPAQUE:
            if former is not None:
                self.actions.append(EndWrite(former, lost=True))
            if self.phase == Phase.CLOSED:
                self._lose_mark()
            return
        self.frontend_blocked = False
        self._pump_frontend(now_s)

    def _lose_mark(self, *, rolled_back: bool = False) -> None:
        """The session is closed. What is still to be told back ends its mark then."""
        lost = self._marks.lose(rolled_back=rolled_back)
        if lost is not None:
            self.actions.append(lost)

    def _rolls_back(self) -> bool:
        """If the session ended now, the server would roll its transaction back: it stands open, and nothing that could
        commit it is on its way."""
        return (
            self.phase == Phase.READY
            and self.observer.status in (TransactionStatus.TRANSACTION, TransactionStatus.FAILED)
            and not len(self.observer.pipeline)
            and not (self._frontend_queue or self._backend_queue or self._unread_backend)
        )

    def _pay(self, code: int, raw: bytes, count: int) -> None:
        """Settle what the server does not know about the unnamed statement, if the batch that this frame begins could
        tell."""
        self._debt.forget(code, raw, count)
        if code in _OPENS and (owed := self._debt.pay()):
            self.observer.pipeline.push(
                Request(Kind.PARSE if owed[0] == FrontendCode.PARSE else Kind.CLOSE, Reply.SKIP)
            )
            self._to_backend.append(owed)

    # --- backend ---

    def receive_backend(self, data: bytes, now_s: float) -> None:
        self._now_s = now_s
        if self._unread_backend:
            self.analyse(now_s)
        if self.phase >= Phase.OPAQUE:
            self._to_frontend.append(data)
            return
        if not (self.observer.pipeline.skips or self._marks.held or self._backend_queue):
            if self._backend_reader.pending > self._sent_ahead:
                self._to_frontend.append(self._backend_reader.tail(self._sent_ahead))
            self._to_frontend.append(data)
            self._unread_backend.append((data, now_s))
            self._sent_ahead = _ALL  # until `analyse` has told how much of it the reader keeps
            return
        for code, raw, count in self._backend_reader.feed(data):
            self._backend_queue.append(((code, raw, count), now_s))
        self._pump_backend(now_s)

    def _pump_backend(self, now_s: float) -> None:
        queue = self._backend_queue
        try:
            while queue and not self.backend_blocked:
                (code, raw, count), received_s = queue[0]
                if code == BackendCode.READY_FOR_QUERY and self._marks.held and self._hold_ready(raw):
                    return
                head = self.observer.pipeline.head_for(code) if code in _SWALLOWED else None
                swallowed = head is not None and head.reply == Reply.SKIP
                self._look_backend(code, raw, count, received_s, now_s)
                queue.popleft()
                if not swallowed:
                    self._to_frontend.append(raw[self._sent_ahead :] if self._sent_ahead else raw)
                self._sent_ahead = 0
        except ProtocolViolation as error:
            self.lose_track(str(error))

    def _hold_ready(self, raw: bytes) -> bool:
        """The transaction that wrote may be over: have its tables released before the client reads on."""
        pipeline = self.observer.pipeline
        head = pipeline.head
        if self._released or self.frontend_blocked or raw[-1:] != b"I" or head is None:
            return False
        own = 1 if head.kind in (Kind.QUERY, Kind.FUNCTION_CALL) else 0
        # nothing of the frontend goes on meanwhile: it would count on a mark that is about to end
        self.backend_blocked = True
        self.frontend_blocked = True
        again = pipeline.executing > own
        refused = self.observer.refused and self._marks.single and not again
        self.actions.append(self._marks.end(again=again, refused=refused))
        return True

    def unmarked(self, mark: object | None, now_s: float) -> None:
        """The result of an `EndWrite`: the mark that took the place of the ended one, None if it was not asked for."""
        if self.phase >= Phase.OPAQUE:
            if mark is not None:
                self.actions.append(EndWrite(mark, lost=True))
            return
        self._marks.ended(mark)
        if self._changes_defaults:
            # once more: sessions that began while it was under way still have the old ones
            self._changes_defaults = False
            self._policy.defaults_changed()
        self.backend_blocked = False
        self.frontend_blocked = False
        self._released = True
        self._pump_backend(now_s)
        self._pump_frontend(now_s)

    def _look_backend(self, code: int, raw: bytes, count: int, received_s: float, delivered_s: float) -> None:
        super()._look_backend(code, raw, count, received_s, delivered_s)
        if code == BackendCode.READY_FOR_QUERY:
            self._released = False
            if not len(self.observer.pipeline):
                self._open = False
        capture = self._capture
        if capture is not None:
            capture.take(code, raw, count)
            if code == BackendCode.READY_FOR_QUERY:
                self._capture = None
                if capture.spoilt:
                    self._policy.not_stored(capture.rule, capture.why)
                elif capture.complete:
                    self.actions.append(Fill(capture, self.observer.last_server_s))

    # --- ends ---

    @property
    def _between_messages(self) -> bool:
        # of a message that is held back until it is whole the client has nothing
        return self._sent_ahead == 0 if self._backend_reader.pending else self._backend_reader.clean

    def analyse(self, now_s: float) -> None:
        super().analyse(now_s)
        if self._sent_ahead == _ALL:
            self._sent_ahead = self._backend_reader.pending
        if self._frontend_queue and not self.frontend_blocked and not self.holding:
            self._pump_frontend(now_s)

    def lose_track(self, why: str) -> None:
        if self.phase >= Phase.OPAQUE:
            return
        unread = bool(self._unread_backend)
        super().lose_track(why)
        self.frontend_blocked = False
        self.backend_blocked = False
        self.holding = False
        self._capture = None
        self._to_backend.extend(raw for _, raw, _, _ in self._frontend_queue)
        self._to_backend.append(self._frontend_reader.tail())
        for (_, raw, _), _ in self._backend_queue:
            self._to_frontend.append(raw[self._sent_ahead :] if self._sent_ahead else raw)
            self._sent_ahead = 0
        if not unread and self._sent_ahead != _ALL:
            self._to_frontend.append(self._backend_reader.tail(self._sent_ahead))
        self._frontend_queue.clear()
        self._backend_queue.clear()
        if not self.must_close:
            self.actions.append(self._marks.begin_all())

    def close(self, now_s: float) -> None:
        rolled_back = self._rolls_back()
        super().close(now_s)
        self._lose_mark(rolled_back=rolled_back)


_ALL: Final = 1 << 62

_MAY_WRITE: Final = frozenset({FrontendCode.QUERY, FrontendCode.EXECUTE, FrontendCode.FUNCTION_CALL})

_ASKS: Final = frozenset(
    {
        FrontendCode.QUERY,
        FrontendCode.PARSE,
        FrontendCode.BIND,
        FrontendCode.DESCRIBE,
        FrontendCode.EXECUTE,
        FrontendCode.CLOSE,
        FrontendCode.FUNCTION_CALL,
    }
)

_BEGUN: Final = _ASKS | {
    FrontendCode.COPY_DATA,
    FrontendCode.COPY_DONE,
    FrontendCode.COPY_FAIL,
    FrontendCode.FLUSH,
    FrontendCode.PASSWORD,
    FrontendCode.SYNC,
    FrontendCode.TERMINATE,
    -1,
}
"""What the beginning of a message may be; -1 for none."""

_OPENS: Final = frozenset(
    {
        FrontendCode.PARSE,
        FrontendCode.BIND,
        FrontendCode.DESCRIBE,
        FrontendCode.EXECUTE,
        FrontendCode.CLOSE,
        FrontendCode.COPY_DONE,
        FrontendCode.COPY_FAIL,
    }
)
"""After one of these the server waits for a Sync, at least where the copy was by the extended query."""

_SWALLOWED: Final = frozenset({BackendCode.PARSE_COMPLETE, BackendCode.CLOSE_COMPLETE})
