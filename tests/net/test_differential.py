"""Whole conversations, frame by frame: what a client gets behind the proxy is what it gets from the server.

Each script (see support/scripts) is played direct and through a proxy that only watches, then twice or more through one that may
cache everything; the short ones once more in single bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from support.differential import THE_END, ProxySide, Sides, sides
from support.raw import eventually
from support.scripts import CASES
from support.scripts.common import Case
from support.servers import Postgres

Direct = Callable[[str], list[list[bytes]]]


@pytest.fixture(scope="module")
def three(postgres: Postgres) -> Iterator[Sides]:
    with sides(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def direct(three: Sides) -> Direct:
    """What the server answers in a script."""
    return functools.cache(lambda name: three.direct.answers(CASES[name]))


def played(side: ProxySide, case: Case, expected: list[list[bytes]], *, chunk_bytes: int = 0) -> None:
    """Through the proxy it is the same, and the proxy has understood it."""
    before = side.followed(THE_END)
    assert side.answers(case, chunk_bytes=chunk_bytes) == expected
    assert side.followed(THE_END) == before + (case.followed and not case.ends)


@pytest.mark.parametrize("name", CASES)
def test_a_watched_conversation_is_that_of_the_server(three: Sides, direct: Direct, name: str) -> None:
    played(three.watching, CASES[name], direct(name))


@pytest.mark.parametrize("name", CASES)
def test_a_conversation_with_the_cache_is_that_of_the_server(three: Sides, direct: Direct, name: str) -> None:
    case = CASES[name]
    side = three.caching
    expected = direct(name)
    played(side, case, expected)

    def answered_by_the_cache() -> bool:
        before = side.hits
        played(side, case, expected)
        return side.hits - before >= case.hits

    # not always at once: after a statement that may do anything, the catalogs are read again first
    eventually(answered_by_the_cache)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.cut])
def test_messages_cut_into_single_bytes_make_no_difference(three: Sides, direct: Direct, name: str) -> None:
    played(three.caching, CASES[name], direct(name), chunk_bytes=1)
