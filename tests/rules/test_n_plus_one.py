"""Every trace in `traces/` through the real recogniser, shape and engine; the expectation is in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.traces import described, play

TRACES = sorted((Path(__file__).parent / "traces").glob("*.json"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_gives_what_it_expects_and_nothing_else(path: Path) -> None:
    trace: dict[str, Any] = json.loads(path.read_text())
    findings = [described(finding) for finding in play(trace)]
    expected: list[dict[str, Any]] = trace["expect"]
    assert len(findings) == len(expected), findings
    for finding, wanted in zip(findings, expected, strict=True):
        assert {key: finding[key] for key in wanted} == wanted


def test_there_are_traces_of_both_kinds() -> None:
    expectations = [json.loads(path.read_text())["expect"] for path in TRACES]
    assert sum(1 for expected in expectations if expected) >= 25
    assert sum(1 for expected in expectations if not expected) >= 25
