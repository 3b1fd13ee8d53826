"""The database of the checker: registers behind everything that makes it hard to tell what a write changes.

Each register is one number in a row that carries the register's name. Some have the same text for different tables, told
apart by the search path or by the role; some are written through views, triggers, cascades, partitions and functions, or by
DDL itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

TTL_S: Final = 60.0
BRIEF_TTL_S: Final = 0.5
"""Of the registers that are written past the proxies."""

TENANT: Final = 1_000_000
"""Where the counters of the schema `tenant` begin: another's answer is also a number that nobody wrote."""
ALICE: Final = 2_000_000

_SCHEMA: Final = """
CREATE TABLE item (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO item SELECT i, 'item:' || i, 0 FROM generate_series(1, 6) i;
CREATE VIEW item_view AS SELECT id, label, n FROM item;
CREATE FUNCTION bump(which int) RETURNS bigint LANGUAGE sql VOLATILE
  AS 'UPDATE item SET n = n + 1 WHERE id = which RETURNING n';

CREATE SCHEMA tenant;
CREATE TABLE tenant.item (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO tenant.item SELECT i, 'tenant.item:' || i, 1000000 FROM generate_series(1, 2) i;
CREATE SCHEMA checker_alice;
CREATE TABLE checker_alice.item (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO checker_alice.item SELECT i, 'checker_alice.item:' || i, 2000000 FROM generate_series(1, 2) i;

CREATE TABLE shadow (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO shadow SELECT i, 'shadow:' || i, 0 FROM generate_series(1, 2) i;
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN UPDATE public.shadow SET n = n + 1 WHERE id = NEW.shadow; RETURN NEW; END';
CREATE TABLE ledger (shadow int NOT NULL);
CREATE TRIGGER follow AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION follow();
CREATE TABLE journal (shadow int NOT NULL);

CREATE TABLE parent (id int PRIMARY KEY, n bigint NOT NULL, UNIQUE (id, n));
CREATE TABLE child (id int, label text NOT NULL, n bigint NOT NULL,
  FOREIGN KEY (id, n) REFERENCES parent (id, n) ON UPDATE CASCADE);
INSERT INTO parent SELECT i, 0 FROM generate_series(1, 2) i;
INSERT INTO child SELECT i, 'child:' || i, 0 FROM generate_series(1, 2) i;

CREATE TABLE whole (id int, label text NOT NULL, n bigint NOT NULL) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF whole FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF whole FOR VALUES IN (2);
INSERT INTO whole SELECT i, 'whole:' || i, 0 FROM generate_series(1, 2) i;

CREATE TABLE pile (id int, label text NOT NULL, n bigint NOT NULL);
INSERT INTO pile SELECT i, 'pile:' || i, 0 FROM generate_series(1, 2) i;

CREATE TABLE source (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO source SELECT i, 0 FROM generate_series(1, 3) i;
CREATE TABLE refilled (id int, label text NOT NULL, n bigint NOT NULL);
INSERT INTO refilled VALUES (1, 'refilled:1', 0);
CREATE TABLE one (id int);
INSERT INTO one VALUES (1);
CREATE VIEW defined AS SELECT id, 'defined:1'::text AS label, 0::bigint AS n FROM one;
CREATE TABLE morph (id int, label text NOT NULL, n bigint NOT NULL);
INSERT INTO morph VALUES (1, 'morph:1', 0);

CREATE TABLE passed (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO passed SELECT i, 'passed:' || i, 0 FROM generate_series(1, 2) i;

CREATE TABLE guarded (id int PRIMARY KEY, label text NOT NULL, n bigint NOT NULL);
INSERT INTO guarded VALUES (1, 'guarded:1', 1);
GRANT USAGE ON SCHEMA tenant, checker_alice TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA public, tenant, checker_alice TO PUBLIC;
REVOKE ALL ON guarded FROM PUBLIC;
GRANT SELECT ON guarded TO checker_bob;
"""

