"""What the server's catalogs say about who depends on whom, as a `Graph` of bare table names.

Names are bare and folded to lower case: two tables of one name in two schemas, or `"Author"` and `author`, share a version.
That invalidates too much and never too little, and it needs no search_path.

One pass over the catalogs, with queries that are all on pg_catalog, readable by every role. What no query asks for but may
change an answer all the same (privileges, columns, policies, the text of views and functions) is in a digest: two graphs with
different digests are different graphs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pgloupe.cache.suspects import SUSPECT_QUERIES, UNSTEADY_COLUMN, Suspects, expand, find_suspects

NAME_BYTES: Final = 63
"""NAMEDATALEN - 1: a longer name is cut by the server."""
_RELATIONS_LIMIT: Final = 200_000


def version_name(table: str) -> str | None:
    """The name under which the version of a table is kept: bare and in lower case; None for a name that the server would
    cut, which nobody can compare."""
    if len(table) > NAME_BYTES * 2 + 1:
        return None
    for part in table.split("."):
        if len(part.encode("utf-8", "surrogateescape")) > NAME_BYTES:
            return None
    return table.rpartition(".")[2].lower()


def fold(name: str) -> str:
    """The version name of a relation whose own name, as the catalogs have it, is `name`: what `version_name` makes of it."""
    return name.rpartition(".")[2].lower()


def version_names(tables: Iterable[str]) -> frozenset[str] | None:
    """`version_name` of each; None if one has none."""
    names = set()
    for table in tables:
        name = version_name(table)
        if not name:
            return None
        names.add(name)
    return frozenset(names)


@dataclass(slots=True)
class Graph:
    """Relations of one database. Every name is a version name."""

    database: str = ""
    relations: set[str] = field(default_factory=set)
    unsafe_reads: dict[str, str] = field(default_factory=dict)
    """Relations whose reads are never stored, and why."""
    unsafe_writes: set[str] = field(default_factory=set)
    """Tables whose writes run code that may write anywhere: triggers, rules, volatile functions in defaults and checks."""
    views_over: dict[str, set[str]] = field(default_factory=dict)
    """Relation to the views (not materialised) that read it."""
    tables_under: dict[str, set[str]] = field(default_factory=dict)
    """View to the relations it reads."""
    children: dict[str, set[str]] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)
    """By partitioning and inheritance."""
    cascades: dict[str, set[str]] = field(default_factory=dict)
    """Referenced table to those that a change of it may write: CASCADE, SET NULL, SET DEFAULT."""
    harmless: set[str] = field(default_factory=set)
    """User-defined functions that are declared IMMUTABLE or STABLE in all their forms: they write nothing."""
    shadowing: set[str] = field(default_factory=set)
    """Names of user-defined functions that are not IMMUTABLE in all their forms."""
    personal: set[str] = field(default_factory=set)
    """In lower case: the schemas, which `$user` in a search_path may stand for, and the roles with settings of their own."""
    passing: set[str] = field(default_factory=set)
    """Names that only temporary tables have."""
    suspects: Suspects = field(default_factory=Suspects)
    """Names behind which there may be code of a user's."""
    digest: str = ""
    """Of the columns, privileges, policies, views, types and functions. The same for every role that asks."""
    defaults: tuple[tuple[Any, ...], ...] = ()
    """The settings with which roles begin a session in this database."""
    settings: str = ""
    """A digest of the settings of the server, for a session of ours."""
    read_committed: bool = False
    """No role and no database has another default isolation, so each statement takes a snapshot of its own."""

    def writes(self, names: Iterable[str]) -> frozenset[str] | None:
        """The names whose versions a write of these raises; None for everything."""
        written: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name in written:
                continue
            if name not in self.relations:
                return None
            written.add(name)
            ahead.extend(self.children.get(name, ()))
            ahead.extend(self.tables_under.get(name, ()))
            # a foreign key to a parent counts for its partitions
            # and so does a trigger
            for relation in (name, *_closure((name,), self.parents)):
                if relation in self.unsafe_writes:
                    return None
                ahead.extend(self.cascades.get(relation, ()))
        seen = written | _closure(written, self.parents)
        return frozenset(seen | _closure(seen, self.views_over))

    def changes(self, tables: Iterable[str]) -> frozenset[str] | None:
        """The names whose versions changed rows of these tables raise, and of no others; None for everything. A row may show
        under the name of its partition or under that of the partitioned table."""
        changed = {fold(table) for table in tables}
        if not self.relations.issuperset(changed):
            return None
        changed |= _closure(changed, self.children)
        changed |= _closure(changed, self.parents)
        return frozenset(changed | _closure(changed, self.views_over))

    def reads(self, names: Iterable[str]) -> frozenset[str] | str:
        """The names whose versions a read of these depends on, or the reason why it is not stored."""
        found: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name in found:
                continue
            if name not in self.relations:
                return "unknown table"
            if name in self.unsafe_reads:
                return self.unsafe_reads[name]
            found.add(name)
            ahead.extend(self.children.get(name, ()))
            ahead.extend(self.tables_under.get(name, ()))
        return frozenset(found)


