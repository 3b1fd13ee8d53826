"""Two of the programs, for real: a lazy one is labelled by its growth and found, its eager twin is neither."""

from __future__ import annotations

from bench.accuracy.evaluate import PGLOUPE, of_programs
from bench.accuracy.output import as_dict, markdown, text
from bench.accuracy.programs import LARGE, Bench, missing, pairs
from bench.accuracy.trace import Expected


def test_every_pair_is_named_once_and_there_are_thirty_programs() -> None:
    names = [(pair.orm, pair.name) for pair in pairs()]
    assert len(set(names)) == len(names)
    assert sum(len(pair.shapes) for pair in pairs()) >= 30


def test_a_lazy_program_is_labelled_and_found_and_its_twin_is_not() -> None:
    assert missing("sqlalchemy") == ""
    pair = next(pair for pair in pairs() if (pair.orm, pair.name) == ("sqlalchemy", "courses_lessons"))
    with Bench() as bench:
        lazy, eager = bench.run(pair, "lazy"), bench.run(pair, "eager")
    assert lazy.expect == [Expected("n_plus_one", "lesson", "course")]
    assert eager.expect == []
    assert sum(1 for one in lazy.seen if one.tables == ("lesson",)) == LARGE
    evaluation = of_programs([lazy, eager])
    assert [verdict.faults() for verdict in evaluation.verdicts[PGLOUPE]] == [[], []]
    sections = {"programs": evaluation}
    assert as_dict(sections, {}, [])["programs"]["checkers"][PGLOUPE]["true_positives"] == 1
    assert "| pgloupe | 1 | 0 | 0 | 1.000 | 1.000 |" in markdown(sections, {"Python": "3"}, [])
    assert "programs: 2" in text(sections, [])
