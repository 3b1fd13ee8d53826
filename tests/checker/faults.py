"""What happens to a running workload. Each fault is over when its function returns, and what it broke works again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

import psycopg
import redis.asyncio as redis
from tests.checker.serving import ProxyProcess
from tests.checker.stage import Servers
from tests.checker.valve import Valve

from support.fault_proxy import UP


class Faults:
    """`proxies[0]` reaches Redis through `valve`."""

    def __init__(self, servers: Servers, proxies: Sequence[ProxyProcess], valve: Valve, chance: Random) -> None:
        self.servers = servers
        self.proxies = proxies
        self.valve = valve
        self.chance = chance
        self.lost: list[dict[str, Any]] = []
        """Figures of proxies before they were killed."""

    async def kill_proxy(self) -> None:
        """SIGKILL of a proxy, and a new one in its place."""
        proxy = self.chance.choice(self.proxies)

        def kill() -> None:
            self.lost.append(proxy.figures())
            proxy.kill()
            proxy.start()

        await asyncio.to_thread(kill)

    async def kill_redis_connections(self) -> None:
        """CLIENT KILL of one proxy's connection, or of all."""
        async with contextlib.aclosing(redis.Redis.from_url(self.servers.redis.url)) as client:
            found = [one for one in await client.client_list() if one["name"] == "pgloupe"]
            for one in self.chance.sample(found, min(len(found), self.chance.randint(1, 2))):
                await client.execute_command("CLIENT", "KILL", "ID", one["id"])

    async def stop_redis(self) -> None:
        """SIGSTOP for a while: connections stay, nothing is answered, and later everything is done that was sent."""
        self.servers.redis.pause()
        await asyncio.sleep(0.1 + 2 * self.chance.random())
        self.servers.redis.resume()

    async def restart_redis(self) -> None:
        """It comes back empty."""
        await asyncio.to_thread(self.servers.redis.stop)
        await asyncio.sleep(2 * self.chance.random())
        await asyncio.to_thread(self.servers.redis.start)

    async def cut_redis(self) -> None:
        """One proxy does not reach Redis, the other does."""
        self.valve.close()
        await asyncio.sleep(2 * self.chance.random())
        self.valve.open()

    async def stall_redis(self) -> None:
        """What one proxy sends to Redis arrives late."""
        pipe = self.valve.last
        pipe.hold(UP)
        await asyncio.sleep(self.chance.random())
        pipe.flow(UP)

    async def terminate_backends(self) -> None:
        """pg_terminate_backend of some sessions."""
        with contextlib.suppress(psycopg.Error):
            connection = await psycopg.AsyncConnection.connect(self.servers.superuser(), autocommit=True)
            async with connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                    " WHERE usename = 'app' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 3) s"
                )

    async def restart_postgres(self) -> None:
        """A fast shutdown, or a crash."""
        server = self.servers.postgres
        await asyncio.to_thread(self.chance.choice((server.stop, server.kill)))
        await asyncio.to_thread(server.start)


FAULTS: Final[dict[str, Callable[[Faults], Awaitable[None]]]] = {
    name: getattr(Faults, name)
    for name in (
        *("kill_proxy", "kill_redis_connections", "stop_redis", "restart_redis", "cut_redis", "stall_redis"),
        *("terminate_backends", "restart_postgres"),
    )
}
