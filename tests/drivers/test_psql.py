r"""psql shows what it shows at the server: its commands, COPY, several statements at once, the extended protocol by \bind."""

from __future__ import annotations

from pathlib import Path

from support.commands import output
from support.stage import Stage
from support.versions import client

PSQL = r"""
\set VERBOSITY verbose
\d
\d+ item
\dt
\df now
\l
SELECT 1 AS one\; SELECT 2 AS two\; SELECT 3 AS three;
SELECT id, name FROM item ORDER BY id LIMIT 3 \gset x_
\echo :x_id
SELECT id, name FROM item WHERE id = 1 \gset y_
\echo :y_name
SELECT id, name, price FROM item \gdesc
SELECT 'SELECT ' || id || ' AS n' FROM item WHERE id < 4 ORDER BY id \gexec
\copy note (item_id, body) FROM STDIN
1	from psql
2	from psql too
\.
COPY note (item_id, body) FROM STDIN;
3	by COPY
x	broken
\.
\copy (SELECT item_id, body FROM note ORDER BY id) TO STDOUT
SELECT 1/0;
BEGIN;
SELECT * FROM missing;
SELECT 1;
ROLLBACK;
\set AUTOCOMMIT off
UPDATE item SET name = 'changed' WHERE id = 1;
SELECT name FROM item WHERE id = 1;
ROLLBACK;
\set AUTOCOMMIT on
SELECT name FROM item WHERE id = 1;
\set FETCH_COUNT 7
SELECT id FROM item ORDER BY id;
\unset FETCH_COUNT
DO $$ BEGIN RAISE NOTICE 'a notice'; END $$;
LISTEN psql_news;
NOTIFY psql_news, 'payload';
\crosstabview
SELECT id, name, price FROM item WHERE id < 3 \crosstabview
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO item VALUES (1);
INSERT INTO item VALUES (300, 'kept after an error', 1);
COMMIT;
SELECT name FROM item WHERE id = 300;
"""

BIND = r"""
SELECT name FROM item WHERE id = $1 \bind 1 \g
SELECT name FROM item WHERE id = $1 \bind 2 \g
SELECT name FROM item WHERE id = $1 \bind 1 \g
SELECT $1 AS x, $2::int + 1 AS y \bind 'it''s' 41 \gdesc
SELECT $1::int \bind nonsense \g
SELECT name FROM item WHERE id = 1;
INSERT INTO note (item_id, body) VALUES ($1, $2) RETURNING item_id, body \bind 3 bound \g
SELECT 1 \bind \g
SELECT name FROM item WHERE id = 4 \watch interval=0.01 count=3
"""
r"""psql 16 and newer: \bind, and an end of \watch."""

PIPELINE = r"""
SELECT name FROM item WHERE id = $1 \parse by_id
\bind_named by_id 1 \g
\bind_named by_id 2 \g
\bind_named by_id 1 \g
\startpipeline
SELECT name FROM item WHERE id = $1 \bind 3 \sendpipeline
\bind_named by_id 4 \sendpipeline
\syncpipeline
SELECT count(*) FROM item \bind \sendpipeline
\flushrequest
\getresults 1
\getresults
SELECT 1/0 \bind \sendpipeline
SELECT 'never' \bind \sendpipeline
\endpipeline
\close_prepared by_id
SELECT count(*) FROM pg_prepared_statements;
"""
"""psql 18 and newer."""


def _shown(stage: Stage, script: str, *options: str, at_least: int = 0) -> tuple[int, str, str]:
    psql = client("psql", stage.server, at_least=at_least)
    return stage.compare(lambda url: output(psql, "-X", *options, url, script=script))


def test_its_commands_show_the_same(stage: Stage) -> None:
    _, shown, said = _shown(stage, PSQL)
    assert 'Table "public.item"' in shown
    assert "kept after an error" in shown
    assert "division by zero" in said


def test_parameters_of_the_extended_protocol(stage: Stage) -> None:
    _, shown, said = _shown(stage, BIND, "-Atq", at_least=16)
    assert shown.splitlines()[:3] == ["item 1", "item 2", "item 1"]
    assert "3|bound" in shown
    assert shown.count("item 4\n") == 3
    assert 'invalid input syntax for type integer: "nonsense"' in said


def test_its_pipelines(stage: Stage) -> None:
    _, shown, said = _shown(stage, PIPELINE, "-Atq", at_least=18)
    assert shown.splitlines()[:6] == ["item 1", "item 2", "item 1", "item 3", "item 4", "20"]
    assert "division by zero" in said
    assert "never" not in shown


def test_tables_as_csv_and_other_formats(stage: Stage) -> None:
    for options in (["--csv"], ["-H"], ["-x"], ["-At", "-F", "\t", "-R", "|"], ["-E"], ["-a"], ["-S"]):
        _, shown, _ = _shown(stage, "SELECT id, name, NULL AS nothing, price FROM item WHERE id < 3;\n", *options)
        assert "item 2" in shown


def test_copy_from_and_to_files(stage: Stage, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(f"{n},line {n}\n" for n in range(1, 20)))
    tmp_path.chmod(0o755)
    script = (
        f"\\copy note (item_id, body) from '{source}' (format csv)\n"
        f"\\copy (select item_id, body from note order by id) to '{target}' (format csv, header)\n"
        f"\\copy item from '{source}' (format csv)\n"
        "\\copy (select count(*) from note) to stdout\n"
    )
    _, shown, said = _shown(stage, script)
    assert "COPY 19" in shown
    assert "missing data for column" in said
    assert target.read_text().splitlines()[:2] == ["item_id,body", "1,line 1"]


def test_one_transaction_stops_at_an_error(stage: Stage) -> None:
    psql = client("psql", stage.server)
    script = "INSERT INTO note (item_id) VALUES (1);\nSELECT 1/0;\nSELECT 2;\n"
    code, _, _ = _shown(stage, script, "--single-transaction", "-v", "ON_ERROR_STOP=1", "-f", "-")
    assert code == 3
    assert output(psql, "-XAtc", "SELECT count(*) FROM note", stage.caching.url) == (0, "0\n", "")


def test_several_commands_and_statements_on_the_command_line(stage: Stage) -> None:
    arguments = ("-c", "SELECT 1; SELECT name FROM item WHERE id = 2", "-c", r"\d note", "-c", "SELECT 1/0; SELECT 2")
    code, shown, _ = _shown(stage, "", *arguments)
    assert code == 1
    assert "item 2" in shown


def test_a_password_is_asked_for_and_refused_alike(stage: Stage) -> None:
    psql = client("psql", stage.server)

    def refused(url: str) -> tuple[int, str, str]:
        login, _, address = url.rpartition("@")
        return output(psql, "-XAtwc", "SELECT 1", f"{login.rpartition(':')[0]}:wrong@{address}")

    code, _, said = stage.compare(refused)
    assert code == 2
    assert "password authentication failed" in said
