"""The tables of schema.sql."""

from django.db import models


class Teacher(models.Model):
    name = models.TextField()
    bio = models.TextField()
    office_id = models.IntegerField()

    class Meta:
        db_table = "teacher"


class Student(models.Model):
    id = models.UUIDField(primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "student"


class Course(models.Model):
    title = models.TextField()
    seats = models.IntegerField()
    teacher = models.ForeignKey(Teacher, models.CASCADE)
    students = models.ManyToManyField(Student, through="Enrolment")

    class Meta:
        db_table = "course"


class Lesson(models.Model):
    course = models.ForeignKey(Course, models.CASCADE)
    held_on = models.DateField()
    room = models.TextField()

    class Meta:
        db_table = "lesson"


class Enrolment(models.Model):
    course = models.ForeignKey(Course, models.CASCADE)
    student = models.ForeignKey(Student, models.CASCADE)

    class Meta:
        db_table = "enrolment"


class Badge(models.Model):
    student = models.ForeignKey(Student, models.CASCADE)
    label = models.TextField()

    class Meta:
        db_table = "badge"


class Setting(models.Model):
    key = models.TextField(primary_key=True)
    value = models.TextField()

    class Meta:
        db_table = "setting"
