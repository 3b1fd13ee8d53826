"""Django's ORM with psycopg 3 and with psycopg2: schema editor, loading of relations, transactions, cursors of the server.

The programs are in tests/programs/django_orm.py and run as processes of their own: Django chooses its driver once for a
process, and takes psycopg 3 where there is one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.commands import output
from support.raw import eventually
from support.stage import Stage, empty

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "django_orm.py"


def run(driver: str, url: str, *programs: str) -> Any:
    code, shown, said = output(sys.executable, "-W", "error", PROGRAM, driver, url, *programs)
    assert (code, said) == (0, "")
    return json.loads(shown)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_program_sees_what_it_sees_at_the_server(outer_stage: Stage, driver: str) -> None:
    seen = outer_stage.compare(lambda url: run(driver, url), ready=empty)
    assert seen["driver"] == driver
    assert len(seen) == 11


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_cache_answers_its_reads(outer_stage: Stage, driver: str) -> None:
    empty(outer_stage.direct)
    expected = run(driver, outer_stage.direct, "fill", "loading")
    before = outer_stage.hits()

    def hit() -> bool:
        assert run(driver, outer_stage.caching.url, "loading")["loading"] == expected["loading"]
        return outer_stage.hits() > before

    eventually(hit)
