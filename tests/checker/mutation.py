"""Faults built in on purpose: each switches one mechanism of the cache off, and names the scene that has to notice.

A mutant is applied in the process of a proxy, before that starts; the product has no code for it. What it changes is looked
up by its name, so that a mutant whose mechanism has moved fails loudly instead of switching nothing off.

Not here, because no client can notice: a fill that does not compare versions. The answer is stored with the versions of its
look-up and a look-up compares them once more, so that one of the two comparisons is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """`off` says what is switched off, `scene` which scene fails because of it."""

    name: str
    off: str
    scene: str
    apply: Callable[[], None]


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(scene: str, off: str, name: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(apply: Callable[[], None]) -> Callable[[], None]:
        chosen = name or apply.__name__
        MUTANTS[chosen] = Mutant(chosen, off, scene, apply)
        return apply

    return add


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put what `make` makes of it in the place of an attribute that is there."""
    setattr(owner, name, make(getattr(owner, name)))
