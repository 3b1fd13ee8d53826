"""The values that a loop sent, taken from its runs when a finding is made of them.

They are for `example`, which writes the query of the advice with them. That is done only when somebody asks for a report with
values, so here they are collected alone: some hundred references, for a finding and never for a statement.

A loop of which not all is known, or that might write when it is run again, has none: no example is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgloupe_rules.builtin import HARMLESS
from pgloupe_rules.record import MAX_EAGER_BYTES, Run, kept, plain, single, weight_of, whole
from pgloupe_rules.shape import shape_of
from pgloupe_rules.sources import Source
from pgloupe_rules.types import Sent, Template, Value
from pgloupe_rules.value_flow import Flow

MAX_KEYS: Final = 200
MAX_KEY_BYTES: Final = 20 * 1024
"""What the keys may weigh, roughly; later ones are left out."""

_BYTEA: Final = 17

_LEAVE_TRACES: Final = frozenset(
    {
        "nextval",
        "setval",
        "set_config",
        "setseed",
        "pg_notify",
        "pg_cancel_backend",
        "pg_terminate_backend",
        "pg_sleep",
        "pg_sleep_for",
        "pg_sleep_until",
    }
)


def sent_by(
    template: Template, form: str, runs: Sequence[Run], number: int, count: int, flow: Flow | None = None
) -> Sent | None:
    """What the runs of a loop of `count` queries over placeholder `number` sent; `form` is the text of one of them without
    comments. None where a part of it is not known, or where the template might leave a trace. `flow` says where the keys
    came from."""
    if not form or len(form) > MAX_EAGER_BYTES or not harmless(template):
        return None
    first = runs[0].sent()
    size = template.placeholders
    known = runs[0].values()
    varying = {number}
    for run in runs:
        values = run.values()
        if len(values) != size:
            return None
        varying.update([place for place in range(1, size + 1) if values[place - 1] != known[place - 1]])
    numbers = tuple(sorted(varying))
    rest = [place for place in range(size) if place + 1 not in varying]
    keys: dict[tuple[Value, ...], None] = {}
    weight = 0
    shown = 0
    for run in runs:
        sent = run.sent()
        key = tuple([single(sent[place - 1]) for place in numbers])
        if any(sent[place] != first[place] for place in rest) or not all(whole(value) for value in key):
            return None
        if key in keys:
            continue
        keys[key] = None
        weight += weight_of(key)
        if weight <= MAX_KEY_BYTES and len(keys) <= MAX_KEYS:
            shown += 1
    if not _printable_bytes(keys, numbers, number, flow):
        return None
    distinct = len(keys)
    if flow is not None and flow.source.template.fingerprint == template.fingerprint:
        # a tree: the keys that were in no row before
        distinct = 1 + sum([not flow.column.seen_before(single(r.values()[number - 1]), r.sequence) for r in runs[1:]])
        shown = 1
    form_of_parent, values_of_parent = parent_sent(flow.source, flow.givers()) if flow is not None else ("", ())
    return Sent(
        form=form,
        numbers=numbers,
        keys=tuple(keys)[:shown],
        distinct=distinct,
        more=count > len(runs),
        queries=count,
        values=first,
        over_parent=flow is not None and harmless(flow.source.template),
        parent_form=form_of_parent,
        parent_values=values_of_parent,
    )


def harmless(template: Template) -> bool:
    """Whether a statement of this template can be run again and nobody notices."""
    shape = shape_of(template)
    if not shape.parsed or not shape.read_only:
        return False
    for function in shape.functions:
        name = function.removeprefix("pg_catalog.")
        if name not in HARMLESS or name in _LEAVE_TRACES or "advisory" in name:
            return False
    return True


def parent_sent(source: Source, given: set[float]) -> tuple[str, tuple[Value, ...]]:
    """The text of the statements whose results were given then, and the values of their placeholders; "" where they
    differ, or are not those of the template (a FETCH)."""
    form = ""
    values: tuple[Value, ...] = ()
    for outcome, then in zip(source.outcomes, source.given, strict=True):
        if then not in given:
            continue
        statement = outcome.statement
        mine = tuple([value if whole(kept(plain(value))) else kept(plain(value)) for value in statement.values()])
        bare = statement.recognised.bare
        if (
            len(bare) > MAX_EAGER_BYTES
            or statement.template.fingerprint != source.template.fingerprint
            or statement.template.placeholders != source.template.placeholders
            or len(mine) != source.template.placeholders
            or (form and mine != values)
        ):
            return "", ()
        form, values = bare, mine
    return form, values


def _printable_bytes(
    keys: dict[tuple[Value, ...], None], numbers: tuple[int, ...], number: int, flow: Flow | None
) -> bool:
    """Whether there are no strings of bytes among the keys, or they surely are bytea: of a type that is not known they
    are its binary form."""
    if not any(isinstance(value, bytes) for key in keys for value in key):
        return True
    if flow is None or any(
        isinstance(value, bytes) for key in keys for of, value in zip(numbers, key, strict=True) if of != number
    ):
        return False
    types = {
        column.type_oid
        for outcome in flow.source.outcomes
        for column in outcome.columns
        if column.name == flow.column.name
    }
    return types == {_BYTEA}
