"""How to say it in the library that made the statement, where the traffic shows clearly which one that is.

Two things show it: tags that name a framework (sqlcommenter's `framework` and `db_driver`, Rails' `application` with
`controller`), and a style of SQL that one library alone has: how it quotes, what it calls its aliases, how it labels
columns. A style that several share shows nothing; then there is no such line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_NAMES: Final = (
    ("sqlalchemy", "SQLAlchemy"),
    ("django", "Django"),
    ("sequelize", "Sequelize"),
    ("typeorm", "TypeORM"),
    ("drizzle", "Drizzle"),
    ("prisma", "Prisma"),
    ("hibernate", "Hibernate"),
    ("activerecord", "Active Record"),
    ("active_record", "Active Record"),
    ("rails", "Active Record"),
)

_READ: Final = {
    "SQLAlchemy": "options(selectinload(Parent.children)), or joinedload for a many-to-one",
    "Django": "select_related() along a foreign key, prefetch_related() in the other direction, annotate(Count(…)) for counts",
    "Drizzle": "db.query.parents.findMany({ with: { children: true } }), or where(inArray(child.parentId, ids))",
    "Prisma": "findMany({ include: { children: true } }), _count for counts, or where: { parentId: { in: ids } }",
    "TypeORM": "find({ relations: { children: true } }), leftJoinAndSelect(), or where: { parentId: In(ids) }",
    "Sequelize": "findAll({ include: Child }), or where: { parentId: ids }",
    "Active Record": "includes(:children) or preload(:children); strict_loading finds the place",
    "Hibernate": "JOIN FETCH or an entity graph; @BatchSize where neither fits",
}
_WRITE: Final = {
    "SQLAlchemy": "session.execute(insert(Model), [dict, …]), and update() in the same way",
    "Django": "bulk_create(), bulk_update(), or update() and delete() on a queryset",
    "Drizzle": "db.insert(table).values([row, …]), or update() and delete() with inArray()",
    "Prisma": "createMany(), updateMany() and deleteMany()",
    "TypeORM": "repository.insert([row, …]), or update() and delete() with In(ids)",
    "Sequelize": "bulkCreate(), or update() and destroy() with where: { id: ids }",
    "Active Record": "insert_all(), upsert_all(), update_all() and delete_all()",
    "Hibernate": "hibernate.jdbc.batch_size, or one HQL UPDATE or DELETE",
}

_SELECT_LIST: Final = re.compile(r"\s*select\s+(?:distinct\s+)?(.{1,4000}?)\s+from\s", re.IGNORECASE | re.DOTALL)
_LABELLED: Final = re.compile(r"(\w+)\.(\w+) AS \1_\2", re.IGNORECASE)
_QUOTED_LABELLED: Final = re.compile(r'"(\w+)"\."(\w+)" AS "\1_\2"', re.IGNORECASE)
_PRISMA: Final = re.compile(r'FROM ("\w+"\."\w+").{0,2000}?WHERE.{0,2000}?\(?\1\."\w+" .{0,2000}?\b1=1', re.DOTALL)
_HIBERNATE: Final = re.compile(r"\bfrom \w+ (\w+?\d+_0|\w+?\d+_)\s.{0,200}?where\s.{0,200}?\1\.", re.DOTALL)
_DRIZZLE: Final = re.compile(r'select (?:"\w+"(?:, )?){1,64} from ("\w+") where .{0,20}?\1\."\w+" (?:=|in|is) ')
_RAILS: Final = re.compile(r'SELECT (?:"(\w+)"\.\*|1 AS one) FROM "(\w+)" .{0,2000}?"\2"\."\w+"', re.DOTALL)
_SEQUELIZE: Final = re.compile(
    r'SELECT (?:"\w+"(?: AS "\w+")?(?:, )?){1,64} FROM "\w+" AS ("\w+") WHERE .{0,4}\1\."\w+"'
)
_DJANGO: Final = re.compile(
    r'SELECT "(\w+)"\."\w+"(?:, "\1"\."\w+"){1,64} FROM "\1" WHERE .{0,2000}?"\1"\."\w+".{0,2000}?LIMIT 21\b', re.DOTALL
)


def library_of(tags: Mapping[str, Sequence[str]], samples: Sequence[str]) -> str:
    """The library that made the statements, "" where that is not clear. `samples` are statements as sent."""
    for tag in ("framework", "db_driver", "application_name"):
        for value in tags.get(tag, ()):
            for word, name in _NAMES:
                if word in value.lower():
                    return name
    if "controller" in tags and "action" in tags and "application" in tags:
        return "Active Record"
    found = {_style(sample) for sample in samples}
    return found.pop() if len(found) == 1 else ""


def _style(statement: str) -> str:
    text = statement[:8000]
    match = _SELECT_LIST.match(text)
    if match is None:
        return ""
    items = [item.strip() for item in match.group(1).split(",")]
    if all(_LABELLED.fullmatch(item) for item in items):
        return "SQLAlchemy"
    if all(_QUOTED_LABELLED.fullmatch(item) for item in items):
        return "TypeORM"
    for name, pattern in (
        ("Prisma", _PRISMA),
        ("Hibernate", _HIBERNATE),
        ("Drizzle", _DRIZZLE),
        ("Sequelize", _SEQUELIZE),
        ("Django", _DJANGO),
        ("Active Record", _RAILS),
    ):
        if pattern.search(text):
            return name
    return ""


def line_for(rule: str, tags: Mapping[str, Sequence[str]], samples: Sequence[str]) -> str:
    """One sentence on how to say it there; "" where it is not clear where."""
    lines = _READ if rule == "n_plus_one" else _WRITE if rule == "n_plus_one_write" else {}
    if not lines:
        return ""
    name = library_of(tags, samples)
    return f"In {name}: {lines[name]}." if name else ""
