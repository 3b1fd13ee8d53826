"""`pgloupe check` as a CI job runs it: baselines, budgets, ignores, annotations."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psycopg
import pytest

from pgloupe.report.render import render
from support.proxy import Serve, pgloupe
from support.raw import eventually
from support.servers import Postgres

PROGRAM = str(Path(__file__).parents[1] / "programs" / "shop.py")
POSTS = 8


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> str:
    """URL of a database with posts, their authors and remarks."""
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE post (id int PRIMARY KEY, author_id int REFERENCES author)")
        connection.execute("CREATE TABLE remark (id serial PRIMARY KEY, post_id int REFERENCES post, body text)")
        connection.execute("CREATE TABLE setting (key text PRIMARY KEY, value text)")
        connection.execute(f"INSERT INTO author SELECT 300 + 7 * n, 'a' FROM generate_series(1, {POSTS}) n")
        connection.execute(f"INSERT INTO post SELECT 7000 + 13 * n, 300 + 7 * n FROM generate_series(1, {POSTS}) n")
        connection.execute("INSERT INTO remark (post_id, body) SELECT id, 'x' FROM post, generate_series(1, 3)")
        connection.execute("INSERT INTO setting VALUES ('currency', 'EUR')")
    return url


class Check:
    """Runs the shop behind `pgloupe check` in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def __call__(self, requests: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, PROGRAM, *requests.split())
        return pgloupe("check", "--upstream", self.url, *options, "--", *command, environ=environ, cwd=str(self.folder))

    def report(self, requests: str, *options: str) -> tuple[int, dict[str, Any]]:
        done = self(requests, "--format", "json", "--output", "report.json", *options)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads((self.folder / "report.json").read_text())

    def baseline(self, requests: str, *options: str) -> None:
        self(requests, "--format", "json", "--output", "baseline.json", *options)

    def settings(self, text: str) -> None:
        (self.folder / "pgloupe.toml").write_text(text)


@pytest.fixture
def check(shop: str, tmp_path: Path) -> Check:
    return Check(shop, tmp_path)


def found(report: dict[str, Any]) -> dict[str, str]:
    """Status of each finding, by its table."""
    pairs = zip(report["findings"], report["check"]["findings"], strict=True)
    return {finding["tables"][0]: verdict["status"] for finding, verdict in pairs}


# --- baselines ---


def test_known_findings_do_not_fail_new_ones_do_and_fixed_ones_are_told(check: Check) -> None:
    check.baseline("posts settings")
    code, report = check.report("posts settings", "--baseline", "baseline.json")
    assert (code, found(report)) == (0, {"remark": "known", "setting": "known"})
    code, report = check.report("posts authors", "--baseline", "baseline.json")
    assert (code, found(report)) == (1, {"remark": "known", "author": "new"})
    assert [finding["tables"] for finding in report["baseline"]["fixed"]] == [["setting"]]
    done = check("good", "--baseline", "baseline.json")
    assert done.returncode == 0
    assert "fixed    N+1 query: remark is read once per row of post" in done.stdout
    assert "2 of the baseline are fixed." in " ".join(done.stdout.split())


def test_a_report_may_be_written_over_its_own_baseline(check: Check) -> None:
    check.baseline("posts")
    both = ("--baseline", "baseline.json", "--format", "json", "--output", "baseline.json")
    assert check("posts authors", *both).returncode == 1
    assert check("posts authors", *both).returncode == 0


def test_a_baseline_that_is_not_there_is_said_before_the_command_runs(check: Check) -> None:
    done = check("posts", "--baseline", "nowhere.json", "--output", "report.txt")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "pgloupe check --format json --output nowhere.json -- CMD" in done.stderr
    assert not (check.folder / "report.txt").exists()


def test_slow_statements_of_a_baseline_are_not_fixed_by_not_looking(check: Check) -> None:
    check.baseline("good", "--slow-ms", "0")
    _, report = check.report("good", "--baseline", "baseline.json")
    assert report["baseline"]["fixed"] == []


