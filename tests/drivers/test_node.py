"""The drivers of Node.js: node-postgres with cursors, streams and COPY, and postgres.js. The programs are in tests/node."""

from __future__ import annotations

import pytest

from support import node
from support.raw import eventually
from support.stage import SETUP, Stage
from support.versions import skip


@pytest.mark.parametrize("driver", ["pg", "postgres"])
def test_a_program_sees_what_it_sees_at_the_server(stage: Stage, driver: str) -> None:
    try:
        node.modules()
    except node.NoNode as error:
        skip("node", str(error))
    before = stage.hits()
    seen = stage.compare(lambda url: node.run(f"{driver}.mjs", url, SETUP))
    assert len(seen) == 12
    # new tables are not cached before the proxy has learnt of them
    eventually(lambda: stage.hits() > before or not node.run(f"{driver}.mjs", stage.caching.url, SETUP))