CACHED: Final = (
    *("item", "item_view", "tenant.item", "checker_alice.item", "shadow", "child", "whole", "part_1", "part_2"),
    *("pile", "refilled", "one", "defined", "morph", "guarded"),
)

RULES: Final[list[dict[str, Any]]] = [
    {"name": "all", "tables": list(CACHED), "ttl": f"{TTL_S}s"},
    {"name": "brief", "tables": ["passed"], "ttl": f"{int(BRIEF_TTL_S * 1000)}ms"},
]


@dataclass(frozen=True, slots=True)
class Register:
    """`name` is the text of the column `label`. `setting` is what a session has to say before `read` means this one."""

    name: str
    table: str
    id: int
    setting: str = ""
    aggregate: bool = False
    """Many rows make one number: the largest."""

    @property
    def read(self) -> str:
        """One parameter: `id`."""
        columns = "max(label), max(n)" if self.aggregate else "label, n"
        return f"SELECT {columns} FROM {self.table} WHERE id = $1"

    @property
    def literal(self) -> str:
        """The same without a parameter."""
        return self.read.replace("$1", str(self.id))


SEARCH_PATH: Final = "SET search_path = tenant"
ROLE: Final = "SET ROLE checker_alice"
BOB: Final = "SET ROLE checker_bob"

ITEMS: Final = tuple(Register(f"item:{i}", "item", i) for i in range(1, 7))
VIEWED: Final = tuple(Register(f"item:{i}", "item_view", i) for i in range(1, 7))
TENANTS: Final = tuple(Register(f"tenant.item:{i}", "item", i, SEARCH_PATH) for i in (1, 2))
ALICES: Final = tuple(Register(f"checker_alice.item:{i}", "item", i, ROLE) for i in (1, 2))
SHADOWS: Final = tuple(Register(f"shadow:{i}", "shadow", i) for i in (1, 2))
CHILDREN: Final = tuple(Register(f"child:{i}", "child", i) for i in (1, 2))
WHOLES: Final = tuple(Register(f"whole:{i}", "whole", i) for i in (1, 2))
PARTS: Final = tuple(Register(f"whole:{i}", f"part_{i}", i) for i in (1, 2))
PILES: Final = tuple(Register(f"pile:{i}", "pile", i, aggregate=True) for i in (1, 2))
REFILLED: Final = Register("refilled:1", "refilled", 1)
DEFINED: Final = Register("defined:1", "defined", 1)
MORPH: Final = Register("morph:1", "morph", 1)
PASSED: Final = tuple(Register(f"passed:{i}", "passed", i) for i in (1, 2))
GUARDED: Final = Register("guarded:1", "guarded", 1, BOB)

COUNTERS: Final = (
    *(*ITEMS, *VIEWED, *TENANTS, *ALICES, *SHADOWS, *CHILDREN, *WHOLES, *PARTS, *PILES),
    *(REFILLED, DEFINED, MORPH, *PASSED),
)


def create(superuser_url: str, owner: str, url: str) -> None:
    """Make the roles (where they are not there yet) and, in the database of `url`, everything of the checker."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in ("checker_bob", "checker_alice"):
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount == 0:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(owner)))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SCHEMA)


def counters(url: str) -> dict[str, int]:
    """What each counter shows to a session of its own that asks the server."""
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        found: dict[str, int] = {}
        for register in COUNTERS:
            if register.name in found:
                continue
            connection.execute("RESET ALL")
            connection.execute("RESET ROLE")
            if register.setting:
                connection.execute(register.setting.encode())
            row = connection.execute(register.read.encode(), (register.id,)).fetchone()
            assert row is not None
            assert row[0] == register.name
            found[register.name] = row[1]
        return found


def increment(table: str) -> str:
    """One parameter: the id. Tells what it wrote."""
    return f"UPDATE {table} SET n = n + 1 WHERE id = $1 RETURNING n"
