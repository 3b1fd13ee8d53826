"""Concurrent misses of one key make one query: who asks the server first leads, the others wait for the answer.

A flight begins with the ticket of a miss and ends when its answer was stored or refused, or when the ticket is let go: a
session gives its ticket up in many ways (an error, a row too many, the client leaves), and the end of the object is the one
sign that no way forgets. Those who waited look the key up again, so a write in between counts as for any read; that
somebody waited is no promise of an answer.

Nobody waits for long: the leader's client may be slow to read, or its statement may wait for a lock that the waiting
client holds. So there is a limit, and who reaches it asks the server. A key whose answer was not stored is remembered for
a while, and nobody waits for it.

With Redis the first proxy that misses leaves a note there for as long as others are to wait at most. These look it up again
and again, ever more seldom, since nobody tells them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

FIRST_PAUSE_S: Final = 0.005
LAST_PAUSE_S: Final = 0.1
"""Between two look-ups of an answer that another proxy has asked for."""
_HOPELESS_KEYS: Final = 4096
HOPELESS_S: Final = 10.0


class Flight:
    """One query under way for a key, and those who wait for its answer."""

    __slots__ = ("_ended", "_flights", "_key", "_waiters", "elsewhere", "versions")

    def __init__(self, flights: Flights, key: bytes, versions: object, *, elsewhere: bool = False) -> None:
        self._flights = flights
        self._key = key
        self._waiters: list[asyncio.Future[bool]] = []
        self._ended = False
        self.elsewhere = elsewhere
        """Another proxy leads, and does not tell when it has ended."""
        self.versions = versions
        """Under which the answer will be stored."""

    async def wait(self, limit_s: float, owner: object) -> bool:
        """Until the flight has ended, or for so long. False where the owner was hurried (see `Flights.hurry`)."""
        if self._ended:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        self._flights.owners[owner] = waiter
        timer = loop.call_later(limit_s, _wake, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._flights.owners.pop(owner, None)
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def end(self, *, hopeless: bool) -> None:
        """The answer is stored, or there will be none; `hopeless`: nor will there be one the next time."""
        self._ended = True
        self._flights.ended(self._key, self, hopeless)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.get_loop().is_closed():
                _wake(waiter)


def _wake(waiter: asyncio.Future[bool], ended: bool = True) -> None:
    if not waiter.done():
        waiter.set_result(ended)


class Flights:
    """The flights of one process, by key. `limit_s` is how long a reader waits at most; 0: nobody waits."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.owners: dict[object, asyncio.Future[bool]] = {}
        """Who waits."""
        self._flights: dict[bytes, Flight] = {}
        self._hopeless: OrderedDict[bytes, float | None] = OrderedDict()

    def of(self, key: bytes) -> Flight | None:
        """The flight of this key, if one is under way."""
        return self._flights.get(key)

    def may_begin(self, key: bytes, now_s: float) -> bool:
        """Whether a query for this key would be waited for: nobody leads already, and there is hope."""
        if self.limit_s <= 0 or key in self._flights:
            return False
        if key in self._hopeless:
            until_s = self._hopeless[key]
            if until_s is None:
                self._hopeless[key] = now_s + HOPELESS_S  # the end of an object has no clock
                return False
            if now_s < until_s:
                return False
            del self._hopeless[key]
        return True

    def begin(self, key: bytes, versions: object, now_s: float) -> Flight | None:
        """A query goes to the server; None where nobody is to wait for it."""
        if not self.may_begin(key, now_s):
            return None
        flight = self._flights[key] = Flight(self, key, versions)
        return flight

    def elsewhere(self, key: bytes, versions: object) -> Flight:
        """Another proxy has asked the server for this."""
        return Flight(self, key, versions, elsewhere=True)

    def hurry(self, owner: object) -> None:
        """Whoever this is has been told to stop: it is not to wait any longer."""
        waiter = self.owners.get(owner)
        if waiter is not None:
            _wake(waiter, False)

    def ended(self, key: bytes, flight: Flight, hopeless: bool) -> None:
        if self._flights.get(key) is not flight:
            return
        del self._flights[key]
        if hopeless:
            self._hopeless[key] = None
            if len(self._hopeless) > _HOPELESS_KEYS:
                self._hopeless.popitem(last=False)
