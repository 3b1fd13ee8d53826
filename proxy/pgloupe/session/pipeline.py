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

Bounded: a frontend that sends requests without end is stopped by the server, which stops reading when it cannot write.
The link stops reading from the frontend while more than MAX_OUTSTANDING wait here.

Source: protocol documentation, "Extended Query", "Pipelining", "COPY Operations"; the server's postgres.c and
copyfromparse.c for what is ignored when.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pgloupe.session.capture import Capture
from pgloupe.session.statements import Portal, Prepared
from pgloupe_rules.types import Statement

MAX_OUTSTANDING: Final = 20_000


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


class Request:
    """One outstanding request. Most of the fields are for one kind only; one class keeps the queue simple and fast."""

    __slots__ = (
        "bytes",
        "capture",
        "columns",
        "copying_in",
        "dispatched_s",
        "index",
        "kind",
        "name",
        "portal",
        "prepared",
        "previous",
        "received_s",
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
        self.copying_in = False
        """CopyInResponse was seen and CopyDone or CopyFail was not sent yet."""


class Pipeline:
    """The FIFO. `head` is the request that the next reply belongs to."""

    __slots__ = ("_queue", "executing", "skipping", "skips")

    def __init__(self) -> None:
        self._queue: deque[Request] = deque()
        self.skipping = False
        """An extended-query message failed and the Sync that ends the skipping was not sent yet."""
        self.skips = 0
        """How many requests in the queue have the disposition SKIP."""
        self.executing = 0
        """How many requests in the queue run statements: EXECUTE, QUERY, FUNCTION_CALL."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Request | None:
        return self._queue[0] if self._queue else None

    def following(self) -> Request | None:
        """The request behind the head."""
        return self._queue[1] if len(self._queue) > 1 else None

    def push(self, request: Request) -> None:
        self._queue.append(request)
        if request.reply == Reply.SKIP:
            self.skips += 1
        if request.kind in (Kind.EXECUTE, Kind.QUERY, Kind.FUNCTION_CALL):
            self.executing += 1

    def pop(self) -> Request:
        """Take the head out: its last reply was seen."""
        queue = self._queue
        request = queue.popleft()
        if request.reply == Reply.SKIP:
            self.skips -= 1
        if request.kind in (Kind.EXECUTE, Kind.QUERY, Kind.FUNCTION_CALL):
            self.executing -= 1
        while queue and queue[0].kind == Kind.COPY_END:
            queue.popleft()  # the copy that it would have ended is over, or never began
        return request

    def sync_sent(self) -> None:
        self.skipping = False

    def copy_in(self) -> None:
        """CopyInResponse to the head: drop what the server ignores now, up to the end of the copied data."""
        head = self.head
        if head is None:
            return
        queue = self._queue
        head.copying_in = True
        kept = [queue.popleft()]
        while queue:
            request = queue.popleft()
            if request.kind == Kind.COPY_END:
                head.copying_in = False
                break
            if request.kind != Kind.SYNC:
                kept.append(request)  # the server is going to refuse it; its error pops it
        queue.extendleft(reversed(kept))

    def copying_in(self) -> bool:
        """The server reads copied data now."""
        return bool(self._queue) and self._queue[0].copying_in

    def copy_end(self) -> None:
        """CopyDone or CopyFail was sent."""
        if self.copying_in():
            self._queue[0].copying_in = False
        elif self._queue:
            self._queue.append(Request(Kind.COPY_END))

    def fail(self) -> list[Request]:
        """ErrorResponse: the requests that get no reply any more, the failed one first.

        For a simple Query or a FunctionCall that is the request itself, which stays until its ReadyForQuery. For the
        extended query it is everything up to Sync, taken out; without a Sync in the queue, what is still to come is
        skipped too.
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
        while self._queue and self._queue[0].kind != Kind.SYNC:
            failed.append(self.pop())
        self.skipping = not self._queue
        return failed

    def drain(self) -> list[Request]:
        """The session is over: everything that was never answered."""
        lost = [request for request in self._queue if request.kind != Kind.COPY_END]
        self._queue.clear()
        self.skips = 0
        self.executing = 0
        return lost