# --- budgets ---


def test_a_unit_of_work_may_use_its_budget_up_and_not_more(check: Check) -> None:
    allowed = str(POSTS + 1)
    code, report = check.report("posts good", "--fail-on", "none", "--max-queries", allowed)
    assert (code, report["budget"]) == (0, {"max_queries": POSTS + 1, "units": 2, "over": []})
    code, report = check.report("posts good", "--fail-on", "none", "--max-queries", str(POSTS))
    assert code == 1
    (place,) = report["budget"]["over"]
    assert (place["id"], place["queries"], place["occurrences"]) == ("route=/posts", POSTS + 1, 1)
    assert place["tags"] == {"route": ["/posts"], "application_name": ["shop"]}
    assert place["templates"][0]["template"] == "SELECT body FROM remark WHERE post_id = $1"
    assert place["templates"][0]["count"] == POSTS


def test_begin_and_commit_are_not_queries(check: Check) -> None:
    code, report = check.report("settings", "--fail-on", "none", "--max-queries", "6")
    assert (code, report["budget"]["over"]) == (0, [])
    _, report = check.report("settings", "--fail-on", "none", "--max-queries", "5")
    assert [(place["queries"], place["other_statements"]) for place in report["budget"]["over"]] == [(6, 2)]


def test_the_worst_place_comes_first_in_every_format(check: Check) -> None:
    options = ("--fail-on", "none", "--max-queries", "5")
    worst, other = f"route /posts needs {POSTS + 1} queries, 5 are allowed", "route /settings needs 6 queries, 5 are"
    _, report = check.report("settings posts", *options)
    assert [place["queries"] for place in report["budget"]["over"]] == [POSTS + 1, 6]
    for form in ("text", "markdown", "junit", "sarif", "github"):
        stream = io.StringIO()
        render(report, form, stream)
        out = " ".join(stream.getvalue().split())
        assert 0 <= out.find(worst) < out.find(other), form


def test_a_place_over_the_budget_is_known_until_it_gets_worse(check: Check) -> None:
    options = ("--fail-on", "none", "--max-queries", "5")
    check.baseline("posts", *options)
    assert check("posts", *options, "--baseline", "baseline.json").returncode == 0
    document = json.loads((check.folder / "baseline.json").read_text())
    document["budget"]["over"][0]["queries"] -= 1
    (check.folder / "baseline.json").write_text(json.dumps(document))
    assert check("posts", *options, "--baseline", "baseline.json").returncode == 1


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "999999"])
def test_a_budget_that_is_no_number_is_one_sentence(check: Check, value: str) -> None:
    done = check("posts", f"--max-queries={value}")
    assert done.returncode == 2
    assert "--max-queries" in done.stderr
    assert "whole number" in done.stderr


# --- ignores ---


def test_ignored_findings_do_not_fail_and_are_counted(check: Check) -> None:
    check.settings(
        '[[ignore]]\nrule = "n_plus_one"\ntables = ["remark"]\nparent = ["post"]\nreason = "eight posts at most"\n'
        '[[ignore]]\ntemplate = "select value from setting where key = \'x\'"\nreason = "cached soon"\n'
    )
    done = check("posts settings")
    assert done.returncode == 0, done.stdout
    assert "remark" not in done.stdout
    assert "2 findings ignored." in " ".join(done.stdout.split())
    _, report = check.report("posts settings")
    assert report["findings"] == []
    assert [(rule["findings"], rule["reason"]) for rule in report["ignored"]] == [
        (1, "eight posts at most"),
        (1, "cached soon"),
    ]


def test_an_ignore_for_one_route_leaves_the_same_loop_on_another(check: Check) -> None:
    check.settings('[[ignore]]\nroute = "/feed"\nreason = "internal"\n')
    code, report = check.report("posts feed")
    assert code == 1
    assert [finding["tags"]["route"] for finding in report["findings"]] == [["/posts"]]
    assert check("feed").returncode == 0


