"""The key words that matter to a template (documentation, appendix C), by what they may stand for."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESERVED: Final = _words("""
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
    current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc
    distinct do else end except false fetch for foreign from grant group having in initially intersect into lateral
    leading limit localtime localtimestamp not null offset on only or order placing primary references returning select
    session_user some symmetric system_user table then to trailing true union unique user using variadic when where
    window with
    authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull join left like
    natural notnull outer overlaps right similar tablesample verbose
""")
"""Reserved, and reserved but for functions and types: never a bare column name."""

COLUMN_NAMES: Final = _words("""
    between bigint bit boolean char character coalesce dec decimal exists extract float greatest grouping inout int
    integer interval json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar
    json_serialize json_table json_value least merge_action national nchar none normalize nullif numeric out overlay
    position precision real row setof smallint substring time timestamp treat trim values varchar xmlattributes
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
""")
"""Key words that may name a column, but neither a function nor a type."""

STRUCTURAL: Final = RESERVED | _words("""
    insert update delete merge set values by over partition between exists escape uescape filter within recursive
    materialized nothing conflict ordinality matched nulls preceding following unbounded excluding locked nowait
""")
"""Written in upper case wherever they are not beside a dot."""

AFTER: Final[dict[str, frozenset[str]]] = {
    "first": _words("nulls fetch"),
    "last": _words("nulls"),
    "next": _words("fetch"),
    "time": _words("at with without"),
    "without": _words("timestamp time"),
    "zone": _words("time"),
    "share": _words("for key in"),
    "key": _words("for no primary foreign"),
    "no": _words("for"),
    "of": _words("update share"),
    "skip": _words("update share of"),
    "row": _words("current each first next"),
    "rows": _words("first next"),
    "current": _words("between and where"),
    "sets": _words("grouping"),
    "ties": _words("with"),
}
"""Words in upper case only after one of these."""

BEFORE: Final[dict[str, frozenset[str]]] = {
    "at": _words("time"),
    "nulls": _words("first last"),
    "rows": _words("between unbounded current from only with"),
    "range": _words("between unbounded current"),
    "groups": _words("between unbounded current"),
    "row": _words("only ("),
    "skip": _words("locked"),
    "is": _words("json"),
    "similar": _words("to"),
    "grouping": _words("sets"),
    "rollup": _words("("),
    "cube": _words("("),
}
"""Words in upper case only before one of these."""

UTILITY: Final = _words("""
    abort absolute access action add after all alter always as atomic backward before begin cache call cascade cascaded
    chain characteristics checkpoint close cluster column comment commit committed copy create csv current cursor cycle
    data deallocate declare default deferred delimiter discard domain drop each enable disable encoding end execute
    explain extension fetch force format forward function generated global grant header hold identity if immediate
    immutable increment index inherits insensitive isolation language level listen local location lock logged
    materialized maxvalue minvalue mode move no notify options owned owner plans policy prepare prepared privileges
    procedure publication quote read refresh reindex release rename repeatable reset restart restrict returns revoke
    role rollback routine rule savepoint schema scroll security sequence sequences serializable session set setof show
    snapshot stable start statement stdin stdout storage strict subscription tables tablespace temp temporary
    transaction trigger truncate type uncommitted unlisten unlogged until vacuum validate view volatile without work
    write
""")
"""In upper case too in a utility command."""

QUERIES: Final = _words("select insert update delete merge with values table")
"""First words of the statements whose constants are all values."""

FIELDS: Final = _words("year month day hour minute second")
"""Fields of an interval: `interval '1' day`."""

SIZED: Final = _words("""
    bit char character varchar bpchar nchar numeric decimal dec float time timetz timestamp timestamptz interval varbit
    varying
""")
"""Types that take numbers in parentheses."""

SYNONYMS: Final[dict[str, str]] = {"int": "integer", "decimal": "numeric", "dec": "numeric", "nchar": "char"}
"""Type names that the grammar itself takes for another. `int4` and `bool` are ordinary names."""

NO_QUERIES: Final = frozenset(
    {
        "ABORT",
        "BEGIN",
        "CLOSE",
        "COMMIT",
        "DEALLOCATE",
        "DISCARD",
        "END",
        "LISTEN",
        "PREPARE",
        "RELEASE",
        "RESET",
        "ROLLBACK",
        "SAVEPOINT",
        "SET",
        "SHOW",
        "START",
        "UNLISTEN",
    }
)
"""First words of statements that are about the session and its transactions, and ask for no data."""
