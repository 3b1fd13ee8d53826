"""The mark of a session's writes: none is left behind, none is ended twice, in whatever order things are told back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgloupe.session.marks import NO_TABLES, Marks, union


class Mark:
    """Open until it is ended."""


def test_tables_join_and_anything_stays_anything() -> None:
    assert union(frozenset({"a"}), frozenset({"b"})) == {"a", "b"}
    assert union(None, frozenset({"a"})) is None
    assert union(NO_TABLES, None) is None


def test_a_write_is_covered_by_a_mark_of_its_tables() -> None:
    marks = Marks()
    assert not marks.covers(frozenset({"a"}))
    begin = marks.begin(frozenset({"a"}))
    assert (begin.tables, begin.mark) == ({"a"}, None)
    first = Mark()
    assert marks.begun(first) is None
    assert marks.covers(frozenset({"a"}))
    assert marks.single
    assert not marks.covers(frozenset({"a", "b"}))
    assert not marks.covers(None)
    assert marks.begin(None).mark is first
    assert marks.begun(first) is None
    assert marks.covers(None)
    assert not marks.single


def test_a_mark_that_is_being_ended_is_not_ended_once_more() -> None:
    marks = Marks()
    marks.begin(frozenset({"a"}))
    marks.begun(Mark())
    marks.end(again=False, refused=False)
    assert marks.lose() is None


def test_what_was_marked_while_another_mark_was_being_ended_is_lost_with_its_session() -> None:
    marks = Marks()
    marks.begin(frozenset({"a"}))
    marks.begun(Mark())
    marks.end(again=False, refused=False)
    assert marks.begin_all().tables is None
    everything = Mark()
    assert marks.begun(everything) is None
    lost = marks.lose()
    assert lost is not None
    assert lost.mark is everything
    assert lost.lost


@given(st.lists(st.sampled_from(["write", "end", "again", "lost track"]), max_size=6), st.booleans())
def test_at_the_end_no_mark_is_open(steps: list[str], told: bool) -> None:
    """`told`: what is under way is told back before the session closes, and not behind it."""
    marks = Marks()
    is_open: set[object] = set()
    begins: list[object | None] = []
    ending: list[tuple[object, bool]] = []

    def tell(closed: bool) -> None:
        while begins:
            mark = begins.pop(0) or Mark()
            is_open.add(mark)
            former = marks.begun(mark)
            if former is not None:
                is_open.remove(former)
            if closed:
                lose()
        while ending:
            mark, again = ending.pop(0)
            is_open.remove(mark)
            fresh = Mark() if again else None
            if fresh is not None and not (closed or lost_track):
                is_open.add(fresh)
            if not (closed or lost_track):
                marks.ended(fresh)

    def lose() -> None:
        lost = marks.lose()
        if lost is not None:
            is_open.remove(lost.mark)

    lost_track = False
    for step in steps:
        if step == "lost track":
            begins.append(marks.begin_all().mark)
            lost_track = True
            break
        tell(closed=False)
        if step == "write":
            begins.append(marks.begin(frozenset({"a"})).mark)
        elif marks.held:
            ending.append((marks.end(again=step == "again", refused=False).mark, step == "again"))
    if told:
        tell(closed=False)
    lose()
    tell(closed=True)
    assert is_open == set()
