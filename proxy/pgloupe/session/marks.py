"""The mark of one session's writes: which tables are announced, and what is still to be told back.

A mark is made before the first statement that may write goes to the server (`begin`, then `begun`), grows when more tables
join, and ends before the client sees that its transaction is over (`end`, then `ended`). Writes that are on their way to the
server by then get a new one in the same breath. A session that is gone has its mark ended by `lose`, at once or when what is
under way is told back: there is never a mark that nobody ends, and none is ended twice.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pgloupe.session.actions import BeginWrite, EndWrite

Tables: TypeAlias = frozenset[str] | None
"""None stands for any table."""

NO_TABLES: Final[frozenset[str]] = frozenset()


def union(one: Tables, other: Tables) -> Tables:
    return None if one is None or other is None else one | other


class Marks:
    """See the head of the module. What it gives is to be done by the owner of the session."""

    __slots__ = ("_begins", "_ending", "_mark", "_tables", "_writes")

    def __init__(self) -> None:
        self._mark: object | None = None
        self._tables: Tables = NO_TABLES
        self._writes = 0
        self._begins = 0  # BeginWrites that were not told back yet
        self._ending: object | None = None  # the mark of an EndWrite that was not told back yet

    @property
    def held(self) -> bool:
        """There is a mark."""
        return self._mark is not None

    @property
    def single(self) -> bool:
        """One statement was sent under the mark."""
        return self._writes == 1

    def covers(self, tables: Tables) -> bool:
        """A write of these tables may be sent. Counts it."""
        if self._mark is None or not (self._tables is None or (tables is not None and tables <= self._tables)):
            return False
        self._writes += 1
        return True

    def begin(self, tables: Tables) -> BeginWrite:
        """These tables are to be marked as well."""
        self._tables = union(self._tables, tables)
        self._begins += 1
        return BeginWrite(tables, self._mark)

    def begun(self, mark: object) -> object | None:
        """A BeginWrite was done. Gives the mark that was there before, if this one takes its place."""
        self._begins -= 1
        former, self._mark = self._mark, mark
        return former if former is not mark else None

    def end(self, *, again: bool, refused: bool) -> EndWrite:
        """The transaction is over. `again`: more writes are on their way."""
        self._ending = self._mark
        return EndWrite(self._mark, again, self._tables, refused)

    def ended(self, mark: object | None) -> None:
        """An EndWrite was done; `mark` is for the writes that are on their way."""
        self._ending = None
        self._mark = mark
        if mark is None:
            self._tables = NO_TABLES
            self._writes = 0

    def begin_all(self) -> BeginWrite:
        """The session cannot be followed any more: until it ends, everything is marked."""
        if self._ending is not None and self._mark is self._ending:
            self._mark = None  # that one is over
        return self.begin(None)

    def lose(self, *, rolled_back: bool = False) -> EndWrite | None:
        """The session is gone. None if there is no mark to end, or not yet: after what is told back later, this is called
        again. `rolled_back`: what it wrote is surely undone. What a function did beside the transaction is not, so that the
        mark ends as after a commit; but nobody has to wait for what the server may still do."""
        if self._mark is None or self._begins or self._mark is self._ending:
            return None
        mark, self._mark = self._mark, None
        return EndWrite(mark, lost=not rolled_back)
