"""What the server does not know of the unnamed statement because the client was answered here.

A client whose unnamed Parse was answered here believes that the server has that statement; one whose simple Query was
answered here, that the unnamed statement is gone. The debt is paid (a Parse or a Close put in, its reply swallowed) at the
beginning of the next batch that goes to the server, and is forgotten if that batch makes the name anew. At the beginning,
because there nothing can make the server skip it: a later batch that is on its way already may rely on it.

Source: protocol documentation, "Extended Query" (life of the unnamed statement).
"""

from __future__ import annotations

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import FrontendCode
from pgloupe.wire.frames import WHOLE
from pgloupe.wire.frontend import build_close, parse_named, parse_parse, parse_query


class Debt:
    """`owed` is the frame that the server is owed, b"" for none."""

    __slots__ = ("owed",)

    def __init__(self) -> None:
        self.owed = b""

    def owe_parse(self, parse: bytes) -> None:
        """The client's Parse of the unnamed statement was answered here."""
        self.owed = parse

    def owe_close(self) -> None:
        """A simple Query, which destroys the unnamed statement, was answered here."""
        self.owed = build_close("S", "")

    def forget(self, code: int, raw: bytes, count: int) -> None:
        """A frame goes to the server that settles the matter by itself. A malformed one does not: the server refuses it
        and keeps what it has."""
        try:
            if code == FrontendCode.QUERY:
                if count == WHOLE:
                    parse_query(raw)
                self.owed = b""
            elif code == FrontendCode.PARSE:
                if count == WHOLE and not parse_parse(raw)[0]:
                    self.owed = b""
            elif code == FrontendCode.CLOSE and parse_named(raw) == ("S", ""):
                self.owed = b""
        except ProtocolViolation:
            pass

    def pay(self) -> bytes:
        """The frame to put in now, b"" for none; it is owed no more."""
        owed, self.owed = self.owed, b""
        return owed
