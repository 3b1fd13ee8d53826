"""One connection to Redis that all sessions share, with a breaker.

Calls of one turn of the event loop leave in one write, and replies come back in order, so a lookup costs a fraction of what
a pool of connections with a call each would. What a caller gets is a future that always has a result: the call's `finish`
gives it, from the reply or from None where there is none. Nothing here raises into a session.

The breaker is the connection itself. A call that has no reply within the time limit, a broken connection or an error reply
closes it: everything that waits gets None at once (`state` is then `down`), and nothing is sent until a new connection has
passed `opening`. That is the one trial of a half-open breaker (`trying`): no session is asked to wait for it. After a
connection that was of use the first trial is made at once. The pause before each further one is twice as long, up to
`BACKOFF` times `retry_s`, and shorter by chance, so that many proxies do not come back in step. A connection that did not
stand for as long as the longest pause counts as a failed trial: a Redis that comes and goes is tried more and more
seldom, so its time limit is waited for more and more seldom too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from hiredis import pack_command
from redis.exceptions import RedisError, ResponseError

from pgloupe.cache.topology import CONNECT_S, Topology

log: Final = logging.getLogger("pgloupe.cache")

T = TypeVar("T")

UP: Final = "up"
TRYING: Final = "trying"
DOWN: Final = "down"

BACKOFF: Final = 4
"""The longest pause between two trials, in units of the shortest."""
_FOLLOW: Final = 3
"""Redirections that are followed at once."""
_CONFIRM_S: Final = 5.0
_PENDING_LIMIT: Final = 20_000


class _Call:
    __slots__ = ("deadline_s", "finish", "future", "optional")

    def __init__(
        self, deadline_s: float, finish: Callable[[Any], Any], future: asyncio.Future[Any], optional: bool
    ) -> None:
        self.deadline_s = deadline_s
        self.finish = finish
        self.future = future
        self.optional = optional


class RedisLink:
    """`up` says whether `call` may be used. `opening` runs on each new connection before that, `tick` every `tick_s` while it
    is up. `chance` gives numbers from 0 to 1."""

    def __init__(
        self,
        topology: Topology,
        *,
        opening: Callable[[], Awaitable[None]],
        tick: Callable[[], None],
        tick_s: float,
        timeout_s: float = 0.05,
        retry_s: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._topology = topology
        self._opening = opening
        self._tick = tick
        self._tick_s = tick_s
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._chance = chance
        self._connection: Any = None
        self._pending: deque[_Call] = deque()
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._broken = asyncio.Event()
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._lived_s = 0.0
        self._redirected = False
        self._told = False  # how the first attempt ended; later changes are told when they come
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.state = DOWN
        self.trials = 0
        """Attempts to connect, those that succeeded included."""
        self.errors = 0
        """Connections that failed, calls that ran out of time, error replies."""
        self.last_error = ""

    async def start(self, wait_s: float = CONNECT_S) -> None:
        """Begin to connect, and wait a little for it. A Redis that is not there is no error."""
        self._task = asyncio.create_task(self._keep(), name="pgloupe-redis")
        await self.wait_up(wait_s)

    async def wait_up(self, limit_s: float) -> bool:
        """Wait until calls may be made; False if that takes longer than `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Close. Calls under way finish without a reply."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def call(
        self, finish: Callable[[Any], T], *command: bytes | int | str, optional: bool = False
    ) -> asyncio.Future[T]:
        """Send a command; the future's result is `finish(reply)`, or `finish(None)` where there is no good reply in time.

        `finish` runs whether or not anybody waits for the future. An error reply to an `optional` call leaves the breaker
        closed. With no connection, or too many calls under way, `finish(None)` runs at once.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._connection is None or len(self._pending) >= _PENDING_LIMIT:
            future.set_result(finish(None))
            return future
        self._outgoing.append(pack_command(command))  # type: ignore[arg-type]  # its stub says a tuple of one
        self._wake.set()
        deadline_s = loop.time() + self._timeout_s
        self._pending.append(_Call(deadline_s, finish, future, optional))
        if self._timer is None:
            self._timer = loop.call_at(deadline_s, self._watch)
        return future

    def _watch(self) -> None:
        """The oldest call may be out of time. If this process was the slow one, the reply waits in the socket: then, seen by
        a timer that is late itself, the call gets half of the limit more, else a tenth."""
        self._timer = None
        if not self._pending:
            self._late = False
            return
        loop = asyncio.get_running_loop()
        late_s = loop.time() - self._pending[0].deadline_s
        if late_s < 0:
            self._late = False
            self._timer = loop.call_at(self._pending[0].deadline_s, self._watch)
        elif not self._late:
            self._late = True
            share = 0.5 if late_s > self._timeout_s / 5 else 0.1
            self._timer = loop.call_later(self._timeout_s * share, self._watch)
        else:
            self._late = False
            self._break("no reply in time")

    def _break(self, error: str) -> None:
        """The connection is of no use any more; "" where it is closed on purpose."""
        if self._connection is None:
            return
        if error:
            if self.up and self._redirected:
                log.info("redis: %s", error)
            elif self.up:
                log.warning("redis is not usable: %s; the server answers every read until it is back", error)
            self.errors += 1
            self.last_error = error
        self.up = False
        self.state = DOWN
        self._connection = None
        self._ready.clear()
        self._outgoing.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._broken.set()
        while self._pending:
            self._finish(self._pending.popleft(), None)

    @staticmethod
    def _finish(call: _Call, reply: Any) -> None:
        try:
            result = call.finish(reply)
        except Exception:  # whoever waits must hear something: a reply that makes no sense is no reply
            log.exception("a reply of redis was not understood")
            result = call.finish(None)
        if not call.future.done():
            call.future.set_result(result)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = follows = 0
        while True:
            self._lived_s = 0.0
            self._redirected = False
            self.state = TRYING
            self.trials += 1
            try:
                await self._live()
            except Exception as error:  # whatever it was, the next attempt may go better
                if not isinstance(error, (RedisError, OSError, TimeoutError)):
                    log.exception("the connection to redis failed in an unexpected way")
                self.errors += 1
                self.last_error = str(error).rstrip(".") or type(error).__name__
                if not self._told and not self._redirected:
                    log.warning("redis is not usable: %s; the server answers every read until it is", self.last_error)
            self._told = self._told or not self._redirected
            self.state = DOWN
            if self._lived_s > 0 and loop.time() - self._lived_s >= self._retry_s * BACKOFF:
                failures = follows = 0
            elif self._redirected and follows < _FOLLOW:
                follows += 1
                continue
            elif self._lived_s > 0 and failures == 0:
                failures = 1
                continue
            else:
                failures += 1
            await asyncio.sleep(self.pause_s(failures))

    def pause_s(self, failures: int) -> float:
        """Before the next trial, after so many that failed one after the other."""
        if failures == 0:
            return 0.0
        longest_s = self._retry_s * min(BACKOFF, 2 ** min(failures - 1, 10))
        pause_s: float = longest_s * (0.5 + 0.5 * self._chance())
        return pause_s

    async def _live(self) -> None:
        """One connection, from its beginning to its end."""
        connection: Any = await self._topology.connect()
        tasks: list[asyncio.Task[None]] = []
        try:
            self._broken.clear()
            self._connection = connection
            tasks = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._write(connection))]
            async with asyncio.timeout(CONNECT_S):
                await self._opening()
            if self._connection is None:
                return
            if self._topology.watched:
                tasks.append(asyncio.create_task(self._confirm(connection)))
            if self._told or self._topology.clustered or self._topology.watched:
                log.info("redis is usable: %s", self._topology.address or "by its socket")
            self.up = True
            self.state = UP
            self._lived_s = asyncio.get_running_loop().time()
            self._ready.set()
            while not self._broken.is_set():
                try:
                    async with asyncio.timeout(self._tick_s):
                        await self._broken.wait()
                except TimeoutError:
                    self._tick()
        finally:
            self._break("")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.disconnect()

    async def _read(self, connection: Any) -> None:
        try:
            while self._connection is connection:
                try:
                    reply = await connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    self._refused(error)
                    continue
                if not self._pending:
                    self._break("a reply that nobody asked for")
                    return
                self._finish(self._pending.popleft(), reply)
        except Exception as error:
            if self._connection is connection:
                self._break(str(error) or type(error).__name__)

    def _refused(self, error: ResponseError) -> None:
        """An error reply: OOM, READONLY, NOSCRIPT, LOADING, NOPERM, MOVED, CLUSTERDOWN …"""
        if self._topology.redirected(error):
            self._redirected = True
        if self._pending:
            call = self._pending.popleft()
            self._finish(call, None)
            if call.optional and not self._redirected:
                self.errors += 1
                self.last_error = str(error)
                return
        self._break("the slot is served by another node" if self._redirected else str(error))

    async def _confirm(self, connection: Any) -> None:
        while self._connection is connection:
            await asyncio.sleep(_CONFIRM_S)
            if not await self._topology.confirm() and self._connection is connection:
                self._break("the sentinels name another master")

    async def _write(self, connection: Any) -> None:
        try:
            while self._connection is connection:
                await self._wake.wait()
                self._wake.clear()
                if self._connection is not connection or not connection.is_connected:
                    return
                if self._outgoing:
                    packed, self._outgoing = self._outgoing, []
                    await connection.send_packed_command(packed, check_health=False)
        except Exception as error:
            if self._connection is connection:
                self._break(str(error) or type(error).__name__)
