"""The suites: where each comes from, what its database needs, how it is started.

Each suite is that of a release on PyPI, taken from its source distribution, and runs against the driver that is installed
in this environment. What a suite needs beyond it (Django is not installed here) goes into the temporary folder.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "suite_record", "-p", "no:cacheprovider", "-q", "--tb=short")


@dataclass(frozen=True)
class Suite:
    """One suite. In `command` stand {url_login}, {host} and {port} of the server under test, and
    {plugins}, the folder with the suite_… modules."""

    project: str
    """Name on PyPI."""
    command: tuple[str, ...]
    """Without the tests."""
    tests: tuple[str, ...]
    version: str = ""
    """Of the source distribution; by default the installed one."""
    install: tuple[str, ...] = ()
    """Requirements that go into the suite's own folder."""
    remove: tuple[str, ...] = ()
    """Folders of the source distribution that would hide what is installed."""
    databases: tuple[str, ...] = ()
    authentication: tuple[str, ...] = ()
    """Lines of pg_hba.conf that come first."""
    prepare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Database to the statements that the suite's documentation asks for."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the server."""
    database: str = "postgres"
    """Whose catalogs the cache reads."""
    folder: str = "."
    """Where the command runs, in the source distribution."""
    environ: Mapping[str, str] = field(default_factory=dict)
    alone: bool = True
    """A test can run without those before it."""

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version or importlib.metadata.version(self.project)}"


def _sqlalchemy(driver: str, *tests: str) -> Suite:
    url = f"postgresql+{driver}://{{url_login}}@{{host}}:{{port}}/test"
    options = ("--backend-only", "--nomemory", "--notimingintensive", "--maxfail=1000000", "--dropfirst")
    return Suite(
        "SQLAlchemy",
        (*PYTEST, "-p", "no:asyncio", *options, f"--dburi={url}"),
        tests,
        databases=("test",),
        database="test",
        prepare={
            "test": (
                "CREATE SCHEMA test_schema",
                "CREATE SCHEMA test_schema_2",
                "CREATE EXTENSION hstore",
                "CREATE EXTENSION citext",
                "ALTER DATABASE test SET default_text_search_config = 'pg_catalog.english'",
            )
        },
    )


_SQLALCHEMY_TESTS: Final = ("test/dialect", "test/engine", "test/sql")

_DJANGO_TESTS: Final = [
    "aggregation",
    "aggregation_regress",
    "annotations",
    "backends",
    "basic",
    "bulk_create",
    "constraints",
    "custom_pk",
    "db_functions",
    "db_typecasts",
    "dates",
    "datetimes",
    "defer",
    "delete",
    "expressions",
    "expressions_case",
    "expressions_window",
    "fixtures",
    "foreign_object",
    "from_db_value",
    "get_or_create",
    "indexes",
    "inspectdb",
    "introspection",
    "lookup",
    "many_to_many",
    "migrations",
    "model_fields",
    "null_queries",
    "ordering",
    "pagination",
    "prefetch_related",
    "queries",
    "raw_query",
    "reserved_names",
    "schema",
    "select_for_update",
    "select_related",
    "sessions_tests",
    "test_utils",
    "timezones",
    "transactions",
    "transaction_hooks",
    "update",
    "update_only_fields",
    "validation",
    "postgres_tests",
    "async",
]

SUITES: Final[Mapping[str, Suite]] = {
    "asyncpg": Suite(
        "asyncpg", (*PYTEST, "-p", "no:asyncio"), ("tests",), install=("distro~=1.9",), remove=("asyncpg",)
    ),
    "psycopg2": Suite(
        "psycopg2",
        PYTEST,
        ("tests",),
        version=importlib.metadata.version("psycopg2-binary"),
        databases=("psycopg2_test",),
        database="psycopg2_test",
        prepare={"psycopg2_test": ("CREATE EXTENSION hstore",)},
        environ={"PSYCOPG2_TEST_REPL_DSN": ""},
    ),
    "pg8000": Suite(
        "pg8000",
        PYTEST,
        ("test",),
        install=("pytest-benchmark", "pytest-mock", "pytz"),
        authentication=(
            "host pg8000_md5 all 127.0.0.1/32 md5",
            "host pg8000_password all 127.0.0.1/32 password",
            "host pg8000_scram_sha_256 all 127.0.0.1/32 scram-sha-256",
        ),
        prepare={"postgres": ("CREATE EXTENSION hstore",)},
    ),
    # The SQL files of PostgreSQL 15's regression suite (make installcheck), which the sources of pglast carry.
    "regress": Suite(
        "pglast",
        (sys.executable, "{plugins}/suite_regress.py"),
        (),
        version="5.10",
        databases=("regression",),
        prepare={
            "regression": (
                "ALTER DATABASE regression SET lc_messages = 'C'",
                "ALTER DATABASE regression SET bytea_output = 'hex'",
                "ALTER DATABASE regression SET timezone_abbreviations = 'Default'",
            )
        },
        folder="libpg_query/test/sql/postgres_regress",
        # plans and the order of rows in the catalogs follow from when it ran
        settings={"autovacuum": "off"},
        database="regression",
        alone=False,
    ),
    "sqlalchemy-psycopg": _sqlalchemy("psycopg", *_SQLALCHEMY_TESTS),
    "sqlalchemy-psycopg_async": _sqlalchemy("psycopg_async", *_SQLALCHEMY_TESTS),
    "sqlalchemy-asyncpg": _sqlalchemy("asyncpg", *_SQLALCHEMY_TESTS),
    "sqlalchemy-psycopg2": _sqlalchemy("psycopg2", *_SQLALCHEMY_TESTS),
    "sqlalchemy-pg8000": _sqlalchemy("pg8000", *_SQLALCHEMY_TESTS),
    "django": Suite(
        "Django",
        (sys.executable, "runtests.py", "--settings=suite_django", "--parallel=1", "--noinput"),
        tuple(_DJANGO_TESTS),
        version="5.2.19",
        database="test_one",
        databases=("one", "two"),
        install=("Django==5.2.19",),
        folder="tests",
    ),
}


def login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}"
