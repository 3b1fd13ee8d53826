"""Code that a user defined and that a statement may run without calling it by a name that tells: the catalogs' side of
`pgloupe_rules.mentions`.

Two questions. May the answer change though no table did? A function that is not IMMUTABLE may, so a read that may run one
is not stored. May a read write? A VOLATILE function may, so a read that may run one counts as a write of everything.
A declaration is trusted, as the server does when it plans; an aggregate has none and counts as the worst of its support
functions. The queries are on pg_catalog, readable by every role.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pgloupe_rules.mentions import UNSTEADY

IMPLICIT: Final = "an operator or a cast that a user defined may be meant anywhere"
LOGIN: Final = "a login event trigger may write"
UNSTEADY_COLUMN: Final = "a column of a type whose values depend on more than themselves"

# What the syntax stands for by itself (IN, BETWEEN, JOIN USING, ORDER BY, CASE …), so no operator need be written.
_BASIC: Final = frozenset({"=", "<>", "<", ">", "<=", ">="})


@dataclass(slots=True)
class Suspects:
    """Names as `mentions` gives them."""

    reads: set[str] = field(default_factory=set)
    """A read that mentions one is not stored."""
    writes: set[str] = field(default_factory=set)
    """A statement that mentions one may write anything."""
    never_read: str = ""
    """Why no read is stored at all; "" where it may be."""
    always_writes: bool = False
    """Every statement may write anything."""
    timed: set[str] = field(default_factory=set)
    """Columns that are a date, a time or a number in every table that has one of this name."""
    writers: set[str] = field(default_factory=set)
    """Views and tables with policies whose readers run a function that may write."""
    columns: dict[str, bool] = field(default_factory=dict)
    """Tables with a column of an unsteady type; True where writing it runs code of a user's."""


# An aggregate is declared IMMUTABLE whatever its functions do.
VOLATILITY: Final = """
volatility AS MATERIALIZED (
  SELECT p.oid, p.proname, p.pronamespace, p.prokind, p.pronargs, p.pronargdefaults, p.proargtypes, p.prolang,
    p.provolatile::text AS v
  FROM pg_catalog.pg_proc p WHERE p.prokind <> 'a'
  UNION ALL
  SELECT p.oid, p.proname, p.pronamespace, p.prokind, p.pronargs, p.pronargdefaults, p.proargtypes, p.prolang,
    max(s.provolatile::text)
  FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc p ON p.oid = a.aggfnoid
  JOIN pg_catalog.pg_proc s ON s.oid IN (p.oid, a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
    a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
  GROUP BY p.oid, p.proname, p.pronamespace, p.prokind, p.pronargs, p.pronargdefaults, p.proargtypes, p.prolang
)"""

# Seeds: the server's own unsteady types, users' types with code that is not immutable, and types of which a text may mean
# the present. Then whatever is made of them: domains, arrays, ranges, and rows, those of tables too.
TYPES: Final = """
seed AS (
  SELECT t.oid, CASE WHEN t.typname IN ($UNSTEADY) THEN 's' ELSE 'm' END AS kind
  FROM pg_catalog.pg_type t
  WHERE t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname IN
    ($UNSTEADY, 'date', 'time', 'timestamp', 'timestamptz')
  UNION ALL
  SELECT t.oid, 'c' FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE t.typtype = 'b' AND $USER_SCHEMA AND EXISTS (
    SELECT FROM pg_catalog.pg_proc p WHERE p.oid IN (t.typinput, t.typoutput) AND p.provolatile <> 'i'
    AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)
  UNION ALL
  SELECT k.contypid, 'c' FROM pg_catalog.pg_constraint k
  WHERE k.contypid <> 0 AND k.contype = 'c' AND (
    k.conbin::text ~ '\\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO)' OR EXISTS (
      SELECT FROM pg_catalog.regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS found(m)
      LEFT JOIN pg_catalog.pg_proc p ON p.oid = found.m[1]::pg_catalog.oid
      WHERE found.m[1] <> '0' AND p.provolatile IS DISTINCT FROM 'i'))
),
edges AS MATERIALIZED (
  SELECT typbasetype AS part, oid AS whole FROM pg_catalog.pg_type WHERE typtype = 'd'
  UNION ALL SELECT typelem, oid FROM pg_catalog.pg_type WHERE typelem <> 0 AND typcategory = 'A'
  UNION ALL SELECT rngsubtype, rngtypid FROM pg_catalog.pg_range
  UNION ALL SELECT DISTINCT a.atttypid, c.reltype FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.reltype <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND $USER_SCHEMA
),
unsteady AS (
  SELECT oid, kind FROM seed UNION SELECT e.whole, u.kind FROM unsteady u JOIN edges e ON e.part = u.oid
)"""

# A table has a type of its own name, so what is made of such types names the tables with such columns too.
UNSTEADY_TYPES: Final = """
WITH RECURSIVE $TYPES
SELECT t.typname, t.typrelid <> 0 AND bool_or(u.kind IN ('s', 'c')), bool_or(u.kind = 'c')
FROM unsteady u JOIN pg_catalog.pg_type t ON t.oid = u.oid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE $USER_SCHEMA GROUP BY t.oid
"""

