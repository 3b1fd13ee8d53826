"""The requests that the backend has not answered yet, in order.

The protocol has no numbers: a reply belongs to the oldest request that can get it. So everything that reaches the server
and will be answered goes into a FIFO, and each reply is matched with its head.

What to do with its replies is said by a request: FORWARD (the client asked) or SKIP (we asked: the reply is
swallowed). What the cache answers never enters: it answers only while nothing is outstanding, because order is sacred,
so there is no third disposition.

Errors. After an ErrorResponse to an extended-query message the server reads and drops everything up to Sync, without
replies; so do we, with what is queued already and with what is still to come (`skipping`). An error of a simple Query or a
FunctionCall ends that request alone. While the server skips, it skips a Query as well: only Sync ends it.

COPY. From CopyInResponse to CopyDone or CopyFail the server reads Sync and Flush and ignores them, so a Sync that was sent
together with the Execute of a COPY FROM is never answered; the one behind CopyDone is. CopyDone and CopyFail are put into
the FIFO as marks that no reply belongs to, because they may be sent before CopyInResponse is seen.

A COPY FROM that fails may have failed before such a Sync was read (a trigger, a cancel request) or behind it (a line of the
data): nobody can tell whether it is going to be answered. It is *doubtful* then. A ReadyForQuery takes it as answered, and
so it is with those that follow it directly; any other reply, which belongs to something behind it, says that it never will be.
Until one of them comes it counts as outstanding.

Bounded: a frontend that sends requests without end is stopped by the server, which stops reading when it cannot write.
The link stops reading from the frontend while more than MAX_OUTSTANDING wait here, and what they keep of their messages is
counted (`kept_bytes`), so that whoever makes them can stop keeping.

Source: protocol documentation, "Extended Query", "Pipelining", "COPY Operations"; the server's postgres.c and
copyfromparse.c for what is ignored when.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.capture import Capture
from pgloupe.session.statements import Portal, Prepared
from pgloupe.wire.codes import BackendCode
from pgloupe_rules.types import Statement

MAX_OUTSTANDING: Final = 20_000

_ASIDE: Final = frozenset(
    {BackendCode.NOTICE_RESPONSE, BackendCode.NOTIFICATION_RESPONSE, BackendCode.PARAMETER_STATUS}
)
"""These belong to no request."""


class Reply:
    FORWARD: Final = 0
    SKIP: Final = 1


class Kind:
    PARSE: Final = 0
    BIND: Final = 1
    DESCRIBE_STATEMENT: Final = 2
    DESCRIBE_PORTAL: Final = 3
    EXECUTE: Final = 4
    CLOSE: Final = 5
    SYNC: Final = 6
    QUERY: Final = 7
    FUNCTION_CALL: Final = 8
    COPY_END: Final = 9


_EXECUTING: Final = frozenset({Kind.EXECUTE, Kind.QUERY, Kind.FUNCTION_CALL})


class Request:
    """One outstanding request. Most of the fields are for one kind only; one class keeps the queue simple and fast."""

    __slots__ = (
        "bytes",
        "cache_rule",
        "capture",
        "columns",
        "copying_in",
        "dispatched_s",
        "doubtful",
        "index",
        "kept_bytes",
        "kind",
        "name",
        "portal",
        "prepared",
        "previous",
        "received_s",
        "renames",
        "reply",
        "rows",
        "sample",
        "sample_bytes",
        "statements",
    )

    def __init__(self, kind: int, reply: int = Reply.FORWARD) -> None:
        self.kind = kind
        self.reply = reply
        self.name = ""
        self.prepared: Prepared | None = None
        """PARSE, DESCRIBE_STATEMENT: the statement it is about."""
        self.previous: Prepared | None = None
        """PARSE, CLOSE: what the name meant before, for the case that the request fails; QUERY: what the unnamed statement
        was, for the case that it is skipped."""
        self.portal: Portal | None = None
        self.statements: tuple[Statement, ...] = ()
        """EXECUTE: one; QUERY: those of the query string."""
        self.index = 0
        """QUERY: which statement's replies come now."""
        self.received_s = 0.0
        self.dispatched_s = 0.0
        self.rows = 0
        self.bytes = 0
        self.columns = b""
        """RowDescription frame of the result that comes now, b"" if not known."""
        self.sample: list[bytes] | None = None
        self.sample_bytes = 0
        self.capture: Capture | None = None
        self.cache_rule = ""
        """The rule under which the cache was asked for its answer, "" where it was not."""
        self.copying_in = False
        """CopyInResponse was seen and CopyDone or CopyFail was not sent yet."""
        self.doubtful = 0
        """SYNC: for how many it stands of which nobody can tell whether they are going to be answered."""
        self.renames = False
        """It runs a statement that may change what names of prepared statements mean."""
        self.kept_bytes = 0
        """How much of the message is kept in memory with the request."""


