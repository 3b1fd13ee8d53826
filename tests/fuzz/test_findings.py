"""What fuzzing once found stays mended. See fuzz_wire.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.bytecode import play

FINDINGS = sorted(path for path in (Path(__file__).parent / "findings").iterdir() if path.name != "README")


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_a_past_finding_does_no_harm(path: Path) -> None:
    play(path.read_bytes())
