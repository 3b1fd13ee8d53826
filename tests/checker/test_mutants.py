"""Each mechanism of the cache is needed, and the checker would notice if it were gone.

The product passes every scene, and each mutant fails the one that it names.
"""

from __future__ import annotations

import contextlib

import pytest
from tests.checker import scenes_shared
from tests.checker.judge import Violation
from tests.checker.mutants import MUTANTS
from tests.checker.scenes import SCENES
from tests.checker.stage import Lost, Servers, Stage

assert scenes_shared.QUICK  # the scenes of two proxies are among SCENES by now


def play(servers: Servers, scene: str, mutant: str = "") -> list[Violation]:
    with Stage(servers, mutant) as stage:
        with contextlib.suppress(Lost):
            SCENES[scene](stage)
        return stage.verdict()


@pytest.mark.parametrize("scene", SCENES)
def test_the_product_keeps_its_promise_in(scene: str, servers: Servers) -> None:
    assert [str(violation) for violation in play(servers, scene)] == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_is_noticed_that_there_is_no(mutant: str, servers: Servers) -> None:
    kinds = {violation.kind for violation in play(servers, MUTANTS[mutant].scene, mutant)}
    # a cache that does not answer breaks no promise: it is what one mutant is about, and would hide all others
    assert kinds == {"no answers"} if mutant == "comment_in_key" else kinds - {"no answers"}, MUTANTS[mutant].off
