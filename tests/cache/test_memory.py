"""The memory cache: its bound holds, a scan does not empty it, and what it counts is what the process spends."""

from __future__ import annotations

import gc
import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgloupe.cache import Entry
from pgloupe.cache.entry import OVERHEAD_BYTES
from pgloupe.cache.memory import GHOST_BYTES, Memory


def of(size: int) -> Entry:
    return Entry(b"", b"x" * size)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Bounded(RuleBasedStateMachine):
    """Against a dictionary that forgets nothing: what is found is what was put last, and the sums are right."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(20_000)
        self.put: dict[bytes, Entry] = {}

    @rule(number=st.integers(0, 60), size=st.integers(0, 25_000))
    def store(self, number: int, size: int) -> None:
        entry = of(size)
        stored = self.memory.put(key(number), entry, (), 0.0)
        assert (stored is not None) == (size + OVERHEAD_BYTES <= 20_000)
        assert (stored is not None) == (key(number) in self.memory)
        self.put[key(number)] = entry

    @rule(number=st.integers(0, 60), size=st.integers(0, 800))
    def store_small(self, number: int, size: int) -> None:
        self.store(number, size)

    @rule(number=st.integers(0, 60))
    def ask(self, number: int) -> None:
        slot = self.memory.get(key(number))
        if slot is not None:
            assert slot.entry is self.put[key(number)]
            self.memory.touch(slot)

    @rule(number=st.integers(0, 60))
    def forget(self, number: int) -> None:
        self.memory.remove(key(number))
        assert self.memory.get(key(number)) is None

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        assert len(self.memory) == 0

    @invariant()
    def adds_up(self) -> None:
        slots = [slot for number in range(61) if (slot := self.memory.get(key(number))) is not None]
        assert len(slots) == len(self.memory)
        counted = sum(slot.size_bytes for slot in slots) + GHOST_BYTES * len(self.memory._ghosts)
        assert self.memory.bytes == counted <= self.memory.capacity_bytes
        assert self.memory.small_bytes == sum(slot.size_bytes for slot in slots if not slot.main)


TestBounded = Bounded.TestCase
TestBounded.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_entries_that_are_asked_again_survive_a_scan_of_keys_that_are_not() -> None:
    memory = Memory(200 * (OVERHEAD_BYTES + 100))
    for _ in range(3):
        for number in range(50):
            slot = memory.get(key(number))
            if slot is None:
                memory.put(key(number), of(100), (), 0.0)
            else:
                memory.touch(slot)
    for number in range(1000, 5000):
        memory.put(key(number), of(100), (), 0.0)
    assert sum(key(number) in memory for number in range(50)) == 50


def test_a_key_that_comes_back_soon_after_it_fell_out_goes_to_the_main_queue() -> None:
    memory = Memory(20 * (OVERHEAD_BYTES + 100))
    for number in range(25):
        memory.put(key(number), of(100), (), 0.0)
    fallen = next(number for number in range(25) if key(number) not in memory)
    memory.put(key(fallen), of(100), (), 0.0)
    slot = memory.get(key(fallen))
    assert slot is not None
    assert slot.main


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    memory = Memory(0)
    assert not memory.put(key(1), of(0), (), 0.0)
    assert len(memory) == memory.bytes == 0


def test_the_bytes_that_are_counted_are_not_less_than_what_is_spent() -> None:
    def fill(memory: Memory, size: int) -> None:
        for number in range(4000):
            memory.put(key(number), Entry(bytes(7), bytes(size + number % 2), 1, 0.1), (1, 2, number), 1.5)

    for size in (0, 200):
        memory = Memory(1 << 20)
        gc.collect()
        tracemalloc.start()
        fill(memory, size)
        gc.collect()
        spent = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(memory) > 500
        assert spent <= memory.bytes
