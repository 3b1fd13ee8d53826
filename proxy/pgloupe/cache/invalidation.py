"""Versions of tables and the marks of writes under way: what makes a stored answer unreachable.

The promise: an answer from the cache is at least as new as every write that was acknowledged before the read began. It
rests on four rules.

1. Each table has a version, and there is one epoch for all. A version is a token that never comes again; to raise it is
   to forget it, and the next reader makes a new one. So only what is read takes room.
2. A read takes the tokens of all it depends on when it is handed to the server, and its answer is stored under those.
   A write in between takes a token away, and nobody can ask for that entry again.
3. A write marks its tables dirty before it is handed to the server; while a mark is on, nothing is answered from these
   tables and nothing is stored. The tokens are raised after the commit was answered and before the client hears of it.
4. Who cannot say what became of a write (the connection is lost, the proxy was killed) leaves the mark to its lease: the
   server may still commit. When the lease ends, the tokens are raised once more.

The schema token says which dependencies between tables were in force (see `dependencies`). What may be DDL raises it with
the epoch. A write whose dependencies were looked up under an older one raises the epoch, because a trigger or a view that
it did not know may be there by now.

`Versions` is the state of one process. `shared` keeps the same in Redis for several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Final

LEASE_S: Final = 60.0
"""How long a mark holds that nobody takes off. Those in Redis are renewed while their write is under way."""
_NAMES_LIMIT: Final = 65536

_serial: Final = count(1)


class Mark:
    """A write, or all writes of a transaction: what is dirty because of it. Ends by `end`, `lose` or `abandon`, once."""

    __slots__ = ("everything", "known_schema", "names", "open", "placed", "schema", "serial")

    def __init__(self) -> None:
        self.serial = next(_serial)
        """Never used twice in a process."""
        self.names: set[str] = set()
        self.everything = False
        """It may have changed any table."""
        self.schema = False
        """It may have changed the dependencies between tables too."""
        self.known_schema: object = None
        """The schema token under which `names` was worked out; None where everything is raised anyway."""
        self.open = True
        self.placed = False
        """Redis knows the mark."""


class Versions:
    """Tokens and marks of one process. Not thread-safe: one event loop.

    `clock` is monotonic, in seconds; it only times the leases of lost writes.
    """

    __slots__ = ("_clock", "_dirty", "_epoch", "_everything", "_lease_s", "_lost", "_tokens", "raised", "schema")

    def __init__(self, clock: Callable[[], float], lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._tokens: dict[str, int] = {}
        self._dirty: dict[str, int] = {}
        self._everything = 0
        self._lost: list[tuple[float, int, Mark]] = []
        self._epoch = next(_serial)
        self.schema = next(_serial)
        """Token of the dependencies in force."""
        self.raised = 0
        """How many times something was raised."""

    def dirty(self, names: Iterable[str]) -> bool:
        """A write of one of these is under way, or one that may change everything."""
        if self._lost and self._lost[0][0] <= self._clock():
            self._expire()
        if self._everything:
            return True
        if self._dirty:
            for name in names:
                if name in self._dirty:
                    return True
        return False

    def current(self, names: Iterable[str]) -> tuple[int, ...]:
        """The epoch and the tokens of these tables; a table that has none gets one."""
        tokens = self._tokens
        found = [self._epoch]
        for name in names:
            token = tokens.get(name)
            if token is None:
                if len(tokens) >= _NAMES_LIMIT:
                    tokens.clear()
                    self._epoch = found[0] = next(_serial)
                token = tokens[name] = next(_serial)
            found.append(token)
        return tuple(found)

    def begin(self, mark: Mark, names: Iterable[str], everything: bool, schema: bool) -> bool:
        """Mark these dirty, in addition to what the mark holds already. True if that was anything new."""
        added = schema and not mark.schema
        for name in names:
            if name not in mark.names:
                mark.names.add(name)
                self._dirty[name] = self._dirty.get(name, 0) + 1
                added = True
        if (everything or schema) and not mark.everything:
            mark.everything = True
            self._everything += 1
            added = True
        mark.schema = mark.schema or schema
        return added

    def end(self, mark: Mark) -> None:
        """The write was committed: raise and take the mark off. A mark that ended before is left alone."""
        if mark.open:
            mark.open = False
            self._raise(mark)
            self._take_off(mark)

    def lose(self, mark: Mark) -> None:
        """Nobody knows what becomes of the write: raise now and once more when the lease ends; dirty until then."""
        if mark.open:
            mark.open = False
            self._raise(mark)
            heappush(self._lost, (self._clock() + self._lease_s, mark.serial, mark))

    def abandon(self, mark: Mark) -> None:
        """The write was surely rolled back: take the mark off."""
        if mark.open:
            mark.open = False
            self._take_off(mark)

    def raise_everything(self, schema: bool) -> None:
        """Make every stored answer unreachable; with `schema`, every account of dependencies too."""
        self._epoch = next(_serial)
        self.raised += 1
        if schema:
            self.schema = next(_serial)

    def _raise(self, mark: Mark) -> None:
        if mark.everything or (mark.known_schema is not None and mark.known_schema != self.schema):
            self.raise_everything(mark.schema)
        else:
            self.raised += 1
        for name in mark.names:
            self._tokens.pop(name, None)

    def _take_off(self, mark: Mark) -> None:
        for name in mark.names:
            left = self._dirty[name] - 1
            if left:
                self._dirty[name] = left
            else:
                del self._dirty[name]
        if mark.everything:
            self._everything -= 1

    def _expire(self) -> None:
        now_s = self._clock()
        while self._lost and self._lost[0][0] <= now_s:
            mark = heappop(self._lost)[2]
            self._raise(mark)
            self._take_off(mark)
