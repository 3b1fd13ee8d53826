"""The query of an advice with the values that the loop sent, to paste into psql.

Only made where somebody asks for a report with values. Each placeholder of the advice's SQL has a role (`types.Role`); a
literal is put in its place in the parsed SQL. How a value is written decides what it is to the server:

- a constant of the child that was a literal is written as it was sent, so that `5` stays a number and `'5'` a text;
- the value of a parameter is a string without a type where it is compared or cast, and takes the type from there as the
  parameter did; beside an operator of arithmetic or behind LIMIT a number is a number;
- the keys are one array literal, `'{101,102}'`, which takes the type of the column; a cast that the child has on its key is
  put on the array. Keys of several columns are rows.

Where a value was not kept whole, or its form says too little, there is no example: none is better than a wrong one.
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Final, final

import sqlglot
from sqlglot import exp

from pgloupe_rules.literals import Constants, UnknownForm, array, quoted, text_of
from pgloupe_rules.normalise import recognise
from pgloupe_rules.record import whole
from pgloupe_rules.sqltree import DIALECT, placeholders
from pgloupe_rules.types import Finding, Literal, Role, Sent, Stands, Value

MAX_EXAMPLE_CHARS: Final = 40_000

_COMPARISONS: Final = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Like,
    exp.ILike,
    exp.SimilarTo,
    exp.RegexpLike,
    exp.RegexpILike,
    exp.Between,
    exp.In,
)
_NUMERIC: Final = (exp.Limit, exp.Offset, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg)
_RESULTS: Final = (exp.Select, exp.Alias, exp.If, exp.Case)
_ORDINALS: Final = (exp.Ordered, exp.Order, exp.Group)
_JSON: Final = (exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar)


def example_of(finding: Finding) -> str:
    """The SQL of the finding's advice with the values of its loop, and a semicolon; "" where there is no SQL, where the
    values are not known, and for a write. A comment at its end says if there were more keys. Never raises."""
    sent, advice = finding.sent, finding.advice
    if sent is None or advice is None or not advice.sql or finding.rule != "n_plus_one":
        return ""
    walk = finding.parent is not None and finding.parent.fingerprint == finding.fingerprint
    over_parent = advice.kind == "join" and not walk
    if over_parent and not sent.over_parent:
        return ""
    try:
        # a number in ORDER BY is a place in the select list: it is the child's where the child is there unchanged
        sql = _Example(sent, advice.roles, over_parent or advice.kind == "lateral").write(advice.sql)
    except Exception:  # as in `rewrite`: an example is a courtesy, and what is not understood must not hide the finding
        return ""
    more = "" if over_parent else _more(sent)
    return f"{sql}{more};" if sql and len(sql) <= MAX_EXAMPLE_CHARS else ""


def _more(sent: Sent) -> str:
    shown = len(sent.keys)
    first = f"the first {shown} of " if shown > 1 else "the first of "
    if sent.more:
        return f" /* {first}the keys of {sent.queries} queries */"
    return f" /* {first}{sent.distinct} keys */" if shown < sent.distinct else ""


@final
class _Example:
    """Puts the values of one loop into SQL. Its methods raise UnknownForm."""

    __slots__ = ("_child", "_ordinals", "_parent", "_roles", "_sent")

    def __init__(self, sent: Sent, roles: tuple[Role, ...], ordinals: bool) -> None:
        self._sent = sent
        self._roles = roles
        self._ordinals = ordinals
        self._child = Constants(sent.form)
        self._parent = Constants(sent.parent_form) if sent.parent_form else None

    def write(self, sql: str) -> str:
        tree = _parsed(sql)
        before, after = recognise(sql), recognise(tree.sql(dialect=DIALECT))
        if len(before) != 1 or [one.template.fingerprint for one in after] != [before[0].template.fingerprint]:
            raise UnknownForm
        for node in placeholders(tree):
            role = self._roles[int(node.name) - 1]
            if role.stands is Stands.KEYS:
                _put(node, self._keys(role.number))
            elif role.stands is Stands.KEY:
                self._whole_keys(node)
            elif role.stands is Stands.ROOT:
                self._root(node, role.number)
            elif role.stands is Stands.CHILD:
                self._constant(node, self._child, role.number, self._sent.values)
            elif self._parent is not None:
                self._constant(node, self._parent, role.number, self._sent.parent_values)
            else:
                raise UnknownForm
        found = tree.sql(dialect=DIALECT)
        if len(recognise(found)) != 1 or placeholders(_parsed(found)):
            raise UnknownForm
        return found

    def _column(self, number: int) -> list[Value]:
        place = self._sent.numbers.index(number)
        return [key[place] for key in self._sent.keys]

    def _keys(self, number: int) -> str:
        literal = array(tuple(self._column(number)))
        cast = self._cast(number)
        return literal if not cast else f"{literal}::{cast}" if cast.endswith("]") else f"{literal}::{cast}[]"

    def _key(self, number: int, value: Value) -> str:
        literal = self._literal(number, value)
        cast = self._cast(number)
        return f"CAST({literal} AS {cast.removesuffix('[]')})" if cast else literal

    def _literal(self, number: int, value: Value) -> str:
        if value is None:
            return "NULL"
        return text_of(value) if self._child.is_number(number) else quoted(text_of(value))

    def _cast(self, number: int) -> str:
        """The type that the child casts its key to, "" where it does not."""
        tree = _parsed(self._child.template.text)
        (node,) = [node for node in placeholders(tree) if node.name == str(number)]
        found: list[exp.Expression] = []
        above = node.parent
        while isinstance(above, (exp.Paren, exp.Tuple, exp.Array, exp.Cast)):
            if isinstance(above, exp.Cast):
                found.append(above.to)
            above = above.parent
        if len(found) > 1:
            raise UnknownForm
        return found[0].sql(dialect=DIALECT) if found else ""

    def _whole_keys(self, node: exp.Expression) -> None:
        """All keys in the place of the two that the advice writes out."""
        rows, first = node.find_ancestor(exp.In), node.parent
        if rows is None or first is None or rows.expressions[0] is not first:
            return  # not the first row, or the list has been written
        numbers = [self._roles[int(item.name) - 1].number for item in first.expressions]
        columns = [[self._key(number, value) for value in self._column(number)] for number in numbers]
        written = [exp.Tuple(expressions=[exp.var(cell) for cell in row]) for row in zip(*columns, strict=True)]
        rows.set("expressions", written)

    def _root(self, node: exp.Expression, number: int) -> None:
        value = self._column(number)[0]
        if isinstance(node.parent, exp.Array):
            raise UnknownForm
        _put(node, array((value,)) if _in_any(node) else self._literal(number, value))

    def _constant(self, node: exp.Expression, form: Constants, number: int, values: tuple[Value, ...]) -> None:
        slot, value = form.slot(number), values[number - 1]
        above = node.parent
        if isinstance(above, _ORDINALS) and not self._ordinals:
            raise UnknownForm
        if isinstance(slot, tuple):
            _list(node, form, slot, value)
        elif isinstance(slot, Literal) or slot < 0:
            text = form.written(slot, value)
            _put(node, f"({text})" if text[0] == "-" and isinstance(above, exp.Binary) else text)
        else:
            _put(node, _parameter(node, value))


def _parsed(sql: str) -> exp.Expression:
    tree = sqlglot.parse_one(sql, dialect=DIALECT)
    if not isinstance(tree, exp.Expression):
        raise UnknownForm
    return tree


def _put(node: exp.Expression, text: str) -> None:
    node.replace(exp.var(text))


def _in_any(node: exp.Expression) -> bool:
    """Whether a placeholder is what ANY or ALL compares with."""
    above = node.parent
    while isinstance(above, exp.Paren):
        above = above.parent
    return isinstance(above, (exp.Any, exp.All)) or (isinstance(above, exp.Anonymous) and above.name.upper() == "ALL")


def _list(node: exp.Expression, form: Constants, slot: tuple[int | Literal, ...], value: Value) -> None:
    """The constants of an IN list, which is = ANY of an array in the advice, or of ARRAY[…]."""
    if not isinstance(value, tuple) or not whole(value) or len(slot) != len(value):
        raise UnknownForm
    above = node.parent
    if isinstance(above, exp.Array) and len(above.expressions) == 1:
        if any(isinstance(item, int) and item >= 0 for item in slot):
            above.replace(exp.var(array(value)))
        else:
            shown = [_item(form, item, one) for item, one in zip(slot, value, strict=True)]
            above.set("expressions", [exp.var(text) for text in shown])
        return
    while isinstance(above, exp.Paren):
        above = above.parent
    comparison = above.parent if above is not None and _in_any(node) else None
    if not isinstance(comparison, (exp.EQ, exp.NEQ)):
        raise UnknownForm
    items = [_item(form, item, one) for item, one in zip(slot, value, strict=True)]
    found: exp.Expression = exp.In(this=comparison.this.copy(), expressions=[exp.var(text) for text in items])
    comparison.replace(found if isinstance(comparison, exp.EQ) else exp.Not(this=found))


def _item(form: Constants, item: int | Literal, value: Value) -> str:
    if isinstance(item, Literal) or item < 0:
        return form.written(item, value)
    if isinstance(value, (tuple, bytes)):
        raise UnknownForm
    return "NULL" if value is None else quoted(text_of(value))


def _parameter(node: exp.Expression, value: Value) -> str:
    """The value of a parameter, as a literal that means the same there."""
    if value is None:
        return "NULL"
    above = node.parent
    while isinstance(above, exp.Paren):
        above = above.parent
    typed = isinstance(above, exp.Cast) or (isinstance(above, _COMPARISONS) and _knows_type(above))
    if isinstance(value, tuple):
        interval = len(value) == 3 and all(isinstance(item, int) for item in value)
        if not whole(value) or not (_in_any(node) or (typed and not interval)):
            raise UnknownForm
        return array(value)
    if isinstance(value, bytes):
        raise UnknownForm  # the binary form of a type that is not known
    text = text_of(value)
    if typed and not isinstance(value, Decimal):
        return quoted(text)
    if isinstance(value, (int, Decimal, float)):
        if isinstance(above, (*_COMPARISONS, *_NUMERIC, *_RESULTS, exp.Cast)):
            number = f"CAST({quoted(text)} AS DOUBLE PRECISION)" if isinstance(value, float) else text
            return f"({number})" if number[0] == "-" else number
        if isinstance(above, exp.Func) and not isinstance(above, _JSON):
            return quoted(text)
        raise UnknownForm  # 5 and '5' mean different things to an operator of JSON for example
    if isinstance(value, (datetime, date, time)):
        name = "TIME" if isinstance(value, time) else "TIMESTAMP" if isinstance(value, datetime) else "DATE"
        zone = "TZ" if isinstance(value, (datetime, time)) and value.tzinfo is not None else ""
        return f"CAST({quoted(text)} AS {name}{zone})"
    return quoted(text)


def _knows_type(comparison: exp.Expression) -> bool:
    """Whether something in a comparison has a type of its own: not all of it is constants."""
    return comparison.find(exp.Column, exp.Func, exp.Subquery) is not None