class Pipeline:
    """The FIFO. `head` is the request that the next reply belongs to."""

    __slots__ = ("_queue", "executing", "kept_bytes", "renaming", "skipping", "skips", "stalled")

    def __init__(self) -> None:
        self._queue: deque[Request] = deque()
        self.skipping = False
        """An extended-query message failed and the Sync that ends the skipping was not sent yet."""
        self.skips = 0
        """How many requests in the queue have the disposition SKIP."""
        self.executing = 0
        """How many requests in the queue run statements: EXECUTE, QUERY, FUNCTION_CALL."""
        self.renaming = 0
        """How many requests in the queue may change what names of prepared statements mean."""
        self.kept_bytes = 0
        """How much of their messages is kept in memory with the requests in the queue."""
        self.stalled = False
        """A copy failed, and whether the server is skipping until the next Sync depends on a doubtful one."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Request | None:
        return self._queue[0] if self._queue else None

    @property
    def settled(self) -> bool:
        """Nothing is outstanding but, perhaps, the answers to doubtful Syncs."""
        return not self._queue or (len(self._queue) == 1 and self._queue[0].doubtful > 0 and not self.stalled)

    def head_for(self, code: int) -> Request | None:
        """The request that a reply with this code belongs to. Doubtful Syncs before it are out of the queue then."""
        queue = self._queue
        if not queue:
            return None
        if queue[0].doubtful and queue[0].kind == Kind.SYNC and code != BackendCode.READY_FOR_QUERY:
            if code in _ASIDE:
                return None
            self.pop()
            return self._queue[0] if self._queue else None
        return queue[0]

    def following(self) -> Request | None:
        """The request behind the head."""
        return self._queue[1] if len(self._queue) > 1 else None

    def push(self, request: Request) -> None:
        queue = self._queue
        if request.kind == Kind.SYNC:
            self.stalled = False
            if len(queue) == 1 and queue[0].doubtful:
                queue[0].doubtful += 1  # whose answer the next ReadyForQuery is cannot be told
                return
        elif self.stalled:
            raise ProtocolViolation("a message behind a copy that failed, of which nobody knows whether it is skipped")
        queue.append(request)
        if request.reply == Reply.SKIP:
            self.skips += 1
        if request.kind in _EXECUTING:
            self.executing += 1
            if request.renames:
                self.renaming += 1
        self.kept_bytes += request.kept_bytes

    def pop(self) -> Request:
        """Take the head out: its last reply was seen."""
        queue = self._queue
        request = queue.popleft()
        if request.reply == Reply.SKIP:
            self.skips -= 1
        if request.kind in _EXECUTING:
            self.executing -= 1
            if request.renames:
                self.renaming -= 1
        self.kept_bytes -= request.kept_bytes
        while queue and queue[0].kind == Kind.COPY_END:
            queue.popleft()  # the copy that it would have ended is over, or never began
        if queue and queue[0].doubtful:
            self._absorb()
        return request

    def ready(self) -> None:
        """ReadyForQuery to the head."""
        head = self._queue[0]
        self.stalled = False
        if head.doubtful > 1:
            head.doubtful -= 1
        else:
            self.pop()

    def _absorb(self) -> None:
        """The head is a doubtful Sync: those directly behind it share its doubt."""
        queue = self._queue
        head = queue.popleft()
        while queue and queue[0].kind in (Kind.SYNC, Kind.COPY_END):
            request = queue.popleft()
            if request.kind == Kind.SYNC:
                head.doubtful += request.doubtful or 1
        queue.appendleft(head)

    def sync_sent(self) -> None:
        self.skipping = False

    def copy_in(self) -> None:
        """CopyInResponse to the head: what the server ignores now, up to the end of the copied data, is doubtful."""
        queue = self._queue
        if not queue:
            return
        head = queue[0]
        head.copying_in = True
        for position in range(1, len(queue)):
            request = queue[position]
            if request.kind == Kind.COPY_END:
                head.copying_in = False
                del queue[position]
                return
            if request.kind == Kind.SYNC:
                request.doubtful = 1
            # the server is going to refuse anything else; its error pops it

    def copying_in(self) -> bool:
        """The server reads copied data now."""
        return bool(self._queue) and self._queue[0].copying_in

    def copy_sync(self) -> None:
        """A Sync was sent while the server reads copied data."""
        last = self._queue[-1]
        if last.doubtful:
            last.doubtful += 1
        else:
            request = Request(Kind.SYNC)
            request.doubtful = 1
            self._queue.append(request)

    def copy_end(self) -> None:
        """CopyDone or CopyFail was sent."""
        if self.copying_in():
            self._queue[0].copying_in = False
        elif self._queue and not (len(self._queue) == 1 and self._queue[0].doubtful):
            self._queue.append(Request(Kind.COPY_END))

    def copied(self) -> None:
        """A command of the head is complete. If it was a copy, it has read what was sent before the end of its data."""
        queue = self._queue
        if len(queue) > 1 and queue[1].doubtful:
            head = queue.popleft()
            while queue and queue[0].doubtful:
                queue.popleft()
            queue.appendleft(head)

    def fail(self) -> list[Request]:
        """ErrorResponse: the requests that get no reply any more, the failed one first.

        For a simple Query or a FunctionCall that is the request itself, which stays until its ReadyForQuery. For the
        extended query it is everything up to Sync, taken out; without a Sync in the queue, what is still to come is
        skipped too.

        Raises ProtocolViolation where that depends on a doubtful Sync.
        """
        head = self.head
        if head is None:
            return []
        head.copying_in = False
        if head.kind in (Kind.QUERY, Kind.FUNCTION_CALL):
            return [head]
        if head.kind == Kind.SYNC:
            return []  # the commit of an implicit transaction failed; ReadyForQuery follows
        failed: list[Request] = []
        if len(self._queue) > 1 and self._queue[1].doubtful:
            self.stalled = not self._sync_behind_doubts()
        while self._queue and self._queue[0].kind != Kind.SYNC:
            failed.append(self.pop())
        self.skipping = not self._queue
        return failed

    def _sync_behind_doubts(self) -> bool:
        """The copy at the head failed. True if the skipping surely ends with a Sync that was sent already, False if that
        depends on what comes."""
        for request in self._queue:
            if request.kind == Kind.SYNC and not request.doubtful:
                return True
            if request.kind not in (Kind.SYNC, Kind.COPY_END) and request is not self._queue[0]:
                raise ProtocolViolation(
                    "messages behind a copy that failed, of which nobody knows whether they are skipped"
                )
        return False

    def drain(self) -> list[Request]:
        """The session is over: everything that was never answered."""
        lost = [request for request in self._queue if request.kind != Kind.COPY_END]
        self._queue.clear()
        self.skips = 0
        self.executing = 0
        self.renaming = 0
        self.kept_bytes = 0
        self.stalled = False
        return lost
