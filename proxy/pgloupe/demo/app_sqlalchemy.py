"""The shop's back office in SQLAlchemy with psycopg: relationships that load when they are touched, and the same pages
with loader options.

Nothing here knows of pgloupe. The lazy functions are what an application looks like before somebody counts its
statements: the loop is in the page, the query is in the attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import ForeignKey, create_engine, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload
from sqlalchemy.pool import NullPool

from pgloupe.demo.scenario import FIXED, LAZY, Scenario, checksum
from pgloupe.demo.shop import VAT

PURCHASES_ON_A_PAGE = 20


class Base(DeclarativeBase):
    pass


class Setting(Base):
    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Category(Base):
    __tablename__ = "category"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    name: Mapped[str]
    price_cents: Mapped[int]


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    city: Mapped[str]


class Purchase(Base):
    __tablename__ = "purchase"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    status: Mapped[str]
    customer: Mapped[Customer] = relationship()
    items: Mapped[list[Item]] = relationship(order_by="Item.id")


class Item(Base):
    __tablename__ = "purchase_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    purchase_id: Mapped[int] = mapped_column(ForeignKey("purchase.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]
    price_cents: Mapped[int]
    product: Mapped[Product] = relationship()


@contextmanager
def _session(url: str, application_name: str) -> Iterator[Session]:
    """A session on a connection of its own."""
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        connect_args={"application_name": application_name},
        poolclass=NullPool,
    )
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def _page(purchases: list[Purchase]) -> str:
    """The page of the latest purchases, as its template would make it: who bought, and what."""
    return checksum(
        [
            (purchase.id, purchase.customer.name, [(item.product.name, item.quantity) for item in purchase.items])
            for purchase in purchases
        ]
    )


def purchases_lazy(url: str, application_name: str) -> str:
    """One query for the page, then one per purchase for its customer, one for its items, one per item for its product."""
    with _session(url, application_name) as session:
        latest = select(Purchase).order_by(Purchase.id.desc()).limit(PURCHASES_ON_A_PAGE)
        return _page(list(session.scalars(latest)))


def purchases_fixed(url: str, application_name: str) -> str:
    """Two queries, however many purchases."""
    with _session(url, application_name) as session:
        latest = (
            select(Purchase)
            .options(joinedload(Purchase.customer), selectinload(Purchase.items).joinedload(Item.product))
            .order_by(Purchase.id.desc())
            .limit(PURCHASES_ON_A_PAGE)
        )
        return _page(list(session.scalars(latest)))


def categories_lazy(url: str, application_name: str) -> str:
    """The menu with the number of products in each category, counted one category at a time."""
    with _session(url, application_name) as session:
        menu = []
        for category in session.scalars(select(Category).order_by(Category.id)):
            count = select(func.count()).select_from(Product).where(Product.category_id == category.id)
            menu.append((category.name, session.scalar(count)))
        return checksum(menu)


def categories_fixed(url: str, application_name: str) -> str:
    """The same menu by one GROUP BY."""
    with _session(url, application_name) as session:
        menu = (
            select(Category.name, func.count(Product.id))
            .outerjoin(Product, Product.category_id == Category.id)
            .group_by(Category.id)
            .order_by(Category.id)
        )
        return checksum([(name, count) for name, count in session.execute(menu)])


def tax_lazy(url: str, application_name: str) -> str:
    """The rate of the tax is read again for every item of a purchase."""
    with _session(url, application_name) as session:
        taxes = []
        for item in session.scalars(select(Item).order_by(Item.price_cents, Item.id).limit(12)):
            percent = session.scalar(select(Setting.value).where(Setting.name == VAT))
            taxes.append((item.id, item.quantity * item.price_cents * int(percent or 0)))
        return checksum(taxes)


def tax_fixed(url: str, application_name: str) -> str:
    """The rate is read once."""
    with _session(url, application_name) as session:
        percent = int(session.scalar(select(Setting.value).where(Setting.name == VAT)) or 0)
        items = session.scalars(select(Item).order_by(Item.price_cents, Item.id).limit(12))
        return checksum([(item.id, item.quantity * item.price_cents * percent) for item in items])


SCENARIOS = (
    Scenario("purchases", LAZY, "n_plus_one", "the latest purchases (SQLAlchemy)", purchases_lazy),
    Scenario("purchases", FIXED, "n_plus_one", "the latest purchases (SQLAlchemy)", purchases_fixed),
    Scenario("categories", LAZY, "n_plus_one", "the menu with counts (SQLAlchemy)", categories_lazy),
    Scenario("categories", FIXED, "n_plus_one", "the menu with counts (SQLAlchemy)", categories_fixed),
    Scenario("tax", LAZY, "redundant_query", "the tax of some items (SQLAlchemy)", tax_lazy),
    Scenario("tax", FIXED, "redundant_query", "the tax of some items (SQLAlchemy)", tax_fixed),
)
