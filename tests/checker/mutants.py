"""All mutants, by name."""

from __future__ import annotations

from tests.checker import mutants_one, mutants_shared
from tests.checker.mutation import MUTANTS

__all__ = ["MUTANTS", "mutants_one", "mutants_shared"]
