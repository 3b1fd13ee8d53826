"""`python -m tests.checker`: see the package. Exit code 1 if the promise was broken or the cache did not answer."""

from __future__ import annotations

import random
import sys
import time

import click
from tests.checker.faults import FAULTS
from tests.checker.mutants import MUTANTS
from tests.checker.runs import Report, play_round
from tests.checker.stage import Servers

LEAST_HIT_SHARE = 0.05
ROUND_S = 60.0


@click.command()
@click.option("--minutes", default=1.0, show_default=True, help="How long to work.")
@click.option("--seed", type=int, default=None, help="Of all chance but that of time; a new one by default.")
@click.option("--faults", default="all", show_default=True, help=f"all, none, or some of {', '.join(FAULTS)}.")
@click.option("--mutant", default="", help="Build this fault into the proxies: the run is to fail then.")
@click.option("--workers", default=10, show_default=True, help="How many sessions at a time.")
def main(minutes: float, seed: int | None, faults: str, mutant: str, workers: int) -> None:
    """Check that what clients see through two proxies over one Redis keeps the cache's promise."""
    chosen = {"all": [*FAULTS], "none": []}.get(faults, faults.split(","))
    unknown = [name for name in chosen if name not in FAULTS] + ([mutant] if mutant and mutant not in MUTANTS else [])
    if unknown:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; mutants are {', '.join(MUTANTS)}")
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    click.echo(f"seed {seed}")
    total = Report()
    end_s = time.monotonic() + minutes * 60
    with Servers() as servers:
        number = 0
        while (left_s := end_s - time.monotonic()) > 1:
            found = play_round(
                servers,
                seed=seed + number,
                faults=chosen,
                mutant=mutant,
                seconds=min(ROUND_S, left_s),
                workers=workers,
            )
            number += 1
            total.add(found)
            operations = sum(found.operations.values())
            click.echo(
                f"round {number}: {operations} operations, {found.hit_share:.0%} from the cache, "
                f"{sum(found.faults.values())} faults, {len(found.violations)} violations"
            )
            for violation in found.violations[:3]:
                click.echo(str(violation))
    click.echo(str(total))
    sys.exit(1 if total.violations or total.hit_share < LEAST_HIT_SHARE else 0)


if __name__ == "__main__":
    main()