def test_an_ignore_that_matches_nothing_is_told(check: Check) -> None:
    check.settings('[[ignore]]\ntables = ["author"]\nreason = "long ago"\n')
    done = check("good")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    assert '[[ignore]] rule 1 (tables = ["author"]; reason: long ago): matched nothing, delete it' in said


def test_serve_does_not_announce_what_is_ignored(shop: str, tmp_path: Path) -> None:
    (tmp_path / "pgloupe.toml").write_text('[[ignore]]\ntables = ["remark"]\nreason = "known"\n')
    report = tmp_path / "report.json"
    with Serve("--upstream", shop, "--report", str(report), cwd=str(tmp_path)) as serve:
        url = f"{shop.rpartition('@')[0]}@127.0.0.1:{serve.port}/{shop.rpartition('/')[2]}"
        environ = {"DATABASE_URL": url, "PATH": ""}
        subprocess.run([sys.executable, PROGRAM, "posts", "authors"], env=environ, check=True, timeout=60)
        assert serve.stop() == 0
        announced = [line for line in serve.errors().splitlines() if "once per row" in line]
    assert len(announced) == 1
    assert "author is read once per row of post" in announced[0]
    written = json.loads(report.read_text())
    assert [finding["tables"] for finding in written["findings"]] == [["author"]]
    assert written["ignored"][0]["findings"] == 1


def test_serve_takes_new_ignores_over_at_sighup(shop: str, tmp_path: Path) -> None:
    with Serve("--upstream", shop, cwd=str(tmp_path)) as serve:
        (tmp_path / "pgloupe.toml").write_text('[[ignore]]\nroute = "/posts"\nreason = "known"\n')
        serve.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the settings were read again" in serve.errors())
        url = f"{shop.rpartition('@')[0]}@127.0.0.1:{serve.port}/{shop.rpartition('/')[2]}"
        subprocess.run(
            [sys.executable, PROGRAM, "posts", "authors"], env={"DATABASE_URL": url, "PATH": ""}, check=True, timeout=60
        )
        assert serve.stop() == 0
        announced = [line for line in serve.errors().splitlines() if "once per row" in line]
    assert ["author is read" in line for line in announced] == [True]


# --- GitHub ---


def test_in_github_actions_annotations_follow_the_report_and_the_summary_gets_it_too(check: Check) -> None:
    summary = check.folder / "summary.md"
    summary.write_text("# earlier step\n")
    done = check("posts", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    assert done.stdout.startswith("WARNING  N+1 query, proven: remark is read once per row of post\n")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("::error title=N+1 query%2C proven::remark is read once per row of post: ")
    assert summary.read_text().startswith("# earlier step\n## pgloupe\n\n1 finding")
    assert "::" not in check("posts").stdout


def test_a_report_for_programs_on_standard_output_stays_whole_in_github_actions(check: Check) -> None:
    done = check("posts", "--format", "json", GITHUB_ACTIONS="true")
    assert len(json.loads(done.stdout)["findings"]) == 1
    assert done.stderr.startswith("::error title=")
    done = check("posts", "--format", "junit", "--output", "report.xml", GITHUB_ACTIONS="true")
    assert done.stdout.startswith("::error title=")
    assert ET.parse(check.folder / "report.xml").getroot().get("failures") == "1"


def test_a_summary_that_cannot_be_written_is_said_and_changes_nothing(check: Check) -> None:
    done = check("good", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY="/nowhere/summary.md")
    assert done.returncode == 0
    assert "GITHUB_STEP_SUMMARY: /nowhere/summary.md: no such file" in done.stderr


def test_the_format_github_needs_no_github(check: Check) -> None:
    done = check("posts", "--format", "github")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("::error title=N+1 query%2C proven::")
    assert lines[-1] == "Check failed: 1 finding."
