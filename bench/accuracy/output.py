"""The figures as text, as JSON and as the page docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bench.accuracy.evaluate import CHECKERS, PGLOUPE, Evaluation
from bench.accuracy.verdict import CLASSES, NOTHING, Verdict, add_up

Sections = Mapping[str, Evaluation]

SHORT: Final = ("identical texts", "equal templates", "parameter sets")
"""The counting rules in the head of a wide table."""

_WHAT: Final = {
    "traces": "What clients sent and got, written by hand, in `bench/accuracy/traces`. They are played as bytes through the "
    "session and the rules, without the server's catalogs.",
    "programs": "Programs with SQLAlchemy, Django and Drizzle in `bench/accuracy/programs`, each once as it is written without "
    "thought and once as it should be, and some that repeat statements and are fine. Each ran for real through `pgloupe check`. The labels come from the server's log of "
    "statements: what ran more often with more rows is a loop.",
}


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def summary(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """For each checker: name, right, missed, false, precision, recall."""
    rows = []
    for checker in CHECKERS:
        score = add_up(evaluation.verdicts[checker])
        figures = (score.met, score.missed, score.false)
        rows.append((checker, *map(str, figures), percent(score.precision), percent(score.recall)))
    return rows


def confusion(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """pgloupe's table: a row for each expected class, a column for each reported one."""
    score = add_up(evaluation.verdicts[PGLOUPE])
    return [
        (f"`{expected}`" if expected != NOTHING else NOTHING, *(str(score.confusion[expected, r]) for r in CLASSES))
        for expected in CLASSES
    ]


def by_kind(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Label, kind, number of inputs, and of how many each checker says exactly what is right."""
    rows: dict[tuple[int, str, str], list[int]] = {}
    for number, checker in enumerate(CHECKERS):
        for verdict in evaluation.verdicts[checker]:
            key = (CLASSES.index(verdict.label), verdict.label, verdict.kind)
            row = rows.setdefault(key, [0] * (len(CHECKERS) + 1))
            row[0] += number == 0
            row[number + 1] += verdict.right
    return [
        (f"`{label}`" if label != NOTHING else NOTHING, kind, *map(str, rows[place, label, kind]))
        for place, label, kind in sorted(rows)
    ]


def parents(evaluation: Evaluation) -> str:
    score = add_up(evaluation.verdicts[PGLOUPE])
    return f"{score.parents} of {score.proven}"


def wrong(verdicts: Iterable[Verdict]) -> list[str]:
    """What pgloupe gets wrong, a line each."""
    return [f"`{verdict.name}` ({verdict.kind}): {fault}" for verdict in verdicts for fault in _faults(verdict)]


def _faults(verdict: Verdict) -> list[str]:
    out = []
    for expected in verdict.missed:
        source = f", whose rows come from {expected.parent}" if expected.parent else ""
        out.append(f"missed `{expected.rule}` on {expected.table}{source}")
    out += [f"false: {one}" for one in verdict.false]
    return out or verdict.faults()


def as_dict(sections: Sections, conditions: Mapping[str, str], notes: Sequence[str]) -> dict[str, Any]:
    """Everything, for programs."""
    out: dict[str, Any] = {"version": 1, "conditions": dict(conditions), "notes": list(notes)}
    for name, evaluation in sections.items():
        out[name] = {
            "checkers": {checker: add_up(evaluation.verdicts[checker]).as_dict() for checker in CHECKERS},
            "inputs": [
                {
                    "name": verdict.name,
                    "kind": verdict.kind,
                    "label": verdict.label,
                    "right": {checker: evaluation.verdicts[checker][at].right for checker in CHECKERS},
                    "faults": verdict.faults(),
                }
                for at, verdict in enumerate(evaluation.verdicts[PGLOUPE])
            ],
        }
    return out


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    """A Markdown table; columns from number `right` on are figures."""
    marks = ["---" if at < right else "--:" for at in range(len(head))]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(sections: Sections, conditions: Mapping[str, str], notes: Sequence[str]) -> str:
    """docs/accuracy.md, whole."""
    parts = [
        "# How often pgloupe is right",
        "This page is written by `python -m bench.accuracy --markdown docs/accuracy.md`, from the repository alone; "
        "[bench/accuracy](../bench/accuracy/README.md) says how, and how to add a case. Precision is the share of findings "
        "that are right, recall the share of what should be found that was found. A finding with the wrong parent counts as "
        "false and as missed.",
        "Beside pgloupe stand three rules that count repeats, as logs and traces invite one to. They see the same "
        "statements. They are judged by the table alone, whatever class and parent.",
        "The rules are worked on with these cases at hand, so the figures say what is covered, not what an application that "
        "nobody has tried will see.",
    ]
    for name, evaluation in sections.items():
        verdicts = evaluation.verdicts[PGLOUPE]
        positive = sum(1 for verdict in verdicts if verdict.label != NOTHING)
        parts += [
            f"## {name.capitalize()}",
            f"{_WHAT[name]} {len(verdicts)} in all: {positive} with something to find, "
            f"{len(verdicts) - positive} with nothing.",
            _table(("checker", "right", "missed", "false", "precision", "recall"), summary(evaluation), 1),
            "What pgloupe says (columns) of what there is (rows):",
            _table(("", *(f"`{c}`" if c != NOTHING else NOTHING for c in CLASSES)), confusion(evaluation), 1),
            f"The parent is named in {parents(evaluation)} of the `proven` findings that have one.",
            "Inputs of which everything and nothing else was found, by kind:",
            _table(("class", "kind", "inputs", PGLOUPE, *SHORT), by_kind(evaluation), 2),
        ]
        faults = wrong(verdicts)
        if faults:
            parts += ["What pgloupe gets wrong:", "\n".join(f"- {fault}" for fault in faults)]
    parts += ["## Conditions", ", ".join(f"{name} {value}" for name, value in conditions.items()) + "."]
    if "programs" in sections:
        parts.append(
            "Programs run on a real machine: where it is busy, silences grow, and figures may differ by a program or two."
        )
    parts += list(notes)
    return "\n\n".join(parts) + "\n"


def text(sections: Sections, notes: Sequence[str]) -> str:
    """A few lines for a terminal."""
    lines: list[str] = []
    for name, evaluation in sections.items():
        lines += ["", f"{name}: {len(evaluation)}", ""]
        head = ("checker", "right", "missed", "false", "precision", "recall")
        rows = [head, *summary(evaluation)]
        width = max(len(row[0]) for row in rows)
        lines += [f"  {row[0]:{width}} " + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]
        lines += ["", f"  parent named in {parents(evaluation)} proven ones that have one", ""]
        lines.append("  " + " " * 22 + "".join(f"{name:>18}" for name in CLASSES) + "   reported")
        for row in confusion(evaluation):
            lines.append(f"  expected {row[0].strip('`'):>16} " + "".join(f"{cell:>15}   " for cell in row[1:]))
        faults = wrong(evaluation.verdicts[PGLOUPE])
        lines += ["", *(f"  {fault}" for fault in faults)]
    return "\n".join([*lines, *notes])
