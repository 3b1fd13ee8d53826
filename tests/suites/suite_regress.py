"""Runs the SQL files of PostgreSQL's regression suite with psql, and writes one line of JSON for what each line
of the script printed.

There are no expected files: what is expected is what psql prints without a proxy. The modules and data files of
PostgreSQL's source are not here, so some statements fail; they must fail alike. The one large table that most files read
is filled here, as its data file has it in kind: without rows there is little to get wrong.

Stands on the standard library alone, and runs in the folder with the SQL files. Arguments are names of files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FIRST = ["test_setup", "copy", "create_misc", "create_operator", "create_procedure", "create_table", "create_type", "create_schema", "create_index", "create_index_spgist", "create_view", "index_including"]  # fmt: skip

FILL = """
INSERT INTO tenk1 SELECT n * 7919 % 10000, n, n % 2, n % 4, n % 10, n % 20, n % 100, n % 1000, n % 2000, n % 5000, n,
    n % 100 * 2, n % 100 * 2 + 1, chr(65 + n % 26) || 'AAAAA', chr(65 + n / 26 % 26) || 'BAAAA',
    (ARRAY['AAAAxx', 'HHHHxx', 'OOOOxx', 'VVVVxx'])[n % 4 + 1] FROM generate_series(0, 9999) AS n;
INSERT INTO onek SELECT * FROM tenk1 WHERE unique1 < 1000 ORDER BY unique2;
INSERT INTO onek2 SELECT * FROM onek;
INSERT INTO person VALUES ('mike', 40, '(3.1,6.2)'), ('joe', 20, '(5.5,2.5)');
INSERT INTO emp VALUES ('sharon', 25, '(15,12)', 1000, 'sam'), ('sam', 30, '(10,5)', 2000, 'bill');
VACUUM ANALYZE;
"""


def psql(environ: dict[str, str], *arguments: str, stdin: str | None = None) -> str:
    program = str(Path(os.environ["PGINSTALLATION"], "psql"))
    done = subprocess.run(
        [program, "-X", "-a", "-q", *arguments],
        input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace",
        env=environ, timeout=300, check=False,
    )  # fmt: skip
    return f"{done.stdout}\n-- psql ended with {done.returncode}"


def answers(script: list[str], printed: list[str]) -> dict[int, list[str]]:
    """What psql printed after each line of the script. It repeats every line that it reads, so one that is the script's
    next is such a repeat.

    Rows of the system catalogs come as they lie on the disk, which depends on who else looks at them; where a statement
    sets no order, its rows are compared without one.
    """
    found: dict[int, list[str]] = {}
    unordered: set[int] = set()
    statement = ""
    at = 0
    for line in printed:
        if at < len(script) and line == script[at]:
            if at in found or statement.rstrip().endswith(";"):
                statement = ""
            statement += f"{line.lower()}\n"
            at += 1
            if "pg_" in statement and "order by" not in statement:
                unordered.add(at)
            continue
        found.setdefault(at, []).append(line)
    return {at: sorted(lines) if at in unordered else lines for at, lines in found.items()}


def main() -> None:
    files = {path.stem: path for path in Path().glob("*.sql")}
    chosen = sys.argv[1:]
    names = [name for name in FIRST if name in files] + sorted(files.keys() - set(FIRST))
    # what pg_regress sets
    environ = os.environ | {
        "PGTZ": "PST8PDT",
        "PGDATESTYLE": "Postgres, MDY",
        "PGOPTIONS": "-c intervalstyle=postgres_verbose",
        "PGDATABASE": "regression",
        "PG_ABS_SRCDIR": "/nonexistent",
        "PG_ABS_BUILDDIR": "/nonexistent",
        "PG_LIBDIR": "/nonexistent",
        "PG_DLSUFFIX": ".so",
        "LC_MESSAGES": "C",
    }
    with open(os.environ["SUITE_RECORD"], "a", encoding="utf-8") as record:
        for name in names:
            if chosen and name not in chosen:
                continue
            try:
                text = psql(environ, "-f", str(files[name]))
            except subprocess.TimeoutExpired:
                text = "-- psql did not end"
            # empty lines are left out: psql prints some of its own
            script = [line for line in files[name].read_text(errors="backslashreplace").split("\n") if line]
            for number, lines in answers(script, [line for line in text.split("\n") if line]).items():
                result = {"id": f"{name}:{number}", "outcome": "printed", "message": "\n".join(lines)}
                print(json.dumps(result), file=record)
            if name == "test_setup":
                psql(environ, stdin=FILL)
            print(name, len(text.splitlines()), flush=True)


main()
