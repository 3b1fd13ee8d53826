"""Conversations written by hand, one for each thing that a proxy has got wrong somewhere, by name."""

from __future__ import annotations

from typing import Final

from support.scripts import copying, ends, extended, names, portals, simple, transactions
from support.scripts.common import Case

THEMES: Final = (simple, extended, names, portals, transactions, copying, ends)

CASES: Final[dict[str, Case]] = {name: case for theme in THEMES for name, case in theme.CASES.items()}
assert len(CASES) == sum(len(theme.CASES) for theme in THEMES), "two scripts have the same name"
