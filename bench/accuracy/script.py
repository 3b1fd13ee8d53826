"""Reads traces: what clients sent and got, as text that a person writes, with the expectation in it.

    title: The day's visits: the doctor of each is looked up
    why:   one query per row of a list, where a join would do
    kind:  foreign key
    expect: n_plus_one on doctor from visit.doctor_id
    ---
    let doctors = 12 of 1000..9999
    SELECT id, doctor_id FROM visit WHERE day = $1
      <- 2026-03-01
      => id: 501..512 ; doctor_id: @doctors
    for d in @doctors:
      SELECT name FROM doctor WHERE id = $1
        <- {d}
        => name: 'Dr {d}'

README.md beside this file has the whole format. Every fault is told with its file and line: a trace that means something
else than its writer thinks is worse than none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from bench.accuracy.trace import (
    FORMS,
    RULES,
    Call,
    Close,
    Connect,
    Expected,
    Form,
    Overlap,
    Pipeline,
    Step,
    Trace,
    TraceError,
    Wait,
)
from bench.accuracy.values import Value, parse

_EXPECT: Final = re.compile(r"(\w+) on ([\w.]+)(?: from ([\w.]+?)\.(\w+))?(?: times (\d+))?")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_TOKEN: Final = re.compile(r"'(?:[^']|'')*'(?:\*\d+)?|\[[^\]]*\]|[^\s,]+")
_RANGE: Final = re.compile(r"(uuid:)?(-?\d+)\.\.(-?\d+)")
_SAMPLE: Final = re.compile(r"(\d+) of (uuid:)?(\d+)\.\.(\d+)")
_REPEATED: Final = re.compile(r"(.+)\*(\d+)")
_SLICE: Final = re.compile(r"@(\w+)(?:\[(\d*):(\d*)\])?")
_HOLE: Final = re.compile(r"\{(\w+)(?:([+-])(\d+))?\}")
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SQL: Final = re.compile(r"[A-Z]{2,}\b|/\*|--|\(|;$|\$|\{")
_STEPS_MOST: Final = 20_000


@dataclass(frozen=True)
class Line:
    number: int
    indent: int
    text: str


def load_all(folder: Path) -> list[Trace]:
    """Every `*.trace` below the folder, by name. Raises TraceError."""
    return [load(path) for path in sorted(folder.rglob("*.trace"))]


def load(path: Path) -> Trace:
    """One trace. Raises TraceError, with file and line."""
    return read(path.read_text(encoding="utf-8"), path.stem)


def read(text: str, name: str) -> Trace:
    """A trace from its text; `name` is used in errors. Raises TraceError."""
    return _Reader(name).trace(text)


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._lists: dict[str, list[str]] = {}
        self._random = random.Random(name)
        self._count = 0

    def _fail(self, number: int, why: str) -> NoReturn:
        raise TraceError(f"{self._name}.trace, line {number}: {why}")

    def trace(self, text: str) -> Trace:
        lines = text.splitlines()
        end = next((at for at, line in enumerate(lines) if line.strip() == "---"), None)
        if end is None:
            self._fail(len(lines), "there is no line `---` between the head and the statements")
        head = self._head(lines[:end])
        body: list[Line] = []
        for number, raw in enumerate(lines[end + 1 :], end + 2):
            if "\t" in raw:
                self._fail(number, "indent with spaces, not with tabs")
            stripped = raw.strip()
            if stripped and not stripped.startswith("#"):
                body.append(Line(number, len(raw) - len(raw.lstrip()), stripped))
        steps = list(self._block(body, {}))
        if not any(isinstance(step, (Call, Pipeline, Overlap)) for step in steps):
            self._fail(len(lines), "there are no statements")
        return Trace(self._name, steps=steps, **head)  # type: ignore[arg-type]

    # --- head ---

    def _head(self, lines: Sequence[str]) -> dict[str, object]:
        single = {"title": "", "why": "", "kind": "", "pace": "0.8ms", "form": "extended"}
        several: dict[str, list[Expected]] = {"expect": [], "allow": []}
        nothing = False
        seen: set[str] = set()
        for number, raw in enumerate(lines, 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            key, colon, value = (part.strip() for part in line.partition(":"))
            if not colon or key not in (*single, *several):
                known = ", ".join([*single, *several])
                self._fail(number, f"the head has `key: value` lines, with these keys: {known}")
            if key in several:
                if key == "expect" and value == "nothing":
                    nothing = True
                else:
                    several[key].append(self._expected(value, number))
            elif key in seen or not value:
                self._fail(number, f"`{key}` must be given once, with a value")
            else:
                single[key] = value
            seen.add(key)
        for key in ("title", "why", "kind", "expect"):
            if key not in seen:
                self._fail(1, f"the head has no `{key}:`")
        if nothing and several["expect"]:
            self._fail(1, "`expect: nothing` stands alone")
        if single["form"] not in FORMS:
            self._fail(1, f"`form` is one of {', '.join(FORMS)}")
        return {
            "title": single["title"],
            "why": single["why"],
            "kind": single["kind"],
            **several,
            "pace_s": self._seconds(single["pace"], 1),
            "form": single["form"],
        }

    def _expected(self, text: str, number: int) -> Expected:
        match = _EXPECT.fullmatch(text)
        if match is None or match[1] not in RULES:
            self._fail(number, f"say `RULE on TABLE [from TABLE.COLUMN] [times N]`, the rule one of {', '.join(RULES)}")
        return Expected(match[1], match[2], match[3] or "", match[4] or "", int(match[5] or 0))

    def _seconds(self, text: str, number: int) -> float:
        match = _TIME.fullmatch(text)
        if match is None:
            self._fail(number, f"{text!r} is no time: 70ms, 0.5ms, 3s")
        return float(match[1]) * _UNITS[match[2]]

    # --- statements ---

    def _block(self, lines: Sequence[Line], names: Mapping[str, str]) -> Iterator[Step]:
        at = 0
        while at < len(lines):
            line = lines[at]
            if line.indent > lines[0].indent:
                self._fail(line.number, "this line belongs to nothing: see its indentation")
            end = at + 1
            while end < len(lines) and lines[end].indent > line.indent:
                end += 1
            yield from self._step(line, lines[at + 1 : end], names)
            at = end

    def _step(self, line: Line, inner: Sequence[Line], names: Mapping[str, str]) -> Iterator[Step]:
        self._count += 1
        if self._count > _STEPS_MOST:
            self._fail(line.number, f"more than {_STEPS_MOST} steps")
        text = line.text
        word, _, rest = text.partition(" ")
        if text.endswith(":") and word in ("for", "repeat", "pipeline:", "overlap:"):
            if not inner:
                self._fail(line.number, "nothing stands inside")
            yield from self._compound(line, word, rest[:-1].strip(), inner, names)
            return
        if _SQL.match(text) or word == "resume":
            yield self._call(line, inner, names)
            return
        if inner:
            self._fail(inner[0].number, f"nothing can stand below `{word}`")
        rest = self._fill(rest, names, line)
        if word == "let":
            name, equals, values = (part.strip() for part in rest.partition("="))
            if not equals or not _NAME.fullmatch(name):
                self._fail(line.number, "say `let NAME = VALUES`")
            self._lists[name] = self._tokens(values, line)
        elif word == "wait":
            yield Wait(self._seconds(rest, line.number))
        elif word == "on":
            name, *options = rest.split()
            pairs = dict(option.partition("=")[::2] for option in options)
            if not set(pairs) <= {"host", "app", "user", "database"}:
                self._fail(line.number, "a connection has host=, app=, user= and database=")
            yield Connect(name, pairs)
        elif word == "close":
            yield Close(rest)
        elif word == "form" and rest in FORMS:
            yield Form(rest)
        else:
            self._fail(
                line.number,
                "neither a statement, in upper case, nor one of: let, wait, on, close, form, for …:, repeat N:, "
                "pipeline:, overlap:, resume",
            )

    def _compound(
        self, line: Line, word: str, rest: str, inner: Sequence[Line], names: Mapping[str, str]
    ) -> Iterator[Step]:
        if word == "repeat":
            count = self._fill(rest, names, line)
            if not count.isdigit():
                self._fail(line.number, "say `repeat N:`")
            for _ in range(int(count)):
                yield from self._block(inner, names)
        elif word == "for":
            for more in self._rounds(rest, line, names):
                yield from self._block(inner, {**names, **more})
        elif word == "overlap:":
            yield Overlap(list(self._block(inner, names)))
        else:
            steps = list(self._block(inner, names))
            calls = [step for step in steps if isinstance(step, Call)]
            if len(calls) != len(steps) or any(call.sqlstate or call.more for call in calls):
                self._fail(line.number, "in a pipeline stand statements that succeed, and loops")
            yield Pipeline(calls)

    def _rounds(self, text: str, line: Line, names: Mapping[str, str]) -> Iterator[dict[str, str]]:
        left, word, right = text.partition(" in ")
        wanted = [name.strip() for name in left.split(",")]
        lists = [self._tokens(self._fill(part, names, line), line) for part in right.split(";")]
        if not word or not all(_NAME.fullmatch(name) for name in wanted) or len(lists) != len(wanted):
            self._fail(line.number, "say `for NAME in VALUES:` or `for A, B in VALUES ; VALUES:`")
        if len({len(values) for values in lists}) != 1:
            self._fail(line.number, f"the lists differ in length: {', '.join(str(len(v)) for v in lists)}")
        for values in zip(*lists, strict=True):
            yield dict(zip(wanted, values, strict=True))

    def _call(self, line: Line, details: Sequence[Line], names: Mapping[str, str]) -> Call:
        call = Call("" if line.text == "resume" else self._fill(line.text, names, line), line.number)
        for detail in details:
            mark, _, rest = detail.text.partition(" ")
            rest = self._fill(rest.strip(), names, detail)
            if mark == "<-":
                for token in self._tokens(rest, detail):
                    bare, _, kind = token.partition("/") if not token.startswith(("'", "[")) else (token, "", "")
                    call.params.append(self._value(bare, detail))
                    call.types.append(kind)
            elif mark == "=>" and rest.isdigit():
                call.rows = int(rest)
            elif mark == "=>":
                self._result(call, rest, detail)
            elif mark == "!" and re.fullmatch(r"[0-9A-Z]{5}", rest):
                call.sqlstate = rest
            elif mark == "~":
                call.took_s = self._seconds(rest, detail.number)
            elif detail.text == "more":
                call.more = True
            elif mark == "..":
                call.sql += " " + rest
            else:
                self._fail(
                    detail.number,
                    "below a statement stand `.. MORE SQL`, `<- PARAMETERS`, `=> COLUMN: VALUES ; …`, `=> ROWS`, "
                    "`! SQLSTATE`, `~ TIME`, `more`",
                )
        used = {int(number) for number in re.findall(r"\$(\d+)", call.sql)}
        if used != set(range(1, len(call.params) + 1)) and call.sql:
            self._fail(line.number, f"{len(call.params)} parameters are given for {sorted(used)}")
        return call

    def _result(self, call: Call, text: str, line: Line) -> None:
        for part in _split(text):
            name, colon, values = part.partition(":")
            name, _, kind = name.strip().partition("/")
            if not colon or not name:
                self._fail(line.number, "a result is `column: values ; column: values`")
            call.columns[name] = [self._value(token, line) for token in self._tokens(values, line)]
            call.column_types[name] = kind
        if len({len(values) for values in call.columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in call.columns.items())
            self._fail(line.number, f"the columns differ in length: {lengths}")

    # --- values ---

    def _fill(self, text: str, names: Mapping[str, str], line: Line) -> str:
        def one(match: re.Match[str]) -> str:
            value = names.get(match[1])
            if value is None:
                self._fail(line.number, f"nothing is called {match[1]!r} here")
            if match[2]:
                prefix, number = ("uuid:", value[5:]) if value.startswith("uuid:") else ("", value)
                if not re.fullmatch(r"-?\d+", number):
                    self._fail(line.number, f"{match[1]} is {value!r} and no number")
                return prefix + str(int(number) + int(match[2] + match[3]))
            return value[1:-1] if value.startswith("'") else value

        return _HOLE.sub(one, text)

    def _tokens(self, text: str, line: Line) -> list[str]:
        text = text.strip()
        sample = _SAMPLE.fullmatch(text)
        if sample is not None:
            return [
                (sample[2] or "") + str(number)
                for number in self._random.sample(range(int(sample[3]), int(sample[4]) + 1), int(sample[1]))
            ]
        found: list[str] = []
        for token in _TOKEN.findall(text):
            repeated = _REPEATED.fullmatch(token)
            times = int(repeated[2]) if repeated is not None else 1
            bare = repeated[1] if repeated is not None else token
            chosen, span = _SLICE.fullmatch(bare), _RANGE.fullmatch(bare)
            if chosen is not None:
                if chosen[1] not in self._lists:
                    self._fail(line.number, f"there is no `let {chosen[1]} = …` before")
                values = self._lists[chosen[1]]
                if chosen[2] is not None:
                    values = values[int(chosen[2] or 0) : int(chosen[3]) if chosen[3] else None]
            elif span is not None:
                first, last = int(span[2]), int(span[3])
                step = 1 if first <= last else -1
                values = [(span[1] or "") + str(number) for number in range(first, last + step, step)]
            else:
                values = [bare]
            found += [value for value in values for _ in range(times)]
        return found

    def _value(self, token: str, line: Line) -> Value:
        try:
            if token.startswith("["):
                return [parse(item) for item in self._tokens(token[1:-1], line)]
            return parse(token)
        except ValueError as error:
            self._fail(line.number, f"{token}: {error}")


def _split(text: str) -> list[str]:
    """The columns of a result: at `;` outside of quotes."""
    parts, quoted, start = [], False, 0
    for at, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif character == ";" and not quoted:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]
