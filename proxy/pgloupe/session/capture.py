"""The reply of one cycle, collected as the backend sent it, for the cache.

Only a clean reply is kept: rows, and a command tag or the end of a row limit, with nothing unusual among them and the
session idle behind them. ParseComplete, BindComplete, CloseComplete and ReadyForQuery are made anew for each answer.

Source: protocol documentation, "Extended Query".
"""

from __future__ import annotations

from typing import Final

from pgloupe.wire.backend import parse_command_complete
from pgloupe.wire.codes import BackendCode
from pgloupe.wire.frames import WHOLE, FrameReader


class Capture:
    """Collects the replies of one cycle for the cache. `ticket` is the cache's; given up when anything is unusual."""

    __slots__ = (
        "body",
        "complete",
        "limit_bytes",
        "limit_rows",
        "row_description",
        "rows",
        "rule",
        "size",
        "spoilt",
        "ticket",
        "why",
    )

    def __init__(self, ticket: object, limit_bytes: int, limit_rows: int = 0, rule: str = "") -> None:
        self.ticket = ticket
        self.limit_bytes = limit_bytes
        self.limit_rows = limit_rows
        """0 for any number."""
        self.rule = rule
        self.row_description = b""
        self.body: list[bytes] = []
        self.size = 0
        self.rows = 0
        self.complete = False
        """The command tag, or PortalSuspended, was seen."""
        self.spoilt = False
        self.why = ""
        """Why it is not to be stored: one of few fixed texts."""

    def take(self, code: int, raw: bytes, count: int) -> None:
        """A frame of the reply, up to its ReadyForQuery."""
        if code in _UNSTORED:
            return
        if code == BackendCode.READY_FOR_QUERY:
            if raw[-1:] != b"I":
                self.spoil("an unusual reply")
        elif code == BackendCode.ERROR_RESPONSE:
            self.spoil("an error")
        elif count < WHOLE or code not in _STORED:
            self.spoil("an unusual reply")
        elif code == BackendCode.ROW_DESCRIPTION:
            self.row_description = raw
            self.size += len(raw)
        elif code == BackendCode.DATA_ROW:
            self.add(raw)
            self.rows += count
            if 0 < self.limit_rows < self.rows:
                self.spoil("too many rows")
        else:
            ended = code == BackendCode.PORTAL_SUSPENDED or parse_command_complete(raw).startswith("SELECT")
            if self.complete or not ended:
                self.spoil("an unusual reply")
            self.add(raw)
            self.complete = True

    def add(self, raw: bytes) -> None:
        self.size += len(raw)
        if self.size > self.limit_bytes:
            self.spoil("too large")
        elif not self.spoilt:
            self.body.append(raw)

    def spoil(self, why: str) -> None:
        """Not to be stored. The ticket is let go at once: others may wait for the answer."""
        if not self.spoilt:
            self.why = why
        self.spoilt = True
        self.ticket = None
        self.body.clear()


_UNSTORED: Final = frozenset({BackendCode.PARSE_COMPLETE, BackendCode.BIND_COMPLETE, BackendCode.CLOSE_COMPLETE})

_STORED: Final = frozenset(
    {
        BackendCode.ROW_DESCRIPTION,
        BackendCode.DATA_ROW,
        BackendCode.COMMAND_COMPLETE,
        BackendCode.PORTAL_SUSPENDED,
    }
)


def split(body: bytes) -> tuple[bytes, str]:
    """The rows of a stored answer and its command tag; "" where it ends by a row limit."""
    rows = b""
    tag = ""
    for code, raw, _ in FrameReader(join_rows=True).feed(body):
        if code == BackendCode.DATA_ROW:
            rows = raw
        elif code == BackendCode.COMMAND_COMPLETE:
            tag = parse_command_complete(raw)
    return rows, tag
