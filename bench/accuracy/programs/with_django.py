"""Programs with Django: `python with_django.py NAME`, on the database of DATABASE_URL.

Each comes twice: as it is written without thought, and as it should be. The last ones come once: they repeat statements
and are fine.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
import time
from urllib.parse import unquote, urlsplit
from uuid import UUID

import django
from django.conf import settings

url = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(url.path[1:]),
            "USER": unquote(url.username or ""),
            "PASSWORD": unquote(url.password or ""),
            "HOST": url.hostname,
            "PORT": url.port,
        }
    },
    INSTALLED_APPS=["school"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    USE_TZ=True,
)
django.setup()

from django.db import models, transaction  # noqa: E402
from school.models import Badge, Course, Enrolment, Lesson, Setting, Student, Teacher  # noqa: E402


def courses_teacher(eager: bool) -> None:
    query = Course.objects.order_by("id")
    for course in query.select_related("teacher") if eager else query:
        _ = course.teacher.name


def courses_lessons(eager: bool) -> None:
    query = Course.objects.order_by("title")
    for course in query.prefetch_related("lesson_set") if eager else query:
        _ = [lesson.room for lesson in course.lesson_set.all()]


def courses_students(eager: bool) -> None:
    query = Course.objects.all()
    for course in query.prefetch_related("students") if eager else query:
        _ = [student.name for student in course.students.all()]


def teachers_bio(eager: bool) -> None:
    for teacher in Teacher.objects.all() if eager else Teacher.objects.defer("bio"):
        _ = teacher.bio


def lessons_counted(eager: bool) -> None:
    if eager:
        list(Course.objects.annotate(lessons=models.Count("lesson")))
        return
    for course in Course.objects.all():
        course.lesson_set.count()


def lessons_exist(eager: bool) -> None:
    held = Lesson.objects.filter(course=models.OuterRef("pk"), room="R2")
    if eager:
        list(Course.objects.annotate(used=models.Exists(held)))
        return
    for course in Course.objects.all():
        course.lesson_set.filter(room="R2").exists()


def lessons_of_teachers(eager: bool) -> None:
    teachers = Teacher.objects.order_by("name")
    for teacher in teachers.prefetch_related("course_set__lesson_set") if eager else teachers:
        for course in teacher.course_set.all():
            _ = [lesson.held_on for lesson in course.lesson_set.all()]


@transaction.atomic
def seats_saved(eager: bool) -> None:
    courses = list(Course.objects.order_by("id"))
    for course in courses:
        course.seats += 1
        if not eager:
            course.save(update_fields=["seats"])
    if eager:
        Course.objects.bulk_update(courses, ["seats"])


@transaction.atomic
def lessons_created(eager: bool) -> None:
    day = datetime.date(2026, 5, 1)
    lessons = [Lesson(course=course, held_on=day, room="R9") for course in Course.objects.order_by("id")]
    if eager:
        Lesson.objects.bulk_create(lessons)
    else:
        for lesson in lessons:
            lesson.save()


@transaction.atomic
def badges_given(eager: bool) -> None:
    students = Student.objects.order_by("name")
    if eager:
        Badge.objects.bulk_create([Badge(student=one, label="new") for one in students], ignore_conflicts=True)
    else:
        for one in students:
            Badge.objects.get_or_create(student=one, label="new")


def lessons_deleted(eager: bool) -> None:
    lessons = Lesson.objects.filter(room="R1")
    if eager:
        lessons.delete()
    else:
        for lesson in lessons:
            lesson.delete()


def currency_asked(eager: bool) -> None:
    courses = list(Course.objects.all())
    if eager:
        Setting.objects.get(key="currency")
    else:
        for _ in courses:
            Setting.objects.get(key="currency")


def serve(pause_s: float) -> None:
    """Requests of several people on a connection that is kept."""
    for number in (3, 1, 7, 5, 2, 8, 4, 6):
        student = Student.objects.get(pk=UUID(hashlib.md5(f"s{number}".encode()).hexdigest()))
        list(Enrolment.objects.filter(student=student))
        Lesson.objects.filter(course_id=1 + number % 5).count()
        time.sleep(pause_s)


def requests_served(_: bool) -> None:
    serve(0.06)


def requests_without_pause(_: bool) -> None:
    serve(0.0)


def tiles_shown(_: bool) -> None:
    for room in ("R1", "R2", "R3", "R4", "R5", "R6"):
        Lesson.objects.filter(room=room).count()


def jobs_done(_: bool) -> None:
    for number in (4, 2, 5, 1, 3):
        with transaction.atomic():
            course = Course.objects.select_for_update().get(pk=number)
            course.seats += 1
            course.save(update_fields=["seats"])


if __name__ == "__main__":
    name, _, shape = sys.argv[1].rpartition("_")
    globals()[name](shape == "eager")
