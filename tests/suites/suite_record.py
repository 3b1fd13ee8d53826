"""A plugin for pytest that writes one line of JSON for each event of a test, as it happens.

It runs inside a foreign suite, in that suite's own process and folder, so it stands on pytest and the standard library
alone. A line for the start of each test tells which one was running when a suite was ended for its time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, TextIO

import pytest

_file: TextIO | None = None
_subtests: Counter[str] = Counter()


def _write(**line: object) -> None:
    global _file  # noqa: PLW0603  pytest's hooks are functions of this module
    if _file is None:
        _file = open(os.environ["SUITE_RECORD"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115
    _file.write(json.dumps(line) + "\n")


def _message(report: Any) -> str:
    """The error as the suite saw it, in one line where pytest knows one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    return "\n".join(str(report.longrepr).strip().splitlines()[-2:])


def pytest_runtest_logstart(nodeid: str) -> None:
    _write(id=nodeid, outcome="started")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid
    if hasattr(report, "context"):
        # by number: what a subtest says of itself holds addresses and names of temporary files
        _subtests[name] += 1
        name = f"{name} subtest {_subtests[name]}"
    if report.failed:
        _write(id=name, outcome="failed" if report.when == "call" else "error", message=_message(report))
    elif report.skipped:
        xfail = hasattr(report, "wasxfail")
        _write(id=name, outcome="xfailed" if xfail else "skipped", message="" if xfail else _message(report))
    elif report.when == "call":
        _write(id=name, outcome="xpassed" if hasattr(report, "wasxfail") else "passed")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(id=report.nodeid, outcome="error", message=_message(report))
