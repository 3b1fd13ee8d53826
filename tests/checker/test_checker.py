"""Random work through two proxies over one Redis keeps the promise, with faults and without. For longer runs:
`python -m tests.checker --minutes 10`."""

from __future__ import annotations

from tests.checker.faults import FAULTS
from tests.checker.runs import play_round
from tests.checker.stage import Servers


def test_random_clients_of_two_proxies_see_what_the_cache_promises(servers: Servers) -> None:
    report = play_round(servers, seed=1, faults=(), operations=80)
    assert not report.violations, str(report)
    assert not report.errors, str(report)
    assert report.hit_share > 0.1, str(report)
    assert report.figures["redis_hits"] > 0, str(report)


def test_random_clients_see_what_the_cache_promises_while_everything_around_fails(servers: Servers) -> None:
    report = play_round(servers, seed=2, faults=[*FAULTS], operations=100, quiet_s=0.4)
    assert not report.violations, str(report)
    assert report.figures["hits"] > 0, str(report)
    assert set(report.faults) == set(FAULTS), str(report)


def test_random_clients_notice_a_cache_that_does_not_keep_it(servers: Servers) -> None:
    report = play_round(servers, seed=3, faults=(), operations=60, mutant="nothing_raised_anywhere")
    assert {"stale"} <= {violation.kind for violation in report.violations}, str(report)
