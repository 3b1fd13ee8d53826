"""The checker of the cache's promise, and the faults built into it on purpose (mutants) that it has to find.

    python -m tests.checker --minutes 10 [--seed N] [--faults all|none|LIST] [--mutant NAME]

`history` records what clients did and saw, `judge` says whether a cache that keeps its promise can have shown that,
`world` is the database, `clients` and `workload` are random readers and writers, `faults` is what happens to them,
`scenes` are interleavings by a script, `mutation` says what a mutant is and `mutants` which there are, each with the scene that
must notice it.
"""

import sys
from pathlib import Path

# `python -m tests.checker` finds the helpers of the tests as pytest does
_TESTS = str(Path(__file__).resolve().parents[1])
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