def _closure(names: Iterable[str], edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        for name in edges.get(ahead.pop(), ()):
            if name not in found:
                found.add(name)
                ahead.append(name)
    return found


RELATIONS: Final = """
SELECT c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity, c.relhasrules, current_database()
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND $USER_SCHEMA
LIMIT $LIMIT
"""

INHERITS: Final = """
SELECT p.relname, c.relname FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE p.relkind IN ('r', 'p', 'f') AND c.relkind IN ('r', 'p', 'f')
"""

CASCADES: Final = """
SELECT r.relname, t.relname FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_class t ON t.oid = k.conrelid
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
"""

# The node tree of a view's rule names each relation in it, those of the system too (pg_depend leaves them out), and each
# function that the parser resolved, those behind operators and casts too.
VIEWS: Final = """
SELECT v.relname, array_agg(DISTINCT coalesce(t.relname::text, ''))
FROM pg_catalog.pg_class v JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid AND r.rulename = '_RETURN'
CROSS JOIN LATERAL pg_catalog.regexp_matches(r.ev_action::text, ':relid ([0-9]+)', 'g') AS found(m)
LEFT JOIN pg_catalog.pg_class t ON t.oid = found.m[1]::pg_catalog.oid
WHERE v.relkind = 'v' AND found.m[1] <> '0' AND found.m[1]::pg_catalog.oid <> v.oid AND $USER_SCHEMA
GROUP BY v.oid, v.relname
"""

MOVING_VIEWS: Final = """
WITH $VOLATILITY
SELECT DISTINCT v.relname
FROM pg_catalog.pg_class v JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid AND r.rulename = '_RETURN'
WHERE v.relkind = 'v' AND $USER_SCHEMA AND (
  r.ev_action::text ~ '\\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|TABLESAMPLECLAUSE|COERCEVIAIO|COERCETODOMAIN|XMLEXPR)'
  OR r.ev_action::text ~ ':rowMarks \\(\\{'
  OR EXISTS (
    SELECT FROM pg_catalog.regexp_matches(
      r.ev_action::text, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS found(m)
    LEFT JOIN volatility f ON f.oid = found.m[1]::pg_catalog.oid
    WHERE found.m[1] <> '0' AND f.v IS DISTINCT FROM 'i'))
"""

# Triggers of users, except those of the server that only change the row at hand; rules other than those that make a view;
# defaults and checks with a volatile function that is not written in C, by its name or by an operator.
UNSAFE_WRITES: Final = """
SELECT c.relname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT (
  p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname IN
  ('suppress_redundant_updates_trigger', 'tsvector_update_trigger', 'tsvector_update_trigger_column'))
UNION
SELECT c.relname FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D'
UNION
SELECT c.relname FROM pg_catalog.pg_depend d
LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
JOIN pg_catalog.pg_proc p
  ON p.oid = CASE d.refclassid WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid ELSE o.oprcode END
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.oid = d.objid
LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.objid
JOIN pg_catalog.pg_class c ON c.oid = coalesce(a.adrelid, k.conrelid)
WHERE p.provolatile = 'v' AND l.lanname NOT IN ('c', 'internal')
"""

FUNCTIONS: Final = """
WITH $VOLATILITY
SELECT f.proname, bool_and(f.v IN ('i', 's') AND f.prokind <> 'p'), bool_and(f.v = 'i')
FROM volatility f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
WHERE $USER_SCHEMA GROUP BY f.proname
"""

# Sums of hashes, so that nothing has to be sorted or joined into one text. Temporary tables come and go all the time.
DIGEST: Final = """
SELECT part, count(*)::text, sum(pg_catalog.hashtextextended(what, 0))::text FROM (
  SELECT 'relations' AS part, ROW(c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relowner, c.relacl,
    c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relispartition)::text AS what
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND $USER_SCHEMA
  UNION ALL
  SELECT 'columns', ROW(a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attacl)::text
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND $USER_SCHEMA
  UNION ALL
  SELECT 'views', ROW(r.ev_class, r.ev_action)::text
  FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE r.rulename = '_RETURN' AND c.relpersistence <> 't' AND $USER_SCHEMA
  UNION ALL
  SELECT 'schemas', ROW(n.oid, n.nspname, n.nspowner, n.nspacl)::text FROM pg_catalog.pg_namespace n
  WHERE n.nspname NOT LIKE 'pg\\_%'
  UNION ALL
  SELECT 'roles', ROW(oid, rolname, rolsuper, rolinherit, rolbypassrls)::text FROM pg_catalog.pg_roles
  UNION ALL
  SELECT 'members', ROW(m.*)::text FROM pg_catalog.pg_auth_members m
  UNION ALL
  SELECT 'policies', ROW(p.*)::text FROM pg_catalog.pg_policy p
  UNION ALL
  SELECT 'functions', ROW(p.*)::text FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname NOT LIKE 'pg\\_temp%' AND $USER_SCHEMA
  UNION ALL
  SELECT 'operators', ROW(o.*)::text FROM pg_catalog.pg_operator o
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE $USER_SCHEMA
  UNION ALL
  SELECT 'casts', ROW(k.*)::text FROM pg_catalog.pg_cast k WHERE k.oid >= 16384
  UNION ALL
  SELECT 'types', ROW(t.oid, t.typname, t.typnamespace, t.typbasetype, t.typtypmod)::text FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('b', 'd', 'e', 'r') AND t.typcategory <> 'A' AND n.nspname NOT LIKE 'pg\\_temp%' AND $USER_SCHEMA
  UNION ALL
  SELECT 'labels', ROW(e.*)::text FROM pg_catalog.pg_enum e
) AS parts GROUP BY part ORDER BY part
"""

DEFAULTS: Final = """
SELECT s.setdatabase::text, s.setrole::text, s.setconfig::text FROM pg_catalog.pg_db_role_setting s
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE s.setdatabase = 0 OR d.datname = current_database() ORDER BY 1, 2
"""

SETTINGS: Final = """
SELECT sum(pg_catalog.hashtextextended(ROW(name, reset_val)::text, 0))::text FROM pg_catalog.pg_settings
WHERE context IN ('user', 'superuser') AND name <> 'application_name'
"""

PERSONAL: Final = """
SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
UNION
SELECT r.rolname FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE s.setdatabase = 0 OR d.datname = current_database()
"""

ISOLATION: Final = """
SELECT pg_catalog.current_setting('default_transaction_isolation') = 'read committed' AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_db_role_setting
  WHERE pg_catalog.array_to_string(setconfig, ' ') LIKE '%default_transaction_isolation%')
"""

QUERIES: Final = tuple(
    expand(query).replace("$LIMIT", str(_RELATIONS_LIMIT + 1))
    for query in (
        RELATIONS,
        INHERITS,
        CASCADES,
        VIEWS,
        MOVING_VIEWS,
        UNSAFE_WRITES,
        FUNCTIONS,
        ISOLATION,
        PERSONAL,
        DIGEST,
        DEFAULTS,
        SETTINGS,
        *SUSPECT_QUERIES,
    )
)


def build_graph(results: list[list[Any]]) -> Graph | None:
    """The graph from the rows of `QUERIES`, in their order; None where the database has too many relations."""
    relations, inherits, cascades, views, moving, unsafe, functions, isolation, personal, digest, defaults, settings = (
        results[:12]
    )
    if len(relations) > _RELATIONS_LIMIT:
        return None
    graph = Graph(read_committed=isolation[0][0])
    graph.digest = " ".join([":".join(row) for row in digest])
    graph.defaults = tuple([tuple(row) for row in defaults])
    graph.settings = settings[0][0]
    suspects = graph.suspects = find_suspects(results[12:])

    for name, kind, persistence, row_security, _, database in relations:
        graph.database = database
        graph.relations.add(fold(name))
        if persistence == "t":
            graph.unsafe_reads[fold(name)] = "temporary table"
        elif kind == "f":
            graph.unsafe_reads[fold(name)] = "foreign table"
        elif row_security:
            graph.unsafe_reads[fold(name)] = "row-level security"
    for parent, child in inherits:
        graph.children.setdefault(fold(parent), set()).add(fold(child))
        graph.parents.setdefault(fold(child), set()).add(fold(parent))
    for referenced, referencing in cascades:
        graph.cascades.setdefault(fold(referenced), set()).add(fold(referencing))
    for view, tables in views:
        for table in tables:
            graph.tables_under.setdefault(fold(view), set()).add(fold(table))
            graph.views_over.setdefault(fold(table), set()).add(fold(view))
        if not graph.relations.issuperset(map(fold, tables)):
            graph.unsafe_reads.setdefault(fold(view), "view over system catalogs")
    for (view,) in moving:
        graph.unsafe_reads.setdefault(fold(view), "view with a function that is not immutable")
    graph.passing = {fold(row[0]) for row in relations if row[2] == "t"} - {
        fold(row[0]) for row in relations if row[2] != "t"
    }
    graph.personal = {name.lower() for (name,) in personal}
    graph.unsafe_writes = {fold(name) for (name,) in unsafe}
    for table, code in suspects.columns.items():
        graph.unsafe_reads.setdefault(fold(table), UNSTEADY_COLUMN)
        if code:
            graph.unsafe_writes.add(fold(table))
    for name, harmless, immutable in functions:
        if harmless:
            graph.harmless.add(name.lower())
        else:
            suspects.writes.add(f"{name.lower()}()")
        if not immutable:
            graph.shadowing.add(name.lower())
    # whoever reads a view over such a view or such a table runs the function too
    writing = suspects.writers & graph.relations
    suspects.writes |= writing | _closure(writing, graph.views_over)
    graph.unsafe_writes |= writing
    return graph
