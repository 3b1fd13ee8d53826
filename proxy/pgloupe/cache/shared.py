"""The same versions and marks as `invalidation.Versions`, in Redis, for several proxies; and the answers beside them.

Three things can go wrong with a Redis that the process alone does not have, and each has its rule.

*It forgets.* A Redis that restarts with an old snapshot brings old tokens back, and old answers with them; so does a
replica that takes over, because replication is asynchronous and acknowledged writes of the last moments are lost with the
master. So each connection first asks which server it reached: the process (`run_id`) and its history (`master_replid`,
which changes when a replica is promoted). Where that is not the one that the epoch was made under, or not the one that
this proxy used last, the epoch is raised before anything is read. Marks may be lost as well, so on another server nobody
answers until all proxies have placed theirs there: they count as out of touch. Each proxy remembers the others, so that
also those are waited for that an empty Redis has never heard of.

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
from pgloupe.cache.topology import Topology
from pgloupe.redis_url import parse

T = TypeVar("T")

TOKEN_BYTES: Final = 16
_FILL_BYTES: Final = 16 * 1024 * 1024
_RUN_ID: Final = re.compile(rb"run_id:([0-9a-zA-Z]+)")
_REPLID: Final = re.compile(rb"master_replid:([0-9a-zA-Z]+)")
_SLAVES: Final = re.compile(rb"connected_slaves:([0-9]{1,6})")
_PEERS_LIMIT: Final = 1024


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
        compress_bytes: int,
        escalate: Callable[[Mark], object],
        on_raised: Callable[[], None],
    ) -> None:
        prefix = b"pgloupe:{" + (namespace.replace("}", "") or "default").encode() + b"}:"
        self._epoch = prefix + b"epoch"
        self._table = prefix + b"t:"
        self._entry = prefix + b"e:"
        self._flight = prefix + b"f:"
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
        self._held: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._fill_bytes = 0
        self._compress_bytes = compress_bytes
        self._server = b""
        self._peers: frozenset[bytes] = frozenset()
        self._replicas = 0
        self._renew_s = lease_s / 3
        self._renewed_s = 0.0
        self._timeout_ms = max(1, int(timeout_s * 1000))
        self._topology = Topology(parse(url), self._epoch)
        self._link = RedisLink(
            self._topology,
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
    def state(self) -> str:
        """`up`, `trying` or `down`."""
        return self._link.state

    @property
    def errors(self) -> int:
        return self._link.errors

    @property
    def trials(self) -> int:
        """Attempts to connect."""
        return self._link.trials

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
        self,
        finish: Callable[[Any], T],
        key: bytes,
        names: tuple[str, ...],
        known: object,
        ttl_ms: int,
        limit_bytes: int,
        lead_ms: int = 0,
    ) -> asyncio.Future[T]:
        """`scripts.LOOKUP`; `known` are the versions of an entry in memory, or b"". `lead_ms`: how long the other proxies are
        to wait for the answer if this is a miss; 0 where none is to wait."""
        versions = known if isinstance(known, bytes) else b""
        keys = (*self._tables(names), self._entry + key, self._flight + key)
        return self._run(finish, LOOKUP, keys, self._token(), versions, ttl_ms, self._forget_ms, limit_bytes, lead_ms)

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
        data = entry.to_bytes(self._compress_bytes)
        if self._fill_bytes + len(data) > _FILL_BYTES:
            return False
        self._fill_bytes += len(data)

        def done(reply: Any) -> None:
            self._fill_bytes -= len(data)
            finish(reply)

        keys = (*self._tables(names), self._entry + key, self._flight + key)
        # by the clock of Redis, so that a stalled Redis which executes this late does not take the answer for a new one
        since_read_ms = int((asyncio.get_running_loop().time() - self._redis_read_s) * 1000)
        begun_ms = self._redis_ms + since_read_ms - elapsed_ms
        self._run(done, FILL, keys, versions, data, ttl_ms, begun_ms, optional=True)
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
        """Place the mark, or place it again with more tables. Where that cannot be done, the write waits until no other
        proxy answers from the cache: else somebody could see it, and then an answer from before it."""
        self._live[mark.serial] = mark
        loop = asyncio.get_running_loop()
        if not self._link.up and loop.time() >= self._member_until_s:
            mark.placed = False
            return mark
        begun: asyncio.Future[Mark] = loop.create_future()

        def go() -> None:
            if not begun.done():
                begun.set_result(mark)

        if self._link.up:
            self._place(mark, lambda: go() if mark.placed else self._hold(go))
        else:
            mark.placed = False
            self._hold(go)
        return begun

    def _place(self, mark: Mark, then: Callable[[], None] | None = None) -> asyncio.Future[Mark]:
        def placed(reply: Any) -> Mark:
            mark.placed = isinstance(reply, bytes)
            if mark.open and mark.placed and mark.known_schema is not None and reply != mark.known_schema:
                self._escalate(mark)
            if then is not None:
                then()
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
        reply = await self._run(
            _reply, LOOKUP, (self._entry, self._flight), self._token(), b"", 0, self._forget_ms, 0, 0
        )
        return self.schema_of(reply[1]) if isinstance(reply, list) else None

    # -- debts

    def _owe(self, done: Callable[[], None], outer: asyncio.Future[None] | None) -> asyncio.Future[None] | None:
        """A write could not be announced. Its client hears of it when no other proxy can answer with what it made old."""
        self._debt = True
        loop = asyncio.get_running_loop()
        if outer is None and loop.time() < self._member_until_s:
            outer = loop.create_future()

        def released() -> None:
            done()
            if outer is not None and not outer.done():
                outer.set_result(None)

        self._hold(released)
        return outer

    def _hold(self, released: Callable[[], None]) -> None:
        """Call it when no other proxy answers from the cache any more, or when Redis has been told what it did not know."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._member_until_s:
            released()
            return
        self._held.append(released)
        if self._timer is None:
            self._timer = loop.call_at(self._member_until_s, self._release)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, []
        for released in held:
            released()

    def _unplaced(self) -> list[Mark]:
        """The marks of writes under way that this Redis does not know."""
        return [mark for mark in self._live.values() if not mark.placed]

    async def _need(self, sha: bytes, *arguments: bytes | int) -> Any:
        reply = await self._run(_reply, sha, (), *arguments)
        if reply is None:
            raise RedisError(self._link.last_error or "no reply")
        return reply

    async def _open(self) -> None:
        """A new connection: who is there, what is owed, what is under way."""
        call = self._link.call
        loads = [call(_reply, b"SCRIPT", b"LOAD", script) for script in scripts.SCRIPTS]
        infos = [call(_reply, b"INFO", section, optional=True) for section in (b"server", b"replication")]
        if None in await asyncio.gather(*loads):
            raise RedisError(self._link.last_error or "no reply")
        server = await self._recognise(await asyncio.gather(*infos))
        raise_anyway = bool(self._server) and server != self._server
        for mark in self._live.values():
            mark.placed = False
        adopted = False
        while not adopted or self._debt or self._unplaced():
            owed, self._debt = self._debt, False
            try:
                raised = await self._need(ADOPT, server, 1 if owed or raise_anyway else 0, *self._peers)
            except RedisError:
                self._debt = self._debt or owed
                raise
            if raised:
                self._on_raised()
            adopted, raise_anyway, self._server = True, False, server
            for mark in self._unplaced():
                await self._place(mark)
                if not mark.placed:
                    raise RedisError(self._link.last_error or "no reply")
            await self._read_clock()
            if self._member_lease_s > 0:
                if await self._join() is None:
                    raise RedisError(self._link.last_error or "no reply")
                if self._replicas:
                    # a replica that takes over should know of us; one that lags behind is no reason to do without Redis
                    await self._link.call(
                        _nothing, b"WAIT", self._replicas, max(1, self._timeout_ms // 2), optional=True
                    )
        self._renewed_s = asyncio.get_running_loop().time()
        self._release()

    async def _recognise(self, infos: list[Any]) -> bytes:
        """Which server this is, by INFO; b"" where it does not tell. A cluster's node is asked for the others too."""
        text = b"\n".join(info for info in infos if isinstance(info, bytes))
        run_id, replid, slaves = (each.search(text) for each in (_RUN_ID, _REPLID, _SLAVES))
        self._replicas = int(slaves.group(1)) if slaves is not None else 0
        if b"redis_mode:cluster" in text or b"server_mode:cluster" in text or self._topology.clustered:
            self._topology.learn(await self._link.call(_reply, b"CLUSTER", b"SLOTS", optional=True))
        if run_id is None or replid is None:
            return b""
        return run_id.group(1) + b"/" + replid.group(1)

    # -- being in touch

    async def _read_clock(self) -> None:
        now = await self._link.call(_reply, b"TIME")
        if now is None:
            raise RedisError(self._link.last_error or "no reply")
        self._show_time(now)

    def _show_time(self, reply: Any) -> None:
        if isinstance(reply, list):
            self._show_clock(int(reply[0]) * 1000 + int(reply[1]) // 1000)

    def _joined(self, reply: Any) -> Any:
        if isinstance(reply, list) and reply:
            self._peers = frozenset(reply[1 : 1 + _PEERS_LIMIT])
            self._show_clock(reply[0])
        return reply

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
        return self._run(self._joined, JOIN, (), b"p" + self._identity, until_ms)

    def _tick(self) -> None:
        if self._member_lease_s > 0:
            self._join()
        else:
            self._link.call(self._show_time, b"TIME")
        now_s = asyncio.get_running_loop().time()
        if now_s - self._renewed_s >= self._renew_s:
            self._renewed_s = now_s
            for mark in self._live.values():
                self._place(mark)
