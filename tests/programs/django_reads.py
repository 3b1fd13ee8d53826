"""Asks one question by Django's ORM as often as it is told to: for each line on standard input it prints the rows, as JSON.

`python django_reads.py psycopg|psycopg2 URL` asks on one connection that is kept between requests (CONN_MAX_AGE).
"""

from __future__ import annotations

import json
import sys

from django_orm import configure


def main() -> None:
    driver, url = sys.argv[1:]
    configure(driver, url, max_age_s=60)

    from django.db import close_old_connections, models

    class Item(models.Model):
        id = models.IntegerField(primary_key=True)
        name = models.TextField()

        class Meta:
            app_label = "library"
            db_table = "item"

    for _ in sys.stdin:
        print(json.dumps([[item.id, item.name] for item in Item.objects.only("id", "name").filter(id=3)]), flush=True)
        close_old_connections()  # as at the end of a request


if __name__ == "__main__":
    main()
