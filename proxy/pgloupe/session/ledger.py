"""What is counted of a session: its statements, batches and transaction blocks, and how each statement ended.

The observer knows the protocol and calls this; nothing here looks at a message. Times are the caller's.
"""

from __future__ import annotations

from pgloupe.session.pipeline import Pipeline, Request
from pgloupe.session.results import Result, columns_of, count_rows, take_sample
from pgloupe.session.statements import Portal
from pgloupe.wire.backend import tag_rows
from pgloupe.wire.codes import TransactionStatus
from pgloupe_rules.types import Outcome, Recognised, SessionInfo, Statement, Status


class Ledger:
    """Makes the statements and outcomes of one session. `outcomes` collects what ended; the session takes it."""

    __slots__ = (
        "_batch",
        "_finished_s",
        "_position",
        "_sequence",
        "_transaction",
        "info",
        "last_server_s",
        "outcomes",
        "pipeline",
        "status",
        "unknown_effect",
    )

    def __init__(self, info: SessionInfo) -> None:
        self.info = info
        self.pipeline = Pipeline()
        self.status: str = TransactionStatus.IDLE
        self.outcomes: list[Outcome] = []
        self.unknown_effect: set[int] = set()
        """Sequence numbers of outstanding statements that may do anything (told by the session)."""
        self.last_server_s = 0.0
        """Time on the server of the statement that ended last."""
        self._sequence = 0
        self._batch = 0
        self._transaction = 0
        self._position = 0
        self._finished_s = 0.0

    def _statement(
        self,
        recognised: Recognised,
        query: str,
        simple: bool,
        portal: Portal | None,
        received_s: float,
        *,
        first: bool = True,
    ) -> Statement:
        """`first`: of its message; those behind it in the same Query were sent with it."""
        self._sequence += 1
        serial = first and not self.pipeline.executing and not self.pipeline.skipping
        if serial:
            self._batch += 1
        in_block = self.status != TransactionStatus.IDLE
        if in_block:
            self._position += 1
        return Statement(
            self.info,
            self._sequence,
            recognised,
            query,
            simple=simple,
            prepared_name=portal.prepared.name if portal is not None else "",
            decode=portal.decode if portal is not None else None,
            received_s=received_s,
            batch=self._batch,
            serial=serial,
            status=self.status,
            transaction=self._transaction if in_block else 0,
            position=self._position if in_block else 0,
            size_bytes=len(portal.bind) if portal is not None else len(query) if query.isascii() else 4 * len(query),
        )

    def _begin(self) -> None:
        self._transaction += 1
        self._position = 0
        self.status = TransactionStatus.TRANSACTION

    def answered(self, request: Request, rows: bytes, tag: str, received_s: float, now_s: float) -> None:
        """The cache answered a request that never entered the pipeline."""
        request.received_s = request.dispatched_s = received_s
        request.bytes = len(rows)
        request.rows = count_rows(rows)
        if rows:
            take_sample(request, rows)
        self._end(request, Status.COMPLETE if tag else Status.SUSPENDED, received_s, now_s, tag)
        self.outcomes[-1].cache = "hit"

    def _end_all(
        self, request: Request, status: Status, received_s: float, delivered_s: float, sqlstate: str = ""
    ) -> None:
        """The statement in progress ends with `status`, those behind it in the same Query were skipped."""
        for index in range(request.index, len(request.statements)):
            request.index = index
            self._end(request, status, received_s, delivered_s, sqlstate=sqlstate)
            if status is Status.ERROR:
                status, sqlstate = Status.SKIPPED, ""
        request.index = len(request.statements)

    def _end(
        self,
        request: Request,
        status: Status,
        received_s: float,
        delivered_s: float,
        tag: str = "",
        sqlstate: str = "",
    ) -> None:
        if request.index >= len(request.statements):
            return
        statement = request.statements[request.index]
        self.unknown_effect.discard(statement.sequence)
        self.last_server_s = max(0.0, received_s - max(request.dispatched_s, self._finished_s))
        if not request.columns and request.portal is not None:
            # described in the same batch, so not known yet when the Execute was sent
            request.columns = request.portal.columns or request.portal.prepared.columns
        result = Result(request.columns, request.portal, request.sample) if request.sample else None
        self.outcomes.append(
            Outcome(
                statement,
                status,
                rows=request.rows or tag_rows(tag),
                size_bytes=request.bytes,
                command_tag=tag,
                sqlstate=sqlstate,
                dispatched_s=request.dispatched_s,
                finished_s=received_s,
                server_s=self.last_server_s,
                proxy_s=max(0.0, request.dispatched_s - request.received_s) + max(0.0, delivered_s - received_s),
                columns=columns_of(request.columns),
                decode=result.decode if result is not None else None,
                cache="miss" if request.capture is not None else "",
                cache_rule=request.cache_rule,
            )
        )
        self._finished_s = received_s
        request.rows = 0
        request.bytes = 0
        request.sample = None
        request.sample_bytes = 0

    def lost(self, now_s: float) -> None:
        """The session is over; what was outstanding has no known outcome."""
        for request in self.pipeline.drain():
            self._end_all(request, Status.LOST, now_s, now_s)
