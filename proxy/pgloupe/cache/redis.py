"""One connection to Redis that all sessions share, with a breaker.

Calls of one turn of the event loop leave in one write, and replies come back in order, so a lookup costs a fraction of what
a pool of connections with a call each would. What a caller gets is a future that always has a result: the call's `finish`
gives it, from the reply or from None where there is none. Nothing here raises into a session.

The breaker is the connection itself. A call that has no reply within the time limit, a broken connection or an error reply
closes it: everything that waits gets None at once, and nothing is sent until a new connection has passed `opening`, which
is tried at once and then every `retry_s`. Nobody waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import redis.asyncio as redis
from hiredis import pack_command
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

log: Final = logging.getLogger("pgloupe.cache")

T = TypeVar("T")

_PENDING_LIMIT: Final = 20_000
_CONNECT_S: Final = 1.0


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
    is up."""

    def __init__(
        self,
        url: str,
        *,
        opening: Callable[[], Awaitable[None]],
        tick: Callable[[], None],
        tick_s: float,
        timeout_s: float = 0.05,
        retry_s: float = 1.0,
    ) -> None:
        self._pool: Any = redis.ConnectionPool.from_url(
            url,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=None,  # the time limit is that of each call, see `_watch`
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="pgloupe",
            health_check_interval=0,
        )
        self._opening = opening
        self._tick = tick
        self._tick_s = tick_s
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._connection: Any = None
        self._pending: deque[_Call] = deque()
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._broken = asyncio.Event()
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._lived = False
        self._told = False  # how the first attempt ended; later changes are told when they come
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.errors = 0
        """Connections that failed, calls that ran out of time, error replies."""
        self.last_error = ""

    async def start(self, wait_s: float = _CONNECT_S) -> None:
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
            if self.up:
                log.warning("redis is not usable: %s; the server answers every read until it is back", error)
            self.errors += 1
            self.last_error = error
        self.up = False
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
        while True:
            self._lived = False
            try:
                await self._live()
            except Exception as error:  # whatever it was, the next attempt may go better
                if not isinstance(error, (RedisError, OSError, TimeoutError)):
                    log.exception("the connection to redis failed in an unexpected way")
                self.errors += 1
                self.last_error = str(error) or type(error).__name__
                if not self._told:
                    log.warning("redis is not usable: %s; the server answers every read until it is", self.last_error)
            self._told = True
            await asyncio.sleep(0 if self._lived else self._retry_s)

    async def _live(self) -> None:
        """One connection, from its beginning to its end."""
        connection: Any = self._pool.make_connection()
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connection.connect()
            self._broken.clear()
            self._connection = connection
            tasks = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._write(connection))]
            async with asyncio.timeout(_CONNECT_S):
                await self._opening()
            if self._connection is None:
                return
            self.up = self._lived = True
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
            await connection.disconnect(nowait=True)

    async def _read(self, connection: Any) -> None:
        try:
            while self._connection is connection:
                try:
                    reply = await connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    self._refused(str(error))
                    continue
                if not self._pending:
                    self._break("a reply that nobody asked for")
                    return
                self._finish(self._pending.popleft(), reply)
        except Exception as error:
            if self._connection is connection:
                self._break(str(error) or type(error).__name__)

    def _refused(self, error: str) -> None:
        """An error reply: OOM, READONLY, NOSCRIPT, LOADING, NOPERM …"""
        if self._pending:
            call = self._pending.popleft()
            self._finish(call, None)
            if call.optional:
                self.errors += 1
                self.last_error = error
                return
        self._break(error)

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
