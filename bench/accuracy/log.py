"""The server's own log of statements, and what it says about a program that ran at two sizes.

A statement whose number grows with the rows is a loop; that is the label, and nobody's opinion. Texts are made alike here by
a few replacements of their own, so that a fault in pgloupe's templates cannot hide in the labels.

Source: PostgreSQL documentation, "Error Reporting and Logging", "Using CSV-Format Log Output".
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg

from bench.accuracy.trace import Expected
from bench.servers import BenchFailed

SETTINGS: Final = {
    "logging_collector": "on",
    "log_destination": "csvlog",
    "log_directory": "statements",
    "log_filename": "all",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
    "log_statement": "all",
    "log_parameter_max_length": "-1",
}

_TIME, _SESSION, _MESSAGE, _DETAIL = 0, 5, 13, 14
_SAID: Final = re.compile(r"(?:statement|execute [^:]*): (.*)", re.DOTALL)
_PARAMETER: Final = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")
_WAIT_S: Final = 20.0

_COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_CONSTANT: Final = re.compile(r"'(?:[^']|'')*'|\$\d+|\b\d+(?:\.\d+)?\b")
_LIST: Final = re.compile(r"\((?:\s*\?(?:::[\w ]+)?\s*,?)+\)")
_TUPLES: Final = re.compile(r"\(\?\)(?:\s*,\s*\(\?\))+")
_SPACE: Final = re.compile(r"\s+")
_TABLE: Final = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?((?:\"?\w+\"?\.)?\"?\w+\"?(?:\s*,\s*\"?\w+\"?)*)", re.IGNORECASE
)
_RULES: Final = {
    "SELECT": "n_plus_one",
    "WITH": "n_plus_one",
    "INSERT": "n_plus_one_write",
    "UPDATE": "n_plus_one_write",
    "DELETE": "n_plus_one_write",
}
GROWS: Final = 0.5
"""Runs more for each row more, from which on a statement grows with the rows."""


@dataclass(frozen=True)
class Logged:
    """One statement in the server's log."""

    at_s: float
    session: str
    text: str
    parameters: tuple[str | None, ...]


class StatementLog:
    """The log of a server with `SETTINGS`, read from where it was read before."""

    def __init__(self, data: Path, url: str) -> None:
        self._path = data / SETTINGS["log_directory"] / "all.csv"
        self._url = url
        self._offset = 0

    def take(self) -> list[Logged]:
        """What was logged since the last call. Raises BenchFailed where the log does not come."""
        mark = f"mark {uuid4()}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"SELECT '{mark}'")
        until = time.monotonic() + _WAIT_S
        while True:
            text = b""
            if self._path.exists():
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    text = file.read()
            if mark.encode() in text and text.endswith(b"\n"):
                break
            if time.monotonic() > until:
                raise BenchFailed(f"the server's log {self._path} does not grow")
            time.sleep(0.02)
        self._offset += len(text)
        return [one for one in _read(text.decode()) if mark not in one.text]


def _read(text: str) -> list[Logged]:
    found: list[Logged] = []
    for line in csv.reader(io.StringIO(text)):
        said = _SAID.fullmatch(line[_MESSAGE])
        if said is None:
            continue
        at = datetime.datetime.strptime(line[_TIME].removesuffix(" UTC") + "000", "%Y-%m-%d %H:%M:%S.%f")
        parameters = tuple(
            None if value == "NULL" else value[1:-1].replace("''", "'") for value in _PARAMETER.findall(line[_DETAIL])
        )
        found.append(Logged(at.timestamp(), line[_SESSION], said[1], parameters))
    return found


def alike(text: str) -> str:
    """The text without what may vary: constants, placeholders, lengths of lists, comments, spaces."""
    text = _CONSTANT.sub("?", _COMMENT.sub(" ", text))
    text = _LIST.sub("(?)", _SPACE.sub(" ", text))
    return _TUPLES.sub("(?)", text).strip(" ;")


def tables_of(text: str) -> tuple[str, ...]:
    """The tables that a text names, in order, without quotes and schemas."""
    found: dict[str, None] = {}
    for group in _TABLE.findall(_COMMENT.sub(" ", text)):
        for name in group.split(","):
            found.setdefault(name.rpartition(".")[2].strip().strip('"').lower())
    return tuple(found)


@dataclass
class _Counted:
    first: Logged
    small: int = 0
    large: int = 0
    asked: set[tuple[str, tuple[str | None, ...]]] = field(default_factory=set)


def label(small: Sequence[Logged], large: Sequence[Logged], rows: int, parents: dict[str, str]) -> list[Expected]:
    """What must be found in the larger of two runs of one program, which differ by so many rows: each statement that grew
    with them. A SELECT that always asked the same is redundant. `parents` names the parent for the table."""
    counted: dict[str, _Counted] = {}
    for run, is_large in ((small, False), (large, True)):
        for one in run:
            entry = counted.setdefault(alike(one.text), _Counted(one))
            if is_large:
                entry.large += 1
                entry.asked.add((one.text, one.parameters))
            else:
                entry.small += 1
    found: dict[tuple[str, str], Expected] = {}
    for key, entry in counted.items():
        rule = _RULES.get(key.split(None, 1)[0].upper(), "")
        tables = [table for table in tables_of(entry.first.text) if not table.startswith("pg_")]
        if not rule or not tables or entry.large - entry.small < GROWS * rows:
            continue
        if rule == "n_plus_one" and len(entry.asked) == 1:
            rule = "redundant_query"
        parent = parents.get(tables[0], "") if rule != "redundant_query" else ""
        found.setdefault((rule, tables[0]), Expected(rule, tables[0], parent, times=0))
    return list(found.values())
