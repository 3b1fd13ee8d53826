"""Programs with SQLAlchemy: `python with_sqlalchemy.py NAME`, on the database of DATABASE_URL.

Each comes twice: as it is written without thought, and as it should be. The last ones come once: they repeat statements
and are fine. Drivers vary.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import sys
import time
from uuid import UUID

from sqlalchemy import Engine, ForeignKey, create_engine, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    deferred,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    undefer,
)


class Base(DeclarativeBase):
    pass


class Office(Base):
    __tablename__ = "office"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]


class Teacher(Base):
    __tablename__ = "teacher"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    bio: Mapped[str] = deferred(mapped_column())
    office_id: Mapped[int] = mapped_column(ForeignKey("office.id"))
    office: Mapped[Office] = relationship()
    courses: Mapped[list[Course]] = relationship(back_populates="teacher")


class Course(Base):
    __tablename__ = "course"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    seats: Mapped[int]
    teacher_id: Mapped[int] = mapped_column(ForeignKey("teacher.id"))
    teacher: Mapped[Teacher] = relationship(back_populates="courses")
    lessons: Mapped[list[Lesson]] = relationship(order_by="Lesson.id")
    students: Mapped[list[Student]] = relationship(secondary="enrolment")


class Lesson(Base):
    __tablename__ = "lesson"
    id: Mapped[int] = mapped_column(primary_key=True)
    course_id: Mapped[int] = mapped_column(ForeignKey("course.id"))
    held_on: Mapped[datetime.date]
    room: Mapped[str]


class Student(Base):
    __tablename__ = "student"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


class Enrolment(Base):
    __tablename__ = "enrolment"
    id: Mapped[int] = mapped_column(primary_key=True)
    course_id: Mapped[int] = mapped_column(ForeignKey("course.id"))
    student_id: Mapped[UUID] = mapped_column(ForeignKey("student.id"))


class Topic(Base):
    __tablename__ = "topic"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("topic.id"))
    name: Mapped[str]


class Badge(Base):
    __tablename__ = "badge"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[UUID]
    label: Mapped[str]


def engine(driver: str) -> Engine:
    return create_engine(os.environ["DATABASE_URL"].replace("postgresql://", f"postgresql+{driver}://"))


def courses_teacher(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        query = select(Course).order_by(Course.id)
        if eager:
            query = query.options(joinedload(Course.teacher))
        for course in session.scalars(query):
            _ = course.teacher.name


def courses_lessons(eager: bool) -> None:
    with Session(engine("psycopg2")) as session:
        query = select(Course).order_by(Course.title)
        if eager:
            query = query.options(selectinload(Course.lessons))
        for course in session.scalars(query).all():
            _ = [lesson.room for lesson in course.lessons]


def courses_students(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        query = select(Course)
        if eager:
            query = query.options(selectinload(Course.students))
        for course in session.scalars(query).all():
            _ = [student.name for student in course.students]


def teachers_bio(eager: bool) -> None:
    with Session(engine("psycopg2")) as session:
        query = select(Teacher).order_by(Teacher.name)
        if eager:
            query = query.options(undefer(Teacher.bio))
        for teacher in session.scalars(query).all():
            _ = teacher.bio


def lessons_counted(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        if eager:
            session.execute(
                select(Course.id, func.count(Lesson.id)).outerjoin(Course.lessons).group_by(Course.id)
            ).all()
            return
        for course in session.scalars(select(Course)).all():
            session.scalar(select(func.count()).select_from(Lesson).where(Lesson.course_id == course.id))


def teachers_courses_lessons(eager: bool) -> None:
    with Session(engine("psycopg2")) as session:
        query = select(Teacher)
        if eager:
            query = query.options(selectinload(Teacher.courses).selectinload(Course.lessons))
        for teacher in session.scalars(query).all():
            for course in teacher.courses:
                _ = [lesson.held_on for lesson in course.lessons]


def latest_lesson(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        if eager:
            session.scalars(select(Lesson).distinct(Lesson.course_id).order_by(Lesson.course_id, Lesson.held_on.desc()))
            return
        for course in session.scalars(select(Course)).all():
            latest = select(Lesson).where(Lesson.course_id == course.id).order_by(Lesson.held_on.desc()).limit(1)
            session.scalars(latest).one()


def topic_tree(eager: bool) -> None:
    with Session(engine("psycopg2")) as session:
        if eager:
            tree = select(Topic.id, Topic.name).where(Topic.parent_id.is_(None)).cte("tree", recursive=True)
            below = select(Topic.id, Topic.name).join(tree, Topic.parent_id == tree.c.id)
            session.execute(select(tree.union_all(below))).all()
            return
        waiting = [session.scalars(select(Topic).where(Topic.parent_id.is_(None))).one()]
        while waiting:
            topic = waiting.pop()
            waiting += session.scalars(select(Topic).where(Topic.parent_id == topic.id)).all()


def courses_async(eager: bool) -> None:
    async def run() -> None:
        url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
        async_engine = create_async_engine(url)
        async with AsyncSession(async_engine) as session:
            query = select(Course).order_by(Course.id)
            if eager:
                query = query.options(selectinload(Course.teacher))
            for course in (await session.scalars(query)).all():
                await session.get(Teacher, course.teacher_id)
        await async_engine.dispose()

    asyncio.run(run())


def lessons_inserted(eager: bool) -> None:
    with engine("psycopg2").begin() as connection:
        rows = connection.execute(select(Course.id)).all()
        values = [{"course_id": row.id, "held_on": datetime.date(2026, 5, 1), "room": "R9"} for row in rows]
        if eager:
            connection.execute(insert(Lesson).returning(Lesson.id), values).all()
        else:
            for value in values:
                connection.execute(insert(Lesson).values(value))


def seats_updated(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        if eager:
            session.execute(update(Course).values(seats=Course.seats + 1))
        else:
            for course in session.scalars(select(Course).order_by(Course.id)).all():
                course.seats += 1
                session.flush()
        session.commit()


def lessons_deleted(eager: bool) -> None:
    with Session(engine("psycopg")) as session:
        if eager:
            session.execute(delete(Lesson).where(Lesson.room == "R1"))
        else:
            for number in session.scalars(select(Lesson.id).where(Lesson.room == "R1")).all():
                session.execute(delete(Lesson).where(Lesson.id == number))
                session.commit()
        session.commit()


def currency_asked(eager: bool) -> None:
    currency = text("SELECT value FROM setting WHERE key = :key")
    with Session(engine("psycopg")) as session:
        courses = session.scalars(select(Course)).all()
        if eager:
            session.execute(currency, {"key": "currency"})
            return
        for _ in courses:
            session.execute(currency, {"key": "currency"})


def student(number: int) -> UUID:
    return UUID(hashlib.md5(f"s{number}".encode()).hexdigest())


def serve(pause_s: float, driver: str) -> None:
    """Requests of several people, each with a session of its own on a pooled connection."""
    pool = engine(driver)
    for number in (3, 1, 7, 5, 2, 8, 4, 6):
        with Session(pool) as session:
            one = session.get_one(Student, student(number))
            session.scalars(select(Enrolment).where(Enrolment.student_id == one.id)).all()
            session.scalar(select(func.count()).select_from(Lesson).where(Lesson.course_id == 1 + number % 5))
        time.sleep(pause_s)


def requests_served(_: bool) -> None:
    serve(0.06, "psycopg")


def requests_without_pause(_: bool) -> None:
    serve(0.0, "psycopg2")


def tiles_shown(_: bool) -> None:
    with Session(engine("psycopg")) as session:
        for room in ("R1", "R2", "R3", "R4", "R5", "R6"):
            session.scalar(select(func.count()).select_from(Lesson).where(Lesson.room == room))


def jobs_done(_: bool) -> None:
    """Messages name a course; each is worked on in a transaction."""
    pool = engine("psycopg")
    for number in (4, 2, 5, 1, 3):
        with Session(pool) as session, session.begin():
            session.get_one(Course, number, with_for_update=True).seats += 1


if __name__ == "__main__":
    name, _, shape = sys.argv[1].rpartition("_")
    globals()[name](shape == "eager")
