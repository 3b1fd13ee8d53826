"""What a name means when the statement that changes it is on its way and nobody knows yet how it ends.

A Bind that is read with a wrong meaning is a write that nobody announces. So whatever may have changed is UNKNOWN, which may
write anything.
"""

from __future__ import annotations

import pytest

from pgloupe.session.actions import BeginWrite
from pgloupe.session.statements import UNKNOWN
from pgloupe.wire.frontend import build_bind, build_close, build_execute, build_parse, build_query, build_sync
from support.conversation import (
    BOUND,
    CLOSED,
    PARSED,
    Conversation,
    complete,
    cut,
    data_row,
    error,
    extended,
    gated,
    ready,
    row_description,
)

READ = "SELECT name FROM author WHERE id = 7"
WRITE = "DELETE FROM author WHERE id = 7"
RUN = build_bind("", "s") + build_execute("") + build_sync()


def prepared(query: str = READ) -> Conversation:
    """The name `s` means a read."""
    talk = gated()
    talk.client(build_parse("s", query), build_sync())
    talk.server(PARSED, ready())
    return talk


def marks(talk: Conversation) -> list[frozenset[str] | None]:
    """The tables of the marks made since this was asked last."""
    desk = talk.desk
    assert desk is not None
    made = [action.tables for action in desk.log if isinstance(action, BeginWrite)]
    desk.log.clear()
    return made


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        (f"DEALLOCATE s; PREPARE s AS {WRITE}", ["DEALLOCATE", "PREPARE"]),
        (f"deallocate prepare s; prepare s as {WRITE}", ["DEALLOCATE", "PREPARE"]),
        (f"DEALLOCATE ALL; PREPARE s AS {WRITE}", ["DEALLOCATE ALL", "PREPARE"]),
        (f"SELECT 1; DEALLOCATE s; PREPARE s AS {WRITE}", ["SELECT 1", "DEALLOCATE", "PREPARE"]),
        (f"DO $$ BEGIN EXECUTE 'DEALLOCATE s'; EXECUTE 'PREPARE s AS {WRITE}'; END $$", ["DO"]),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_name_that_sql_gives_another_meaning_is_not_read_with_the_old_one(
    query: str, tags: list[str], waits: bool
) -> None:
    talk = prepared()
    talk.client(build_query(query))
    reply = b"".join(complete(tag) for tag in tags) + ready()
    if waits:
        talk.server(reply)
    marks(talk)
    talk.client(RUN)
    portal = talk.session.observer.statements.portal("")
    assert portal is not None
    assert portal.prepared.recognised is UNKNOWN
    if waits:
        assert marks(talk) == [None]
    else:
        talk.server(reply)
    talk.server(BOUND, complete("DELETE 1"), ready())
    assert talk.session.trouble == ""


def test_a_query_that_nobody_could_read_may_have_changed_any_name() -> None:
    talk = prepared()
    talk.client(build_query(f"SELECT 1; DEALLOCATE s; PREPARE s AS {WRITE} /*" + "x" * (2 << 20) + "*/"))
    talk.server(row_description("a"), data_row("1"), complete("SELECT 1"))
    talk.server(complete("DEALLOCATE"), complete("PREPARE"), ready())
    marks(talk)
    talk.client(RUN)
    assert marks(talk) == [None]


@pytest.mark.parametrize("order", ["close, parse", "deallocate, parse"])
def test_a_name_made_anew_behind_its_end_keeps_its_new_meaning(order: str) -> None:
    talk = prepared()
    ends = build_close("S", "s") if order.startswith("close") else build_query("DEALLOCATE s")
    talk.client(ends, build_parse("s", WRITE), build_sync())
    talk.server(*([CLOSED] if order.startswith("close") else [complete("DEALLOCATE"), ready()]), PARSED, ready())
    marks(talk)
    talk.client(RUN)
    assert marks(talk) == [frozenset({"author"})]


def test_what_was_prepared_behind_a_discard_stays() -> None:
    talk = prepared()
    talk.client(build_query("DISCARD ALL"), build_parse("t", WRITE), build_sync())
    talk.server(complete("DISCARD ALL"), ready(), PARSED, ready())
    statements = talk.session.observer.statements
    assert statements.prepared("s") is None
    assert statements.prepared("t") is not None


@pytest.mark.parametrize("fetch", ["FETCH ALL FROM p", "MOVE ALL IN p", "fetch p"])
def test_a_fetch_runs_what_was_bound_by_that_name(fetch: str) -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_parse("", f"{WRITE} RETURNING id"), build_bind("p", ""), build_sync())
    talk.server(PARSED, BOUND, ready("T"))
    assert marks(talk) == []
    talk.client(build_query(fetch))
    assert marks(talk) == [frozenset({"author"})]


def test_a_fetch_runs_anything_where_a_bind_could_not_be_read() -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_parse("", "DELETE FROM post WHERE body = $1 RETURNING id"))
    talk.client_chunks(cut(build_bind("p", "", (b"x" * (2 << 20),)) + build_sync(), range(0, 2 << 20, 1 << 18)))
    talk.server(PARSED, BOUND, ready("T"))
    talk.client(build_query("FETCH ALL FROM p"))
    assert marks(talk) == [None]


def test_a_fetch_of_a_cursor_writes_nothing() -> None:
    talk = gated()
    talk.client(build_query("BEGIN"))
    talk.server(complete("BEGIN"), ready("T"))
    talk.client(build_query(f"DECLARE c CURSOR FOR {READ}"), build_query("FETCH 1 FROM c"))
    assert marks(talk) == []
    talk.server(complete("DECLARE CURSOR"), ready("T"), row_description("name"), complete("FETCH 0"), ready("T"))
    talk.client(extended(READ, name="t", sync=False), build_bind("p", "t"), build_sync())
    talk.client(build_query("FETCH 1 FROM p"))
    assert marks(talk) == []


def test_a_read_that_is_bound_behind_a_failing_deallocate_is_only_not_known() -> None:
    talk = prepared()
    talk.client(build_query("DEALLOCATE nobody"), RUN)
    talk.server(error("26000"), ready(), BOUND, data_row("Ada"), complete("SELECT 1"), ready())
    assert talk.session.trouble == ""
    marks(talk)
    talk.client(RUN)
    assert marks(talk) == []
