"""A database whose rows somebody changes past the proxy, and a proxy with a change stream in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg

from support.proxy import Proxy, proxy_to
from support.raw import eventually

LIVE = {"name": "live", "tables": ["author", "post", "measure", "measure_1", "animal", "names"], "ttl": "1h"}
ODD = {"name": "odd", "tables": ['Sch.ema.O.d: "d\n, x'], "ttl": "1h"}
LAZY = {"name": "lazy", "tables": ["alone"], "ttl": "1h"}

SCHEMA = """
CREATE TABLE author (id int PRIMARY KEY, name text);
CREATE TABLE post (id int PRIMARY KEY, author_id int REFERENCES author ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE alone (id int PRIMARY KEY, name text);
CREATE VIEW names AS SELECT name FROM author;
CREATE TABLE measure (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES FROM (1) TO (100);
CREATE TABLE animal (id int PRIMARY KEY);
CREATE TABLE dog (PRIMARY KEY (id)) INHERITS (animal);
CREATE TABLE audited (id int PRIMARY KEY);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN UPDATE author SET name = name || ''!''; RETURN NEW; END';
CREATE TRIGGER audit AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE SCHEMA "Sch.ema";
CREATE TABLE "Sch.ema"."O.d: ""d\n, x" (id int PRIMARY KEY);
INSERT INTO alone VALUES (1, 'alone');
"""

ROWS = """
TRUNCATE author, post, measure, animal, audited, "Sch.ema"."O.d: ""d\n, x";
INSERT INTO author SELECT n, 'author ' || n FROM generate_series(1, 3) n;
INSERT INTO post SELECT n, n FROM generate_series(1, 3) n;
INSERT INTO measure VALUES (1);
INSERT INTO dog VALUES (1);
INSERT INTO "Sch.ema"."O.d: ""d\n, x" VALUES (1);
"""

ROLE = "streaming"
PASSWORD = "streaming secret"


def url_of(url: str, database: str | None = None, *, role: str | None = None) -> str:
    """Another database of the server at `url`, as `role` (`ROLE`, with its password) if one is named."""
    parts = urlsplit(url)
    if role is not None:
        parts = parts._replace(netloc=f"{role}:{quote(PASSWORD)}@{parts.hostname}:{parts.port}")
    return parts._replace(path=f"/{database}").geturl() if database is not None else parts.geturl()


def create_role(superuser_url: str, role: str = ROLE, attribute: str = "REPLICATION") -> None:
    """A role that may log in and has the attribute, unless it is there."""
    with (
        psycopg.connect(superuser_url, autocommit=True) as connection,
        contextlib.suppress(psycopg.errors.DuplicateObject),
    ):
        connection.execute(f"CREATE ROLE {role} LOGIN {attribute} PASSWORD '{PASSWORD}'")


class Site:
    """A proxy to one database. `write` goes past it, `read` through it; both see what is committed at once."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        self.url = url
        self._client = psycopg.connect(proxy.url, autocommit=True, prepare_threshold=None)
        self._direct = psycopg.connect(url, autocommit=True)
        self._fences = 0

    def close(self) -> None:
        self._client.close()
        self._direct.close()

    def reconnect(self) -> None:
        """After the server was restarted."""
        self.close()
        self._client = psycopg.connect(self.proxy.url, autocommit=True, prepare_threshold=None)
        self._direct = psycopg.connect(self.url, autocommit=True)

    def statistics(self) -> dict[str, Any]:
        return self.proxy.running.cache_statistics()

    def bypasses(self, rule: str = "live", reason: str = "change stream is not live") -> int:
        cache = self.proxy.running._app.cache
        assert cache is not None
        return cache.rule_statistics().get(rule, {}).get(f"bypass: {reason}", 0)

    def reset(self) -> None:
        """`ROWS` and nothing else, seen by the stream."""
        self.write(ROWS)
        self.fence()

    def live(self) -> bool:
        return bool(self.statistics()["change_stream_live"])

    def write(self, *statements: str) -> None:
        for statement in statements:
            self._direct.execute(statement)

    def read(self, query: str) -> list[Any]:
        return self._client.execute(query).fetchall()

    def cached(self, query: str) -> list[Any] | None:
        """What the cache answers now; None where the server did."""
        before = self.statistics()["hits"]
        rows = self.read(query)
        return rows if self.statistics()["hits"] > before else None

    def is_hit(self, query: str) -> bool:
        """Whether the cache answers it now."""
        return self.cached(query) is not None

    def await_hit(self, query: str, judge: Callable[[list[Any]], bool]) -> None:
        """Wait until the cache itself answers what is judged to be right."""
        eventually(lambda: (rows := self.cached(query)) is not None and judge(rows))

    def keep(self, *queries: str) -> None:
        """Have the cache answer these from now on."""
        for query in queries:
            eventually(lambda query=query: self.is_hit(query))

    def fence(self, query: str = "SELECT name FROM alone WHERE id = 1") -> None:
        """Return when all that was committed before has been seen: a change of `alone` that is made now is."""
        self.keep(query)
        self._fences += 1
        name = f"fence {self._fences}"
        self.write(f"UPDATE alone SET name = '{name}'")
        self.await_hit(query, lambda rows: rows == [(name,)])


@contextlib.contextmanager
def site(url: str, stream_url: str, *rules: dict[str, Any], **cache: Any) -> Iterator[Site]:
    """A proxy to the database at `url` with a change stream, which is live if it can be. Its rule `lazy` for the table
    `alone` gives answers with and without."""
    chosen = list(rules) or [{**LIVE, "require_change_stream": True}, ODD, LAZY]
    settings = {"change_stream": "auto", "change_stream_url": stream_url, "change_stream_interval_ms": 10, **cache}
    with proxy_to(url, cache={"allow": chosen, **settings}) as proxy, contextlib.closing(Site(proxy, url)) as made:
        yield made


def prepare(superuser_url: str, url: str, *, publication: bool) -> str:
    """Tables in the database at `url`, and a publication of all of them where it is wanted; the URL for the stream."""
    database = urlsplit(url).path[1:]
    create_role(superuser_url)
    with psycopg.connect(url_of(superuser_url, database), autocommit=True) as connection:
        # else a commit is on disk, where decoding begins, a while after others see it
        connection.execute(f"ALTER DATABASE {database} SET synchronous_commit = local")
        if publication:
            connection.execute("CREATE PUBLICATION pgloupe FOR ALL TABLES")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA + ROWS)
    return url_of(superuser_url, database, role=ROLE)
