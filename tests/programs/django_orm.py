"""What Django's ORM sees at one place, as JSON: `python django_orm.py psycopg|psycopg2 URL`.

Before each program of `library.programs` the tables are made anew with the schema editor.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings


def configure(driver: str, url: str) -> None:
    if driver == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django then takes psycopg2
    parts = urlsplit(url)
    login = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
    }
    binding = {"server_side_binding": True} if driver == "psycopg" else {}
    settings.configure(
        INSTALLED_APPS=["library", "django.contrib.contenttypes", "django.contrib.auth"],
        DATABASES={"default": login, "bound": {**login, "OPTIONS": binding}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        TIME_ZONE="UTC",
    )
    django.setup()


def main() -> None:
    configure(*sys.argv[1:])
    # models can be imported only now
    from django.db import connections
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
    from library.programs import PROGRAMS, fill

    seen: dict[str, Any] = {"driver": "psycopg" if is_psycopg3 else "psycopg2"}
    for program in PROGRAMS:
        fill()
        # a session that has changed the schema gets nothing from a cache
        connections.close_all()
        seen[program.__name__] = program()
    connections.close_all()
    print(json.dumps(seen, default=str))


main()
