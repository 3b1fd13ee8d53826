"""Puts traces and programs before pgloupe and before the counting rules, and judges all of them alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.accuracy.counting import COUNTING, Seen, seen_in
from bench.accuracy.player import Player
from bench.accuracy.programs import Ran
from bench.accuracy.trace import Expected, Trace
from bench.accuracy.verdict import Reported, Verdict, judge, reported_by_counting, reported_by_engine

PGLOUPE = "pgloupe"
CHECKERS = (PGLOUPE, *COUNTING)


@dataclass
class Evaluation:
    """The verdicts on one kind of input, by checker, inputs in one order."""

    verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: {name: [] for name in CHECKERS})

    def add(
        self,
        name: str,
        kind: str,
        expect: Sequence[Expected],
        allow: Sequence[Expected],
        reported: Iterable[Reported],
        seen: Sequence[Seen],
    ) -> Verdict:
        verdict = judge(name, kind, expect, allow, reported)
        self.verdicts[PGLOUPE].append(verdict)
        for checker, rule in COUNTING.items():
            self.verdicts[checker].append(judge(name, kind, expect, allow, reported_by_counting(rule(seen))))
        return verdict

    def __len__(self) -> int:
        return len(self.verdicts[PGLOUPE])


def play(trace: Trace) -> Verdict:
    """What pgloupe makes of one trace."""
    return judge(trace.name, trace.kind, trace.expect, trace.allow, reported_by_engine(Player(trace).play()))


def of_traces(traces: Iterable[Trace]) -> Evaluation:
    evaluation = Evaluation()
    for trace in traces:
        player = Player(trace)
        reported = reported_by_engine(player.play())
        seen = [seen for outcome in player.outcomes if (seen := seen_in(outcome)) is not None]
        evaluation.add(trace.name, trace.kind, trace.expect, trace.allow, reported, seen)
    return evaluation


def of_programs(programs: Iterable[Ran]) -> Evaluation:
    evaluation = Evaluation()
    for ran in programs:
        evaluation.add(ran.name, ran.pair.kind, ran.expect, ran.allow, ran.reported, ran.seen)
    return evaluation
