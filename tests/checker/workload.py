"""Random readers and writers, through two proxies and past them, all in one event loop and one history.

A worker has one session at a time, mostly reads, sometimes writes, and reads what it has written. How it asks, through which
proxy and what comes next is chance, from one seed. After an error whose outcome nobody knows it takes a new session.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

import psycopg
from tests.checker import world
from tests.checker.clients import DRIVERS, ERRORS, Client, connect, lacks_privilege, refused
from tests.checker.history import History, Kind, Operation, Outcome, clock
from tests.checker.world import Register

_RETRY_S: Final = 0.05
_ORPHAN_S: Final = 2.0
_SPECIAL_PAUSE_S: Final = 3.0
"""Between two writes that may be of anything: after each the catalogs are read, and meanwhile the cache does not answer."""

PLAIN: Final = (
    *(*world.ITEMS, *world.VIEWED, *world.SHADOWS, *world.CHILDREN, *world.WHOLES, *world.PARTS, *world.PILES),
    *(world.REFILLED, world.DEFINED, world.MORPH, *world.PASSED),
)
SETTINGS: Final[dict[str, Sequence[Register]]] = {
    "": PLAIN,
    world.SEARCH_PATH: world.TENANTS,
    world.ROLE: world.ALICES,
    world.BOB: (world.GUARDED,),
}


class Run:
    """What all workers share."""

    def __init__(self, urls: Callable[[], Sequence[str]], direct: str, seed: int) -> None:
        self.urls = urls
        self.direct = direct
        self.chance = Random(seed)
        self.history = History(counters=world.counters(direct), states={world.GUARDED.name: 1})
        self.errors: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.piles = {register.name: self.history.counters[register.name] for register in world.PILES}
        self.guard = asyncio.Lock()
        self.special_after_s = 0.0
        self.faults_to_come = 0
        """Until then nobody stops, however many operations there were."""
        self.stop = False


class Worker:
    """One at a time does what its `chance` says. `write_share` of its operations are writes, of them `special_share` such
    that may change anything."""

    def __init__(
        self, run: Run, seed: int, setting: str = "", *, write_share: float = 0.1, special_share: float = 0.1
    ) -> None:
        self._run = run
        self._chance = Random(seed)
        self._setting = setting
        self._registers = SETTINGS[setting]
        self._write_share = write_share
        self._special_share = special_share
        self._client: Client | None = None
        self._favourites = self._chance.sample(self._registers, min(4, len(self._registers)))

    async def work(self, operations: int | None) -> None:
        """At least so many operations, or until `run.stop`."""
        done = 0
        try:
            while not self._run.stop and (operations is None or done < operations or self._run.faults_to_come > 0):
                done += 1
                try:
                    await self._step()
                except ERRORS as error:
                    self._run.errors[f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".strip()] += 1
                    await self._leave()
                if self._chance.random() < 0.01:
                    await self._leave()
        finally:
            await self._leave()

    async def _step(self) -> None:
        client = await self._session()
        if self._chance.random() < self._write_share and self._setting != world.BOB:
            register = await self._write(client)
            if register in self._registers:
                await self._read(client, register)
        else:
            registers = self._favourites if self._chance.random() < 0.8 else self._registers
            await self._read(client, self._chance.choice(registers))

    async def _session(self) -> Client:
        while self._client is None:
            driver = self._chance.choice(DRIVERS)
            try:
                self._client = await connect(driver, self._chance.choice(self._run.urls()), self._setting)
            except ERRORS as error:
                self._run.errors[f"connect: {type(error).__name__}"] += 1
                if self._run.stop:
                    raise
                await asyncio.sleep(_RETRY_S)
        return self._client

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- reads ---

    async def _read(self, client: Client, register: Register) -> None:
        inside = self._chance.random() < 0.1
        if inside:
            await client.run("BEGIN")
        begin_s = clock()
        comment = f" /* {next(self._run.numbers)} */" if self._chance.random() < 0.3 else ""
        try:
            if self._chance.random() < 0.3:
                rows = await client.run(register.literal + comment)
            else:
                rows = await client.run(register.read + comment, register.id)
        except ERRORS as error:
            if register is not world.GUARDED or not lacks_privilege(error):
                raise
            self._add(client, Kind.READ, register, begin_s, "refused", value=0)
        else:
            row = rows[0] if rows else None
            shown = "" if row is None or row[0] == register.name else str(row[0])
            value = None if row is None else 1 if register is world.GUARDED else row[1]
            way = f"{client.driver}{' in a transaction' if inside else ''}"
            self._add(client, Kind.READ, register, begin_s, way, value=value, shown=shown)
        if inside:
            await client.run("COMMIT")

    # --- writes ---

    async def _write(self, client: Client) -> Register:
        chance = self._chance
        if self._setting:
            register = chance.choice(self._registers)
            await self._single(client, register, world.increment(register.table), register.id)
            return register
        ways = _PLAIN
        if chance.random() < self._special_share and clock() >= self._run.special_after_s:
            self._run.special_after_s = clock() + _SPECIAL_PAUSE_S
            ways = _SPECIAL
        return await chance.choice(ways)(self, client)

    async def _single(self, client: Client, register: Register, text: str, *parameters: Any, **fields: Any) -> None:
        """One statement of its own; the last column of its first row tells what was written."""

        async def do() -> int | None:
            rows = await client.run(text, *parameters)
            return rows[0][-1] if rows and isinstance(rows[0][-1], int) else None

        await self._attempt(client, register, do, text, **fields)

    async def _transact(
        self, client: Client, register: Register, *statements: str, end: str = "COMMIT", **fields: Any
    ) -> None:
        """A transaction. `{n}` in a statement stands for what an earlier one told; then it is read before the end."""
        begin_s = clock()
        value: int | None = None
        ended = False
        way = "; ".join((*statements, end))
        try:
            await client.run("BEGIN")
            for text in statements:
                rows = await client.run(text.replace("{n}", str(value)))
                if rows and isinstance(rows[0][-1], int):
                    value = rows[0][-1]
            if value is not None and register in PLAIN and self._chance.random() < 0.5:
                rows = await client.run(register.literal)
                if rows:
                    self._add(client, Kind.READ, register, clock(), "own", value=rows[0][1], own=value)
            ended = True
            await client.run(end)
        except ERRORS as error:
            lost = ended and end == "COMMIT" and not refused(error)
            outcome = Outcome.UNKNOWN if lost else Outcome.ROLLED_BACK
            self._add(client, Kind.WRITE, register, begin_s, way, value=value, outcome=outcome, **fields)
            raise
        outcome = Outcome.ROLLED_BACK if end == "ROLLBACK" else Outcome.ACKNOWLEDGED
        self._add(client, Kind.WRITE, register, begin_s, way, value=value, outcome=outcome, **fields)

    async def _attempt(
        self,
        client: Client,
        register: Register,
        do: Callable[[], Awaitable[int | None]],
        way: str,
        *,
        value: int | None = None,
        **fields: Any,
    ) -> None:
        begin_s = clock()
        try:
            told = await do()
        except ERRORS as error:
            outcome = Outcome.ROLLED_BACK if refused(error) else Outcome.UNKNOWN
            self._add(client, Kind.WRITE, register, begin_s, way, value=value, outcome=outcome, **fields)
            raise
        self._add(client, Kind.WRITE, register, begin_s, way, value=value if told is None else told, **fields)

    def _add(self, client: Client, kind: Kind, register: Register, begin_s: float, way: str, **fields: Any) -> None:
        self._run.history.add(Operation(client.session, kind, register.name, begin_s, clock(), way=way, **fields))

    # The ways of writing. Each gives the register that it wrote.

    async def _update(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        await self._single(client, register, world.increment("item"), register.id)
        return register

    async def _update_through_view(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        await self._single(client, register, world.increment("item_view"), register.id)
        return register

    async def _update_in_transaction(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        text = f"UPDATE item SET n = n + 1 WHERE id = {register.id} RETURNING n"
        end = "ROLLBACK" if self._chance.random() < 0.25 else "COMMIT"
        await self._transact(client, register, text, end=end)
        return register

    async def _savepoint(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        undone = f"UPDATE item SET n = n + 1000 WHERE id = {register.id}"
        text = f"UPDATE public.item SET n = n + 1 WHERE id = {register.id} RETURNING n"
        await self._transact(client, register, "SAVEPOINT s", undone, "ROLLBACK TO s", text)
        return register

    async def _trigger(self, client: Client) -> Register:
        register = self._chance.choice(world.SHADOWS)
        await self._single(client, register, f"INSERT INTO ledger VALUES ({register.id})")
        return register

    async def _cascade(self, client: Client) -> Register:
        register = self._chance.choice(world.CHILDREN)
        await self._single(client, register, world.increment("parent"), register.id)
        return register

    async def _partition(self, client: Client) -> Register:
        register = self._chance.choice((*world.WHOLES, *world.PARTS))
        await self._single(client, register, world.increment(register.table), register.id)
        return register

    async def _copy(self, client: Client) -> Register:
        register = self._chance.choice(world.PILES)
        if client.driver == "asyncpg":
            return await self._update(client)
        self._run.piles[register.name] += 1
        value = self._run.piles[register.name]

        async def do() -> None:
            await client.copy("COPY pile FROM STDIN", [(register.id, register.name, value)])

        await self._attempt(client, register, do, "COPY", value=value)
        return register

    async def _cte(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        text = f"WITH w AS ({world.increment('item')}) SELECT n FROM w"
        await self._single(client, register, text, register.id)
        return register

    async def _function(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        await self._single(client, register, "SELECT bump($1)", register.id)
        return register

    async def _merge(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        await self._single(
            client,
            register,
            f"MERGE INTO item USING (SELECT {register.id} AS id) s ON item.id = s.id"
            " WHEN MATCHED THEN UPDATE SET n = item.n + 1",
        )
        return register

    async def _refill(self, client: Client) -> Register:
        register = world.REFILLED
        await self._transact(
            client,
            register,
            "UPDATE source SET n = n + 1 WHERE id = 1 RETURNING n",
            "TRUNCATE refilled",
            "INSERT INTO refilled VALUES (1, 'refilled:1', {n})",
            vanishing=True,
        )
        return register

    async def _replace_view(self, client: Client) -> Register:
        register = world.DEFINED
        await self._transact(
            client,
            register,
            "UPDATE source SET n = n + 1 WHERE id = 2 RETURNING n",
            "CREATE OR REPLACE VIEW defined AS SELECT id, 'defined:1'::text AS label, {n}::bigint AS n FROM one",
        )
        return register

    async def _alter_table(self, client: Client) -> Register:
        await self._single(client, world.MORPH, "ALTER TABLE morph ALTER n TYPE bigint USING n + 1", vanishing=True)
        return world.MORPH

    async def _two_phase(self, client: Client) -> Register:
        register = self._chance.choice(world.ITEMS)
        name = f"checker_{next(self._run.numbers)}"
        await client.run("BEGIN")
        rows = await client.run(f"UPDATE item SET n = n + 1 WHERE id = {register.id} RETURNING n")
        await client.run(f"PREPARE TRANSACTION '{name}'")
        await self._single(client, register, f"COMMIT PREPARED '{name}'", value=rows[0][0])
        return register

    async def _privilege(self, client: Client) -> Register:
        async with self._run.guard:
            value = self._chance.randrange(2)
            text = "GRANT SELECT ON guarded TO" if value else "REVOKE SELECT ON guarded FROM"
            await self._single(client, world.GUARDED, f"{text} checker_bob", value=value)
        return world.GUARDED


_PLAIN: Final = (
    *(Worker._update, Worker._update, Worker._update_through_view, Worker._update_in_transaction),
    *(Worker._savepoint, Worker._cascade, Worker._partition, Worker._copy, Worker._refill),
)
_SPECIAL: Final = (
    *(Worker._trigger, Worker._cte, Worker._function, Worker._merge, Worker._replace_view, Worker._alter_table),
    *(Worker._two_phase, Worker._privilege),
)


async def bypass(run: Run, seed: int) -> None:
    """Writes past the proxies until `run.stop`, some a second, to registers whose rule has a short ttl."""
    chance = Random(seed)
    client: Client | None = None
    while not run.stop:
        begin_s = clock()
        register = chance.choice(world.PASSED)
        asked = False
        try:
            client = client or await connect("psycopg", run.direct)
            asked = True
            begin_s = clock()
            rows = await client.run(world.increment("passed"), register.id)
            outcome, value = Outcome.ACKNOWLEDGED, rows[0][0]
        except ERRORS as error:
            outcome, value = (Outcome.ROLLED_BACK if refused(error) else Outcome.UNKNOWN), None
            if client is not None:
                await client.close()
            number = client.session if client is not None else 0
            client = None
        else:
            number = client.session
        if asked:
            run.history.add(
                Operation(
                    number, Kind.WRITE, register.name, begin_s, clock(), outcome, value, way="direct", bypass=True
                )
            )
        await asyncio.sleep(chance.random() * 2 * world.BRIEF_TTL_S)
    if client is not None:
        await client.close()


async def janitor(run: Run) -> None:
    """Roll back prepared transactions that nobody will commit any more: they hold locks."""
    while not run.stop:
        with contextlib.suppress(*ERRORS):
            connection = await psycopg.AsyncConnection.connect(run.direct, autocommit=True)
            async with connection:
                cursor = await connection.execute(
                    "SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - %s * interval '1 s'", (_ORPHAN_S,)
                )
                for (name,) in await cursor.fetchall():
                    with contextlib.suppress(psycopg.errors.UndefinedObject):
                        await connection.execute(f"ROLLBACK PREPARED '{name}'".encode())
        for _ in range(20):
            if run.stop:
                return
            await asyncio.sleep(0.05)
