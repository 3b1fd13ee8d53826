"""The sample shop: eight tables, some 50,000 rows.

The server makes the rows itself, with generate_series and arithmetic on the row's number: that takes a second, and every
run of the demonstration has the same shop, so that the sums of what the application computed can be compared.

`purchase_item.product_id` and `review.product_id` have no index. That is the oversight that the demonstration's slow
statement and its product page suffer from.
"""

from __future__ import annotations

from typing import Final

import psycopg

CATEGORIES: Final = 24
PRODUCTS: Final = 2_400
CUSTOMERS: Final = 4_000
PURCHASES: Final = 9_000
ITEMS: Final = 24_000
REVIEWS: Final = 8_000

VAT: Final = "vat_percent"

_TABLES: Final = """
CREATE TABLE setting (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE category (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE product (
    id int PRIMARY KEY,
    category_id int NOT NULL REFERENCES category,
    name text NOT NULL,
    description text NOT NULL,
    price_cents int NOT NULL
);
CREATE TABLE stock (product_id int PRIMARY KEY REFERENCES product, quantity int NOT NULL);
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, city text NOT NULL);
CREATE TABLE purchase (
    id int PRIMARY KEY,
    customer_id int NOT NULL REFERENCES customer,
    placed_at timestamptz NOT NULL,
    status text NOT NULL
);
CREATE TABLE purchase_item (
    id int PRIMARY KEY,
    purchase_id int NOT NULL REFERENCES purchase,
    product_id int NOT NULL REFERENCES product,
    quantity int NOT NULL,
    price_cents int NOT NULL
);
CREATE TABLE review (
    id int PRIMARY KEY,
    product_id int NOT NULL REFERENCES product,
    customer_id int NOT NULL REFERENCES customer,
    stars int NOT NULL,
    body text NOT NULL
);
"""

# A multiplication by a prime modulo the number of parents spreads children over parents without chance.
_ROWS: Final = f"""
INSERT INTO setting VALUES ('{VAT}', '19'), ('currency', 'EUR');

INSERT INTO category
SELECT n, (ARRAY['Garden', 'Kitchen', 'Office', 'Sport'])[1 + n % 4] || ' '
    || (ARRAY['tools', 'lamps', 'shoes', 'books', 'bags', 'clocks'])[1 + n / 4 % 6]
FROM generate_series(0, {CATEGORIES - 1}) AS n;

INSERT INTO product
SELECT n, n * 7 % {CATEGORIES}, 'Article ' || to_char(n, 'FM0000'),
    'Made of ' || (ARRAY['oak', 'steel', 'glass', 'wool', 'clay'])[1 + n % 5] || ', batch ' || md5(n::text),
    499 + n * 7919 % 19500
FROM generate_series(1, {PRODUCTS}) AS n;

INSERT INTO stock SELECT id, id * 31 % 200 FROM product;

INSERT INTO customer
SELECT n, 'Customer ' || to_char(n, 'FM00000'), 'customer' || n || '@shop.example',
    (ARRAY['Leeds', 'Porto', 'Gdansk', 'Lyon', 'Turku', 'Graz', 'Cork'])[1 + n % 7]
FROM generate_series(1, {CUSTOMERS}) AS n;

INSERT INTO purchase
SELECT n, 1 + n::bigint * 6007 % {CUSTOMERS}, timestamptz '2025-01-01 08:00+00' + n * interval '53 minutes',
    (ARRAY['paid', 'sent', 'sent', 'sent', 'returned'])[1 + n % 5]
FROM generate_series(1, {PURCHASES}) AS n;

INSERT INTO purchase_item
SELECT n, 1 + n % {PURCHASES}, product.id, 1 + n % 3, product.price_cents
FROM generate_series(1, {ITEMS}) AS n JOIN product ON product.id = 1 + n::bigint * 7907 % {PRODUCTS};

INSERT INTO review
SELECT n, 1 + n::bigint * 4001 % {PRODUCTS}, 1 + n::bigint * 2003 % {CUSTOMERS}, 1 + n * 17 % 5, 'Bought it, ' || md5(n::text)
FROM generate_series(1, {REVIEWS}) AS n;

CREATE INDEX ON product (category_id);
CREATE INDEX ON purchase (customer_id);
CREATE INDEX ON purchase_item (purchase_id);
"""  # noqa: S608  the numbers are the constants above

_COUNT: Final = """
SELECT (SELECT count(*) FROM setting) + (SELECT count(*) FROM category) + (SELECT count(*) FROM product)
    + (SELECT count(*) FROM stock) + (SELECT count(*) FROM customer) + (SELECT count(*) FROM purchase)
    + (SELECT count(*) FROM purchase_item) + (SELECT count(*) FROM review)
"""


def load(url: str) -> int:
    """Make the shop in an empty database and say how many rows it has. Raises psycopg.Error."""
    with psycopg.connect(url, autocommit=True, application_name="shop-load") as connection:
        with connection.transaction():
            connection.execute(_TABLES)
            connection.execute(_ROWS)
        # Without statistics the planner would choose differently from run to run, whenever autovacuum got to it.
        connection.execute("VACUUM ANALYZE")
        row = connection.execute(_COUNT).fetchone()
    return int(row[0]) if row else 0
