"""What Django's ORM sees at one place, as JSON: `python django_orm.py psycopg|psycopg2 URL [PROGRAM ...]`.

By default all programs of `library.programs` are run, and the tables are made anew before each.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings


def configure(driver: str, url: str, max_age_s: int = 0) -> None:
    if driver == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django then takes psycopg2
    parts = urlsplit(url)
    login: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "CONN_MAX_AGE": max_age_s,
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
    driver, url, *names = sys.argv[1:]
    configure(driver, url)
    # models can be imported only now
    from django.db import connections
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
    from library import programs

    seen: dict[str, Any] = {"driver": "psycopg" if is_psycopg3 else "psycopg2"}
    chosen = [getattr(programs, name) for name in names]
    for program in chosen or programs.PROGRAMS:
        if not chosen:
            programs.fill()
            # a session that has changed the schema gets nothing from a cache
            connections.close_all()
        seen[program.__name__] = program()
    connections.close_all()
    print(json.dumps(seen, default=str))


if __name__ == "__main__":
    main()
