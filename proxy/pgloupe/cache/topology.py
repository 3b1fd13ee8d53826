"""Where Redis is: one server, the master that sentinels name, or the node of a cluster that has our slot.

All keys of a namespace carry one hash tag, so they are in one slot and one connection to one server is enough. This module
makes that connection. In a cluster the nodes are asked who serves the slot, and a MOVED leads on; a plain URL that turns
out to be that of a cluster's node is treated as a cluster from then on. Sentinels are asked all at once, and the answer of
the one that has seen the latest failover counts; they are asked again every few seconds, because a master that was cut
off with us goes on as if nothing had happened.

Nothing here decides what a change of the server means for what is cached: `shared` looks at who the server is.

Sources: Redis documentation, "Redis cluster specification" and "Guidelines for Redis clients with support for Sentinel".
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from pgloupe.redis_url import RedisUrl
from pgloupe.urls import Address

CONNECT_S: Final = 1.0
"""Longest time for one connection, and for one question to a sentinel or a node."""
_ASK_AT_ONCE: Final = 8
_NODES_LIMIT: Final = 64
_REDIRECTION: Final = re.compile(r"(?:MOVED )?\d+ (\S*):(\d{1,5})")


class _Abrupt:
    """Closes at once, and whoever asks for it. A server that stands still would keep the socket open for as long as it has not
    taken what was written, or not answered the end of TLS."""

    _writer: Any

    async def disconnect(self, *_: Any, **kwargs: Any) -> None:
        writer = self._writer
        kwargs.pop("nowait", None)
        await super().disconnect(nowait=True, **kwargs)  # type: ignore[misc]  # that of the connection beside it
        if writer is not None:
            writer.transport.abort()


class _Tcp(_Abrupt, Connection):
    pass


class _Tls(_Abrupt, SSLConnection):
    pass


class _Unix(_Abrupt, UnixDomainSocketConnection):
    pass


class Topology:
    """Makes connections to the server that has `key`. Raises ValueError for a file of the URL that cannot be read."""

    def __init__(self, url: RedisUrl, key: bytes) -> None:
        self._url = url
        self._slot = key_slot(key)
        self._nodes: tuple[Address, ...] = ()
        """Masters of the cluster, as they were last told."""
        self._hint: Address | None = None
        self.clustered = url.kind == "cluster"
        self.address: Address | None = None
        """Of the last connection; None for a socket."""
        for name, path in url.tls.files if url.tls is not None else ():
            if not os.access(path, os.R_OK):
                raise ValueError(f"{name}: cannot read {path}")

    @property
    def watched(self) -> bool:
        """`confirm` is to be asked from time to time."""
        return self._url.kind == "sentinel"

    async def connect(self) -> Any:
        """A connection to the server that has the key. Raises RedisError, OSError or TimeoutError."""
        if self._url.kind == "unix":
            return await self._dial(None)
        if self._url.kind == "sentinel":
            return await self._dial_master(await self._named_master())
        hint, self._hint = self._hint, None
        if hint is not None:
            return await self._dial(hint)
        if not self.clustered:
            return await self._dial(self._url.nodes[0])
        return await self._dial(await self._serving_node())

    def redirected(self, error: ResponseError) -> bool:
        """The error reply says where the slot is: the next `connect` goes there."""
        found = _REDIRECTION.fullmatch(str(error))
        if found is None or (type(error).__name__ != "MovedError" and not str(error).startswith("MOVED ")):
            return False
        host = found.group(1) or (self.address.host if self.address is not None else "")
        self._hint = Address(host.strip("[]"), int(found.group(2)))
        self.clustered = self._url.kind in ("single", "cluster")
        return self.clustered

    def learn(self, slots: Any) -> None:
        """The reply of CLUSTER SLOTS from the server that we are connected to."""
        if self.address is not None and self._url.kind != "sentinel":
            self.clustered = True
            self._masters(slots, self.address)

    async def confirm(self) -> bool:
        """False where the sentinels name another master by now. That none of them answers says nothing."""
        try:
            return await self._named_master() == self.address
        except (RedisError, OSError, TimeoutError):
            return True

    # -- sentinels

    async def _named_master(self) -> Address:
        answers = await self._ask_all(self._url.nodes, self._ask_sentinel)
        if not answers:
            raise RedisError("no sentinel answers")
        master: Address | None = max(answers, key=lambda answer: answer[0])[1]
        if master is None:
            raise RedisError(f"the sentinels know no master called {self._url.master}")
        return master

    async def _ask_sentinel(self, sentinel: Address) -> tuple[int, Address | None]:
        """The epoch of the last failover that it knows of (-1 if it knows no such master), and the master."""
        connection = self._make(sentinel, sentinel=True)
        try:
            await connection.connect()
            found = await _ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.master)
            if not isinstance(found, list) or len(found) != 2:
                return -1, None
            epoch = 0
            try:
                state = await _ask(connection, "SENTINEL", "MASTER", self._url.master)
                pairs = dict(zip(state[::2], state[1::2], strict=False)) if isinstance(state, list) else {}
                epoch = int(pairs.get(b"config-epoch", 0))
            except ResponseError:
                pass  # an ACL may allow the one and not the other
            return epoch, Address(found[0].decode(), int(found[1]))
        finally:
            await connection.disconnect()

    async def _dial_master(self, address: Address) -> Any:
        connection = await self._dial(address)
        try:
            async with asyncio.timeout(CONNECT_S):
                role = await _ask(connection, "ROLE")
        except ResponseError:
            return connection  # not allowed to ask: a replica refuses the first write
        except BaseException:
            await connection.disconnect()
            raise
        if not isinstance(role, list) or role[:1] != [b"master"]:
            await connection.disconnect()
            raise RedisError(f"{address} is named by the sentinels and is no master yet")
        return connection

    # -- clusters

    async def _serving_node(self) -> Address:
        """The master of our slot, as most of the nodes that answer have it."""
        known = list(dict.fromkeys((*self._nodes, *self._url.nodes)))
        random.shuffle(known)  # so that no node is asked by everybody
        answers = await self._ask_all(known[:_ASK_AT_ONCE], self._ask_node)
        found = [answer for answer in answers if answer is not None]
        if not found:
            # nodes that have gone for good are not to stand in the way of those in the URL
            self._nodes = ()
            raise RedisError("no node of the cluster says who serves our slot")
        serving: Address = Counter(found).most_common(1)[0][0]
        return serving

    async def _ask_node(self, node: Address) -> Address | None:
        connection = self._make(node)
        try:
            await connection.connect()
            return self._masters(await _ask(connection, "CLUSTER", "SLOTS"), node)
        finally:
            await connection.disconnect()

    def _masters(self, slots: Any, asked: Address) -> Address | None:
        """Remember the masters; the one of our slot. A reply that makes no sense says nothing."""
        serving: Address | None = None
        nodes: list[Address] = []
        try:
            for first, last, master, *_ in slots:
                host = master[0].decode() if master[0] else ""
                # a node that does not know its own name or address leaves it out
                node = Address(asked.host if host in ("", "?") else host, int(master[1]) or asked.port)
                nodes.append(node)
                if first <= self._slot <= last:
                    serving = node
        except (TypeError, ValueError, AttributeError, IndexError):
            return None
        self._nodes = tuple(dict.fromkeys(nodes))[:_NODES_LIMIT]
        return serving

    # -- connections

    @staticmethod
    async def _ask_all(nodes: Any, ask: Callable[[Address], Awaitable[Any]]) -> list[Any]:
        """What those say that answer in time."""

        async def limited(node: Address) -> Any:
            async with asyncio.timeout(CONNECT_S):
                return await ask(node)

        answers = await asyncio.gather(*(limited(node) for node in nodes), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors and len(errors) == len(answers):
            raise errors[0]
        return [answer for answer in answers if not isinstance(answer, Exception)]

    async def _dial(self, address: Address | None) -> Any:
        connection = self._make(address)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()
        except BaseException:
            await connection.disconnect()
            raise
        self.address = address
        return connection

    def _make(self, address: Address | None, *, sentinel: bool = False) -> Any:
        url = self._url
        options: dict[str, Any] = {
            "username": (url.sentinel_username if sentinel else url.username) or None,
            "password": (url.sentinel_password if sentinel else url.password) or None,
            "db": 0 if sentinel else url.db,
            "client_name": None if sentinel else "pgloupe",
            "socket_connect_timeout": CONNECT_S,
            "socket_timeout": None,  # the time limit is that of each call
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "health_check_interval": 0,
        }
        if address is None:
            return _Unix(path=url.path, **options)
        options |= {"host": address.host, "port": address.port}
        tls = url.tls
        if tls is None:
            return _Tcp(**options)
        return _Tls(
            ssl_ca_certs=tls.ca_certs or None,
            ssl_certfile=tls.certfile or None,
            ssl_keyfile=tls.keyfile or tls.certfile or None,
            ssl_cert_reqs=tls.cert_reqs,
            ssl_check_hostname=tls.check_hostname,
            **options,
        )


async def _ask(connection: Any, *command: str) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response(disable_decoding=True)
