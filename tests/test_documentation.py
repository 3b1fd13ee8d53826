"""What the documents say is there: settings, tests, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from pgloupe.config import OPTIONS, Option

ROOT: Final = Path(__file__).parent.parent
DOCUMENTS: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def rows(document: str) -> dict[str, list[str]]:
    """The rows of a document's tables by their first cell, without its backquotes."""
    lines = (ROOT / "docs" / document).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_a_setting_is_documented_with_its_default(option: Option) -> None:
    default, live, text = rows("settings.md")[option.key]
    plain = "" if option.default is None else str(option.default).removesuffix(".0").lower()
    assert default.strip("`") == plain
    assert live == ("yes" if option.live else "")
    assert text


def test_nothing_is_documented_that_is_no_setting() -> None:
    keys = {key for key in rows("settings.md") if re.fullmatch(r"[a-z_.]+", key)}
    assert keys - {option.key for option in OPTIONS} == {"key", "cache.allow", "ignore"}


def test_a_behaviour_that_is_promised_has_its_test() -> None:
    written = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", written))
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named <= existing, named - existing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
