"""`python -m bench.accuracy`: how often pgloupe is right, on traces and on programs with real ORMs.

It asserts nothing about the figures; the tests hold pgloupe to each trace. It does fail (exit code 1) where they would mean
nothing: a trace cannot be read, a program fails, a label does not fit its program.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click

from bench.accuracy import output
from bench.accuracy.evaluate import Evaluation, of_programs, of_traces
from bench.accuracy.programs import ORMS, Bench, Pair, Ran, missing, pairs, run_all
from bench.accuracy.script import load_all
from pgloupe.errors import PgloupeError

TRACES = Path(__file__).parent / "traces"


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _conditions() -> dict[str, str]:
    return {"pgloupe": importlib.metadata.version("pgloupe"), "Python": platform.python_version()}


def _versions(ran: list[Ran]) -> dict[str, str]:
    orms = {one.pair.orm for one in ran}
    found = {}
    for orm, name in (("sqlalchemy", "SQLAlchemy"), ("django", "Django")):
        if orm in orms:
            found[name] = importlib.metadata.version(name)
    if "drizzle" in orms:
        package = json.loads((TRACES.parent / "programs" / "package.json").read_text(encoding="utf-8"))
        found["drizzle-orm"] = package["dependencies"]["drizzle-orm"]
        node = shutil.which("node")
        if node is not None:
            found["node"] = subprocess.run(
                [node, "--version"], capture_output=True, check=True, text=True
            ).stdout.strip()
    return found


def _programs(orms: tuple[str, ...], only: re.Pattern[str], notes: list[str]) -> tuple[list[Ran], str]:
    """What ran, and the server's version."""
    chosen: list[Pair] = []
    for orm in orms:
        reason = missing(orm)
        if reason:
            notes.append(f"Programs with {orm} were left out: {reason}.")
        else:
            chosen += [pair for pair in pairs() if pair.orm == orm and only.search(f"{orm}.{pair.name}")]
    if not chosen:
        return [], ""
    with Bench() as bench:
        ran = run_all(bench, chosen, lambda one: _tell(f"ran {one.name}"))
        return ran, bench.version


def _ask_to_end(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traces", is_flag=True, help="The traces alone.")
@click.option("--programs", is_flag=True, help="The programs alone.")
@click.option("--orm", "orms", multiple=True, type=click.Choice(ORMS), help="Programs with this one; may be repeated.")
@click.option("--only", default="", metavar="REGEX", help="Traces and programs whose name matches.")
@click.option("--json", "json_file", metavar="FILE", help="Write all figures and verdicts to FILE.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the page to FILE: docs/accuracy.md.")
def main(
    traces: bool,
    programs: bool,
    orms: tuple[str, ...],
    only: str,
    json_file: str | None,
    markdown_file: str | None,
) -> None:
    """Measure precision and recall. Without --traces or --programs: both, which takes about four minutes."""
    both = traces == programs
    notes: list[str] = []
    sections: dict[str, Evaluation] = {}
    conditions = _conditions()
    # the server and its directory go in either case
    signal.signal(signal.SIGTERM, _ask_to_end)
    try:
        pattern = re.compile(only)
        if traces or both:
            sections["traces"] = of_traces(trace for trace in load_all(TRACES) if pattern.search(trace.name))
        if programs or both:
            ran, version = _programs(orms or ORMS, pattern, notes)
            if ran:
                conditions |= {"PostgreSQL": version, **_versions(ran)}
                sections["programs"] = of_programs(ran)
    except re.error as error:
        raise click.UsageError(f"--only: {error}") from None
    except KeyboardInterrupt:
        sys.exit(130)
    except PgloupeError as error:
        _tell(f"accuracy: {error}")
        sys.exit(1)
    click.echo(output.text(sections, notes))
    if json_file is not None:
        data = json.dumps(output.as_dict(sections, conditions, notes), indent=2)
        Path(json_file).write_text(data + "\n", encoding="utf-8")
    if markdown_file is not None:
        Path(markdown_file).write_text(output.markdown(sections, conditions, notes), encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m bench.accuracy")
