"""Writes that go past every proxy: a stream of changes from the server, by logical replication.

A slot (see `slot`) is asked ten times a second which tables transactions changed, and their versions are raised. So an answer
is never older than the last reading, and a rule may ask for that: while the last reading is more than `max_lag_s` ago, it
gives no answers.

A slot that is lost, with its connection, by a restart of the server or because it fell too far behind, has missed changes.
Then another one is made, and everything is raised before the stream counts as live again. Attempts that fail are repeated,
ever more seldom; the log says why once, and what to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import asyncpg

from pgloupe.cache.slot import AUTO, Slot, open_slot
from pgloupe.errors import ChangeStreamError

log: Final = logging.getLogger("pgloupe.cache")

Raise: TypeAlias = Callable[[frozenset[str] | None, str], Awaitable[None]]
"""Raises the versions of what depends on these tables (names without schemas; None: of everything) of this database. Done when
nobody is answered from before any more."""

RETRY_S: Final = 0.1
_LOOK_S: Final = 0.05
"""So long after the stream is too late it is looked at, that it surely is."""
MOST_RETRY_S: Final = 10.0


class ChangeStream:
    """The stream of one database. `url` and `connect` are for asyncpg.connect, `mode` is one of `slot.MODES`, `publication`
    the name of that for pgoutput. `interval_s` is the pause between two readings, or the time that a reading took, if that is
    longer. `clock` is monotonic, in seconds. Nothing here raises but cancellation.
    """

    FIGURES: Final = (
        "change_stream_live",
        "change_stream_lag_s",
        "change_stream_changes",
        "change_stream_raises",
        "change_stream_starts",
    )

    def __init__(
        self,
        url: str,
        *,
        mode: str = AUTO,
        publication: str = "pgloupe",
        interval_s: float = 0.1,
        max_lag_s: float = 2.0,
        connect: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._mode = mode
        self._publication = publication
        self._interval_s = interval_s
        self._max_lag_s = max_lag_s
        self._connect = connect if connect is not None else {}
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._reason = ""
        self._late = False
        self._running = False
        self._known_s = clock()
        self._database = ""
        self.changes = 0
        """Rows that transactions changed, and lists of tables that were truncated."""
        self.raises = 0
        """How often versions were raised because of that, or because a slot began."""
        self.starts = 0
        """How often a stream became live."""

    @property
    def lag_s(self) -> float:
        """All that was visible so many seconds ago is known. While there is no stream, since when that is so."""
        return max(0.0, self._clock() - self._known_s)

    def live(self, database: str = "") -> bool:
        """No write of this database ("" stands for that of the stream) is older than `max_lag_s` and not yet raised."""
        return self._running and self.lag_s <= self._max_lag_s and (not database or database == self._database)

    async def start(self, raise_versions: Raise, wait_s: float = 2.0) -> None:
        """Begin, and wait a little until the stream is live or the log says why not."""
        self._task = asyncio.create_task(self._run(raise_versions), name="pgloupe-changes")
        try:
            async with asyncio.timeout(wait_s):
                await self._told.wait()
        except TimeoutError:
            log.info(
                "the change stream is not live yet: its slot is made when the transactions that are writing have ended"
            )

    async def stop(self) -> None:
        """End, and the slot with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def statistics(self) -> dict[str, int | float]:
        """`FIGURES`: `live` and `lag_s` as they are now, the others since the start."""
        figures = (int(self.live()), round(self.lag_s, 3), self.changes, self.raises, self.starts)
        return dict(zip(self.FIGURES, figures, strict=True))

    # -- life

    async def _run(self, raise_versions: Raise) -> None:
        pause_s = RETRY_S
        while True:
            starts = self.starts
            try:
                await self._follow(raise_versions)
            except ChangeStreamError as error:
                self._stopped(str(error))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._stopped(str(error) or type(error).__name__)
            except (
                Exception
            ) as error:  # a URL, a certificate, a reply that makes no sense: the next attempt may go better
                log.debug("the change stream failed", exc_info=error)
                self._stopped(f"{type(error).__name__}: {error}")
            pause_s = RETRY_S if self.starts > starts else min(MOST_RETRY_S, 2 * pause_s)
            await asyncio.sleep(pause_s)

    def _stopped(self, reason: str) -> None:
        self._running = False
        if reason != self._reason:
            log.warning(
                "the change stream is not live: %s; until it is, rules with require_change_stream leave reads to the server",
                reason,
            )
        self._reason = reason
        self._told.set()

    async def _follow(self, raise_versions: Raise) -> None:
        """One slot, from its beginning to its end."""
        slot = await open_slot(
            self._url, mode=self._mode, publication=self._publication, connect=self._connect, clock=self._clock
        )
        try:
            while True:
                began_s = self._clock()
                if not await self._read(slot, raise_versions):
                    await asyncio.sleep(max(self._interval_s, self._clock() - began_s))
        finally:
            self._running = False
            await slot.close()

    async def _read(self, slot: Slot, raise_versions: Raise) -> bool:
        """One reading. True if there is more."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, self._max_lag_s - self.lag_s) + _LOOK_S, self._look)
        try:
            poll = await slot.poll()
            self.changes += poll.changes
            if not self._running:
                if poll.known_s is not None:
                    # what happened before is not in the stream, and nothing of it may be answered
                    self.raises += 1
                    await raise_versions(None, slot.database)
                    self._begun(slot, poll.known_s)
            elif poll.tables is None or poll.tables:
                self.raises += 1
                await raise_versions(poll.tables, slot.database)
        finally:
            timer.cancel()
        if self._running and poll.known_s is not None:
            self._known_s = max(self._known_s, poll.known_s)
        self._look()
        return poll.more

    def _begun(self, slot: Slot, known_s: float) -> None:
        self._running = True
        self._late = False
        self._known_s = max(self._known_s, known_s)
        self._database = slot.database
        self._reason = ""
        self.starts += 1
        log.info("the change stream is live: database %s, plugin %s, slot %s", slot.database, slot.plugin, slot.name)
        self._told.set()

    def _look(self) -> None:
        """Say it when the stream falls behind, and when it has caught up."""
        if not self._running:
            return
        lag_s = self.lag_s
        late = lag_s > self._max_lag_s
        if late and not self._late:
            log.warning(
                "the change stream is %.1f s behind, more than change_stream_max_lag_s: until it has caught up, rules with "
                "require_change_stream leave reads to the server",
                lag_s,
            )
        elif self._late and not late:
            log.info("the change stream has caught up")
        self._late = late