TIMED_COLUMNS: Final = """
SELECT a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND $USER_SCHEMA
GROUP BY a.attname HAVING bool_and(a.atttypid IN ('date'::pg_catalog.regtype, 'time'::pg_catalog.regtype,
  'timestamp'::pg_catalog.regtype, 'timestamptz'::pg_catalog.regtype, 'interval'::pg_catalog.regtype,
  'int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype, 'int8'::pg_catalog.regtype, 'numeric'::pg_catalog.regtype,
  'float8'::pg_catalog.regtype))
"""

OPERATORS: Final = """
WITH $VOLATILITY
SELECT o.oprname, bool_or(f.v = 'v') FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
JOIN volatility f ON f.oid = o.oprcode WHERE $USER_SCHEMA AND f.v <> 'i' GROUP BY o.oprname
"""

# A conversion through text (WITH INOUT) does what the input and output functions do. Those of an enum, which is what such a
# cast is made for, depend on the catalogs alone.
CASTS: Final = """
WITH RECURSIVE $TYPES
SELECT t.typname, t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace, k.castcontext::text,
  coalesce(p.provolatile = 'v', EXISTS (SELECT FROM unsteady WHERE oid IN (k.casttarget, k.castsource) AND kind = 'c'))
FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_type t ON t.oid = k.casttarget
LEFT JOIN pg_catalog.pg_proc p ON p.oid = k.castfunc
WHERE k.oid >= 16384 AND (
  (k.castmethod = 'f' AND p.provolatile IS DISTINCT FROM 'i')
  OR (k.castmethod = 'i' AND (
    k.casttarget IN (SELECT oid FROM unsteady) OR k.castsource IN (SELECT oid FROM unsteady WHERE kind IN ('s', 'c')))))
"""

# A function of a row may be written like a column of it, and so may those of the server that take any row.
ROW_FUNCTIONS: Final = """
WITH $VOLATILITY
SELECT f.proname, bool_or(f.v = 'v' AND f.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace) FROM volatility f
JOIN pg_catalog.pg_type t ON t.oid = f.proargtypes[0]
WHERE f.v <> 'i' AND f.prokind = 'f' AND f.pronargs > 0 AND f.pronargs - f.pronargdefaults <= 1
AND (t.typtype IN ('c', 'd') OR t.typname IN ('record', 'any', 'anyelement', 'anynonarray', 'anycompatible',
  'anycompatiblenonarray'))
AND (f.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace OR t.typtype = 'p')
GROUP BY f.proname
"""

# Views and policies that run a function of a user's which may write.
WRITING_READS: Final = """
WITH $VOLATILITY,
trees AS (
  SELECT r.ev_class AS oid, r.ev_action::text AS tree FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_class v ON v.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
  WHERE v.relkind = 'v' AND r.rulename = '_RETURN' AND $USER_SCHEMA
  UNION ALL
  SELECT polrelid, coalesce(polqual::text, '') || coalesce(polwithcheck::text, '') FROM pg_catalog.pg_policy
)
SELECT DISTINCT c.relname FROM trees JOIN pg_catalog.pg_class c ON c.oid = trees.oid
WHERE EXISTS (
  SELECT FROM pg_catalog.regexp_matches(trees.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS found(m)
  JOIN volatility f ON f.oid = found.m[1]::pg_catalog.oid
  WHERE f.v = 'v' AND f.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)
"""

LOGIN_TRIGGERS: Final = """
SELECT FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D' LIMIT 1
"""

SUSPECT_QUERIES: Final = (
    UNSTEADY_TYPES,
    TIMED_COLUMNS,
    OPERATORS,
    CASTS,
    ROW_FUNCTIONS,
    WRITING_READS,
    LOGIN_TRIGGERS,
)


_USER_SCHEMA: Final = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'"


def expand(query: str) -> str:
    """A query with its parts that others share."""
    for name, part in (
        ("$VOLATILITY", VOLATILITY.strip()),
        ("$TYPES", TYPES.strip()),
        ("$UNSTEADY", ", ".join([f"'{name}'" for name in sorted(UNSTEADY)])),
        ("$USER_SCHEMA", _USER_SCHEMA),
    ):
        query = query.replace(name, part)
    return query


def find_suspects(results: Iterable[list[Any]]) -> Suspects:
    """The suspects from the rows of `SUSPECT_QUERIES`, in their order."""
    types, timed, operators, casts, row_functions, writing, login = results
    found = Suspects()
    for name, row, code in types:
        found.reads.add(f"::{name.lower()}")
        if code:
            found.writes.add(f"::{name.lower()}")
        if row:
            found.columns[name] = found.columns.get(name, False) or code
    found.timed = {name.lower() for (name,) in timed}
    for symbol, volatile in operators:
        if symbol in _BASIC:
            found.never_read = IMPLICIT
            found.always_writes |= volatile
            continue
        found.reads.add(symbol)
        if volatile:
            found.writes.add(symbol)
    for target, of_system, context, volatile in casts:
        if context == "i":
            found.never_read = IMPLICIT
        if context != "e":
            found.always_writes |= volatile  # an INSERT does it where the column is of that type
        # a type of the server's has several spellings
        names = {"::"} if of_system else {f"::{target.lower()}"}
        names.add(f".{target.lower()}")
        found.reads |= names
        if volatile:
            found.writes |= names
    for name, volatile in row_functions:
        found.reads.add(f".{name.lower()}")
        if volatile:
            found.writes.add(f".{name.lower()}")
    found.writers = {name.rpartition(".")[2].lower() for (name,) in writing}
    if login:
        found.never_read = LOGIN
    return found
