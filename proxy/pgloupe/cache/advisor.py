"""Whether a rule of the cache pays.

With O the time that the server takes, H that of a hit and M that of a miss through us, n reads take n·O without the cache and
h·n·H + (1-h)·n·M with it, at a hit ratio of h. So it pays while h is over (M-O) / (M-H): a rule that hits seldom, or whose
statements the server answers as fast as we do, only adds to the time.

H and M are what pgloupe itself sees: from the last byte of the question to the first of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ENOUGH: Final = 20
"""Look-ups below which nobody can tell."""


@dataclass(frozen=True, slots=True)
class Advice:
    """`needed` and `reached` are hit ratios from 0 to 1; None where they are not known. `pays` is None where nobody can
    tell. `text` is a sentence."""

    needed: float | None
    reached: float | None
    pays: bool | None
    text: str


def break_even(server_ms: float, hit_ms: float, miss_ms: float) -> float | None:
    """The hit ratio over which a rule pays; None where no ratio is enough."""
    if hit_ms >= server_ms or miss_ms <= hit_ms:
        return None
    return max(0.0, (miss_ms - server_ms) / (miss_ms - hit_ms))


def advise(hits: int, misses: int, server_ms: float | None, hit_ms: float | None, miss_ms: float | None) -> Advice:
    """`server_ms`, `hit_ms` and `miss_ms` are O, H and M as means; None where none was measured."""
    asked = hits + misses
    if not asked:
        return Advice(None, None, None, "never asked")
    reached = hits / asked
    if server_ms is None or hit_ms is None or miss_ms is None:
        if asked < ENOUGH or hits:
            return Advice(None, reached, None, f"too few reads to tell: {hits:,} of {asked:,} hit")
        return Advice(None, reached, False, f"does not pay: none of {asked:,} reads hit")
    needed = break_even(server_ms, hit_ms, miss_ms)
    if asked < ENOUGH:
        return Advice(needed, reached, None, f"too few reads to tell: {hits:,} of {asked:,} hit")
    if needed is None:
        return Advice(
            None, reached, False, f"never pays: a hit takes {hit_ms:.3g} ms and the server's answer {server_ms:.3g} ms"
        )
    ratios = f"{reached:.2f} reached, {needed:.2f} needed"
    return Advice(needed, reached, reached > needed, f"{'pays' if reached > needed else 'does not pay'}: {ratios}")


def advise_dry_run(hits: int, misses: int, different: int, saved_ms: float) -> Advice:
    """What a `dry_run` rule has found out: its hits are those that it would have had."""
    asked = hits + misses
    if not asked:
        return Advice(None, None, None, "dry run: never asked")
    same = f"{different:,} of them different" if different else "none of them different"
    return Advice(
        None,
        hits / asked,
        None,
        f"dry run: {hits:,} of {asked:,} would have hit, {same}; the server took {saved_ms:,.3g} ms for them",
    )
