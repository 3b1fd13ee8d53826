"""Programs that nobody has thought through, direct and behind the proxy: the same frames in the same order.

Two sessions send what `support.programs` makes up, cut anywhere. What the cache answers must be what the server would have said:
the direct side has the same writes and no cache. PGLOUPE_TEST_EXAMPLES asks for so many examples of each kind, made up anew in
each run; without it there are few, and always the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from support.differential import SETTLED, Record, Sides, Turn, sides, transcript
from support.programs import AUDIT, REST, WARM, programs
from support.servers import Postgres

ASKED = int(os.environ.get("PGLOUPE_TEST_EXAMPLES", "0"))


def some(examples: int) -> settings:
    return settings(
        max_examples=ASKED or examples,
        derandomize=not ASKED,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def three(postgres: Postgres) -> Iterator[Sides]:
    with sides(postgres) as made:
        yield made


def first_difference(program: Sequence[Turn], direct: list[object], proxied: list[object]) -> str:
    """The turns up to the first one that was answered in another way, and both answers."""
    lines: list[str] = []
    for turn, expected, got in zip([*program, "end of 0", "end of 1"], direct, proxied, strict=True):
        lines.append(str(turn))
        if expected != got:
            lines += [f"    direct:  {expected}", f"    proxied: {got}"]
            break
    return "\n".join(lines)


def compare(three: Sides, program: Sequence[Turn]) -> None:
    program = [REST, *WARM, *program, *AUDIT]
    told = three.direct.converse(program)
    expected = transcript(told, three.first_new_oid)
    for side in (three.watching, three.caching):
        before = side.followed(SETTLED)
        got = transcript(side.converse(program, told), three.first_new_oid)
        if got != expected:
            pytest.fail(first_difference(program, list(expected), list(got)), pytrace=False)
        # none of the two sessions has been given up
        assert side.followed(SETTLED) - before == questions(program, told)


def questions(program: Sequence[Turn], told: Sequence[Record]) -> int:
    """How many questions that end a turn the server was asked."""
    return sum(turn.wait == "settle" and record.played for turn, record in zip(program, told, strict=False))


@some(60)
@given(programs(wild=False))
def test_no_program_can_tell_the_proxy_from_the_server(three: Sides, program: list[Turn]) -> None:
    compare(three, program)


def test_the_comparison_sees_answers_of_the_cache(three: Sides) -> None:
    """The programs above would prove nothing if the cache never answered in them."""
    before = three.caching.hits
    for _ in range(3):
        compare(three, [])
    assert three.caching.hits - before >= len(WARM) // 2


@some(20)
@given(programs(wild=True))
def test_nor_can_one_that_may_do_anything(three: Sides, program: list[Turn]) -> None:
    compare(three, program)
