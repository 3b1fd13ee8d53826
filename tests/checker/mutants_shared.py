"""Mutants of what proxies do together, by Redis. See `mutation`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.checker.mutants_one import nothing_raised
from tests.checker.mutation import mutant, patch


@mutant("announced", "other proxies hear of writes")
def nothing_announced() -> None:
    from pgloupe.cache.shared import Shared

    def end(self: Any, mark: Any, done: Callable[[], None], lost: bool) -> None:
        self._live.pop(mark.serial, None)
        done()

    patch(Shared, "begin", lambda real: lambda self, mark: mark)
    patch(Shared, "end", lambda real: end)


@mutant("announced", "the versions of what was written are raised anywhere")
def nothing_raised_anywhere() -> None:
    nothing_raised()
    nothing_announced()


@mutant("commit_on_its_way_elsewhere", "marks are told to other proxies")
def marks_not_shared() -> None:
    from pgloupe.cache.shared import Shared

    patch(Shared, "begin", lambda real: lambda self, mark: mark)


@mutant("acknowledgement_lost_elsewhere", "other proxies keep the mark of a write of unknown outcome")
def lost_not_dirty_elsewhere() -> None:
    from pgloupe.cache.shared import Shared

    patch(Shared, "end", lambda real: lambda self, mark, done, lost: real(self, mark, done, False))


@mutant("slow_announcement", "a write waits until Redis has its mark")
def dispatched_before_the_mark() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        def begin(self: Any, mark: Any) -> Any:
            real(self, mark)
            return mark

        return begin

    patch(Shared, "begin", make)


@mutant("long_transaction", "marks are renewed")
def marks_not_renewed() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        def tick(self: Any) -> None:
            self._renewed_s = asyncio.get_running_loop().time()
            real(self)

        return tick

    patch(Shared, "_tick", make)


@mutant("cut_off", "a proxy that has lost Redis waits with the answers to its writes")
def not_held() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        def owe(self: Any, *given: Any) -> Any:
            self._member_until_s = float("-inf")
            return real(self, *given)

        return owe

    patch(Shared, "_owe", make)
    patch(Shared, "_hold", make)


@mutant("seen_while_cut_off", "a write that cannot be announced waits until no other proxy answers")
def not_held_before() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        def begin(self: Any, mark: Any) -> Any:
            begun = real(self, mark)
            return begun if self._link.up else mark

        return begin

    patch(Shared, "begin", make)


@mutant("cut_off", "while a proxy is out of touch the others do not answer")
def members_ignored() -> None:
    from pgloupe.cache.shared import Shared

    patch(Shared, "_joined", lambda real: real)  # the one that tells of the others
    ahead_ms = 1_000_000

    def make(real: Any) -> Any:
        def join(self: Any) -> Any:
            self._redis_ms += ahead_ms
            try:
                return real(self)
            finally:
                self._redis_ms -= ahead_ms

        return join

    patch(Shared, "_join", make)


@mutant("debt", "a debt is paid before Redis is used again")
def debt_forgotten() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        async def opened(self: Any) -> None:
            self._debt = False
            await real(self)

        return opened

    patch(Shared, "_open", make)


@mutant("old_snapshot", "it is noticed that Redis is another one")
def redis_not_recognised() -> None:
    from pgloupe.cache.shared import Shared

    async def recognise(self: Any, infos: Any) -> bytes:
        return b"always the same"

    patch(Shared, "_recognise", lambda real: recognise)


@mutant("forgotten_by_redis", "proxies that an empty Redis does not know are waited for")
def peers_forgotten() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        def joined(self: Any, reply: Any) -> Any:
            found = real(self, reply)
            self._peers = frozenset()
            return found

        return joined

    patch(Shared, "_joined", make)


@mutant("transaction_over_a_restart", "marks are placed again in a Redis that has lost them")
def marks_not_placed_again() -> None:
    from pgloupe.cache.shared import Shared

    def make(real: Any) -> Any:
        async def opened(self: Any) -> None:
            live, self._live = self._live, {}
            await real(self)
            self._live.update(live)

        return opened

    patch(Shared, "_open", make)


@mutant("stored_late", "an answer's age is counted from its dispatch, whenever Redis hears of it")
def age_from_the_arrival() -> None:
    from pgloupe.cache import scripts, shared

    begun = "tonumber(ARGV[4])"
    assert begun in scripts.FILL
    changed = scripts.FILL.replace(begun, "now")
    patch(scripts, "SCRIPTS", lambda real: tuple(changed if one == scripts.FILL else one for one in real))
    patch(shared, "FILL", lambda real: shared._sha(changed))


@mutant("fetched_late", "an answer's age is counted from before it was asked for in Redis")
def age_from_the_reply() -> None:
    from pgloupe.cache.cache import Cache

    def make(real: Any) -> Any:
        def looked_up(self: Any, read: Any, names: Any, schema: Any, slot: Any, _: float, *rest: Any) -> Any:
            return real(self, read, names, schema, slot, self._clock(), *rest)

        return looked_up

    patch(Cache, "_looked_up", make)
