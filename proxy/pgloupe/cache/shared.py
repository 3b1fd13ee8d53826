"""The same versions and marks as `invalidation.Versions`, in Redis, for several proxies; and the answers beside them.

Three things can go wrong with a Redis that the process alone does not have, and each has its rule.

*It forgets.* A Redis that restarts with an old snapshot brings old tokens back, and old answers with them. So each
connection first asks which server process it reached (`run_id`); where that is not the one that the epoch was made under,
the epoch is raised before anything is read.

*A write cannot be announced to it.* That is a debt: the epoch is raised before this proxy uses Redis again.

*Another proxy still reaches it meanwhile,* and would go on answering from what that write made old. So each proxy says a
few times a second until when it is in touch (`member_lease_s`), and while one of them is overdue nobody answers from the
cache. A proxy that cannot announce a write holds the client's answer until its own time is over for sure; that is at most
`member_lease_s` after Redis was lost, and writes after that go on at once. A proxy that was killed is given up after
`forget_s`, with the epoch raised.

Times of leases are those of the clock of Redis. What a proxy sends carries an absolute end, so that a command which a
stalled Redis executes late cannot prolong anything.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from hashlib import sha1
from itertools import count
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from pgloupe.cache import scripts
from pgloupe.cache.entry import Entry
from pgloupe.cache.invalidation import Mark
from pgloupe.cache.redis import RedisLink

T = TypeVar("T")

TOKEN_BYTES: Final = 16
_FILL_BYTES: Final = 16 * 1024 * 1024
_RUN_ID: Final = re.compile(rb"run_id:([0-9a-zA-Z]+)")


def _sha(script: str) -> bytes:
    return sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


LOOKUP, FILL, BEGIN, END, ABANDON, ADOPT, JOIN, LEAVE = (_sha(script) for script in scripts.SCRIPTS)


def _reply(reply: Any) -> Any:
    return reply


def _nothing(_: Any) -> None:
    return None


class Shared:
    """State in Redis under one namespace. Every method returns at once; futures always get a result.

    `escalate` is called for a mark whose dependencies turn out to be older than those in force; `on_raised` when a new
    connection raised the epoch.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        timeout_s: float,
        retry_s: float,
        lease_s: float,
        member_lease_s: float,
        forget_s: float,
        escalate: Callable[[Mark], object],
        on_raised: Callable[[], None],
    ) -> None:
        prefix = b"{" + namespace.replace("}", "").encode() + b"}:"
        self._epoch = prefix + b"epoch"
        self._table = prefix + b"t:"
        self._entry = prefix + b"e:"
        self._lease_ms = max(1, int(lease_s * 1000))
        self._member_lease_s = member_lease_s
        self._forget_ms = int(forget_s * 1000)
        self._escalate = escalate
        self._on_raised = on_raised
        identity = os.urandom(9)
        self._token_prefix = identity
        self._tokens = count(1)
        self._identity = identity.hex().encode()
        self._live: dict[int, Mark] = {}
        self._debt = False
        self._member_until_s = float("-inf")
        self._redis_ms = 0
        self._redis_read_s = 0.0
        self._held: list[tuple[Callable[[], None], asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._fill_bytes = 0
        self._renew_s = lease_s / 3
        self._renewed_s = 0.0
        self._link = RedisLink(
            url,
            opening=self._open,
            tick=self._tick,
            tick_s=min(member_lease_s / 4 if member_lease_s > 0 else 1.0, self._renew_s),
            timeout_s=timeout_s,
            retry_s=retry_s,
        )

    @property
    def up(self) -> bool:
        """Redis may be used: a connection stands, and nothing is owed."""
        return self._link.up

    @property
    def errors(self) -> int:
        return self._link.errors

    @property
    def last_error(self) -> str:
        return self._link.last_error

    async def start(self) -> None:
        await self._link.start()

    async def wait_up(self, limit_s: float) -> bool:
        return await self._link.wait_up(limit_s)

    async def stop(self) -> None:
        """Leave in good order where that is possible: a proxy that owes something, or whose writes are under way, does not."""
        if self._link.up and not self._debt and not self._live:
            await self._run(_nothing, LEAVE, (), b"p" + self._identity)
            self._member_until_s = float("-inf")
        await self._link.stop()
        self._release()

    # -- calls

    def _run(
        self,
        finish: Callable[[Any], T],
        sha: bytes,
        keys: tuple[bytes, ...],
        *arguments: bytes | int,
        optional: bool = False,
    ) -> asyncio.Future[T]:
        return self._link.call(
            finish, b"EVALSHA", sha, 1 + len(keys), self._epoch, *keys, *arguments, optional=optional
        )

    def _tables(self, names: Any) -> tuple[bytes, ...]:
        table = self._table
        return tuple([table + name.encode("utf-8", "surrogateescape") for name in names])

    def _token(self) -> bytes:
        return self._token_prefix + next(self._tokens).to_bytes(5, "big")

    def lookup(
        self, finish: Callable[[Any], T], key: bytes, names: tuple[str, ...], known: object, ttl_ms: int
    ) -> asyncio.Future[T]:
        """`scripts.LOOKUP`; `known` are the versions of an entry in memory, or b""."""
        versions = known if isinstance(known, bytes) else b""
        keys = (*self._tables(names), self._entry + key)
        return self._run(finish, LOOKUP, keys, self._token(), versions, ttl_ms, self._forget_ms)

    def fill(
        self,
        finish: Callable[[Any], None],
        key: bytes,
        names: tuple[str, ...],
        versions: bytes,
        entry: Entry,
        ttl_ms: int,
        elapsed_ms: int,
    ) -> bool:
        """`scripts.FILL` in the background; False where too much is on its way already."""
        data = entry.to_bytes()
        if self._fill_bytes + len(data) > _FILL_BYTES:
            return False
        self._fill_bytes += len(data)

        def done(reply: Any) -> None:
            self._fill_bytes -= len(data)
            finish(reply)

        keys = (*self._tables(names), self._entry + key)
        self._run(done, FILL, keys, versions, data, max(1, ttl_ms - elapsed_ms), elapsed_ms, optional=True)
        return True

    # -- marks

    @staticmethod
    def schema_of(versions: bytes) -> bytes:
        """The schema token among versions that `lookup` returned."""
        return versions[:TOKEN_BYTES]

    def owns(self, mark: Mark) -> bool:
        """The mark was begun here and has not ended."""
        return mark.serial in self._live

    def _mark(self, mark: Mark) -> bytes:
        return b"m" + self._identity + b"-%d" % mark.serial

    @staticmethod
    def _known(mark: Mark) -> bytes:
        return mark.known_schema if isinstance(mark.known_schema, bytes) else b""

    def begin(self, mark: Mark) -> Mark | Awaitable[Mark]:
        """Place the mark, or place it again with more tables. Done after the time limit whether or not it could be."""
        self._live[mark.serial] = mark
        if not self._link.up:
            mark.placed = False
            return mark
        return self._place(mark)

    def _place(self, mark: Mark) -> asyncio.Future[Mark]:
        def placed(reply: Any) -> Mark:
            mark.placed = isinstance(reply, bytes)
            if mark.open and mark.placed and mark.known_schema is not None and reply != mark.known_schema:
                self._escalate(mark)
            return mark

        return self._run(
            placed,
            BEGIN,
            self._tables(mark.names),
            self._token(),
            self._mark(mark),
            self._lease_ms,
            1 if mark.everything else 0,
            self._known(mark),
        )

    def end(self, mark: Mark, done: Callable[[], None], lost: bool) -> Awaitable[None] | None:
        """Raise what the mark holds; `done` is called when that is so, or when nobody can answer from the cache any more."""
        self._live.pop(mark.serial, None)
        if not self._link.up:
            return self._owe(done, None)
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(reply: Any) -> None:
            if reply is None:
                self._owe(done, outer)
                return
            done()
            if not outer.done():
                outer.set_result(None)

        self._run(
            ended,
            END,
            self._tables(mark.names),
            self._mark(mark),
            1 if mark.everything else 0,
            1 if mark.schema else 0,
            self._known(mark),
            self._lease_ms if lost else 0,
        )
        return outer

    def abandon(self, mark: Mark, done: Callable[[], None]) -> Awaitable[None] | None:
        """Take the mark off. Where Redis does not hear of it, its lease ends it."""
        self._live.pop(mark.serial, None)
        done()
        if not self._link.up:
            return None
        return self._run(_nothing, ABANDON, self._tables(mark.names), self._mark(mark))

    async def raise_everything(self) -> None:
        """Make every answer unreachable."""
        if self._link.up:
            reply = await self._run(_reply, END, (), b"m", 1, 0, b"", 0)
            if reply is not None:
                return
        self._debt = True

    async def schema(self) -> bytes | None:
        """The schema token in force; None where Redis does not tell."""
        if not self._link.up:
            return None
        reply = await self._run(_reply, LOOKUP, (self._entry,), self._token(), b"", 0, self._forget_ms)
        return self.schema_of(reply[1]) if isinstance(reply, list) else None

    # -- debts

    def _owe(self, done: Callable[[], None], outer: asyncio.Future[None] | None) -> asyncio.Future[None] | None:
        """A write could not be announced. Its client hears of it when no other proxy can answer with what it made old."""
        self._debt = True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._member_until_s:
            done()
            if outer is not None and not outer.done():
                outer.set_result(None)
            return outer
        if outer is None:
            outer = loop.create_future()
        self._held.append((done, outer))
        if self._timer is None:
            self._timer = loop.call_at(self._member_until_s, self._release)
        return outer

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, []
        for done, outer in held:
            done()
            if not outer.done():
                outer.set_result(None)

    async def _need(self, sha: bytes, *arguments: bytes | int) -> Any:
        reply = await self._run(_reply, sha, (), *arguments)
        if reply is None:
            raise RedisError(self._link.last_error or "no reply")
        return reply

    async def _open(self) -> None:
        """A new connection: who is there, what is owed, what is under way."""
        for script in scripts.SCRIPTS:
            if await self._link.call(_reply, b"SCRIPT", b"LOAD", script) is None:
                raise RedisError(self._link.last_error or "no reply")
        info = await self._link.call(_reply, b"INFO", b"server", optional=True)
        found = _RUN_ID.search(info) if isinstance(info, bytes) else None
        run_id = found.group(1) if found is not None else b""
        for mark in self._live.values():
            mark.placed = False
        adopted = False
        while not adopted or self._debt:
            owed, self._debt = self._debt, False
            try:
                raised = await self._need(ADOPT, run_id, 1 if owed else 0)
            except RedisError:
                self._debt = self._debt or owed
                raise
            if raised:
                self._on_raised()
            adopted = True
            for mark in [mark for mark in self._live.values() if not mark.placed]:
                await self._place(mark)
            if self._member_lease_s > 0:
                await self._read_clock()
                if await self._join() is None:
                    raise RedisError(self._link.last_error or "no reply")
        self._renewed_s = asyncio.get_running_loop().time()
        self._release()

    # -- being in touch

    async def _read_clock(self) -> None:
        now = await self._link.call(_reply, b"TIME")
        if now is None:
            raise RedisError(self._link.last_error or "no reply")
        self._show_clock(int(now[0]) * 1000 + int(now[1]) // 1000)

    def _show_clock(self, reply: Any) -> Any:
        if isinstance(reply, int):
            self._redis_ms = reply
            self._redis_read_s = asyncio.get_running_loop().time()
        return reply

    def _join(self) -> asyncio.Future[Any]:
        """Tell until when this proxy is in touch. The clock of Redis shows at least what is reckoned here, so the end that
        is sent has passed there when `member_until_s` has passed here."""
        now_s = asyncio.get_running_loop().time()
        until_ms = self._redis_ms + int((now_s - self._redis_read_s + self._member_lease_s) * 1000)
        self._member_until_s = now_s + self._member_lease_s
        return self._run(self._show_clock, JOIN, (), b"p" + self._identity, until_ms)

    def _tick(self) -> None:
        if self._member_lease_s > 0:
            self._join()
        now_s = asyncio.get_running_loop().time()
        if now_s - self._renewed_s >= self._renew_s:
            self._renewed_s = now_s
            for mark in self._live.values():
                self._place(mark)
