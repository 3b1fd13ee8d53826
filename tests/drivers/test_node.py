"""The drivers of Node.js: node-postgres with cursors, streams and COPY, and postgres.js. The programs are in tests/node."""

from __future__ import annotations

import pytest

from support import node
from support.raw import eventually
from support.stage import SETUP, Stage, prepare
from support.versions import skip


@pytest.fixture(autouse=True)
def modules() -> None:
    """What the programs import."""
    try:
        node.modules()
    except node.NoNode as error:
        skip("node", str(error))


@pytest.mark.parametrize("driver", ["pg", "postgres"])
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, driver: str) -> None:
    seen = stage.compare(lambda url: node.run(f"{driver}.mjs", url, SETUP))
    assert len(seen) == 13


@pytest.mark.parametrize("driver", ["pg", "postgres"])
def test_a_cache_answers_its_reads(stage: Stage, driver: str) -> None:
    prepare(stage.direct)
    expected = node.run(f"{driver}.mjs", stage.direct)
    before = stage.hits()

    def hit() -> bool:
        assert node.run(f"{driver}.mjs", stage.caching.url) == expected
        return stage.hits() > before

    eventually(hit)
