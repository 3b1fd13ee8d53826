// Programs with Drizzle: `node with_drizzle.mjs NAME`, on the database of DATABASE_URL.
// Each comes twice: as it is written without thought, and as it should be. The last ones come once: they repeat
// statements and are fine. Drivers: pg and postgres.js.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { count, desc, eq, inArray, relations, sql } from 'drizzle-orm';
import { drizzle as overPg } from 'drizzle-orm/node-postgres';
import { drizzle as overPostgres } from 'drizzle-orm/postgres-js';
import { date, integer, pgTable, text, uuid } from 'drizzle-orm/pg-core';
import pg from 'pg';
import postgres from 'postgres';

const teacher = pgTable('teacher', {
  id: integer('id').primaryKey().generatedByDefaultAsIdentity(), name: text('name'), bio: text('bio'), officeId: integer('office_id'),
});
const course = pgTable('course', {
  id: integer('id').primaryKey().generatedByDefaultAsIdentity(), title: text('title'), seats: integer('seats'), teacherId: integer('teacher_id'),
});
const lesson = pgTable('lesson', {
  id: integer('id').primaryKey().generatedByDefaultAsIdentity(), courseId: integer('course_id'), heldOn: date('held_on'), room: text('room'),
});
const student = pgTable('student', { id: uuid('id').primaryKey(), name: text('name') });
const enrolment = pgTable('enrolment', {
  id: integer('id').primaryKey().generatedByDefaultAsIdentity(), courseId: integer('course_id'), studentId: uuid('student_id'),
});
const setting = pgTable('setting', { key: text('key').primaryKey(), value: text('value') });
const courseRelations = relations(course, ({ many }) => ({ lessons: many(lesson) }));
const lessonRelations = relations(lesson, ({ one }) => ({
  course: one(course, { fields: [lesson.courseId], references: [course.id] }),
}));
const schema = { teacher, course, lesson, student, enrolment, setting, courseRelations, lessonRelations };

const url = process.env.DATABASE_URL;

async function withPg(work, max = 1) {
  const pool = new pg.Pool({ connectionString: url, max });
  try { await work(overPg(pool, { schema })); } finally { await pool.end(); }
}

async function withPostgres(work, max = 1) {
  const client = postgres(url, { max });
  try { await work(overPostgres(client, { schema })); } finally { await client.end(); }
}

// Requests of several people, one after another.
async function serve(db, pause) {
  for (const number of [3, 1, 7, 5, 2, 8, 4, 6]) {
    const id = createHash('md5').update(`s${number}`).digest('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
    const [one] = await db.select().from(student).where(eq(student.id, id));
    await db.select().from(enrolment).where(eq(enrolment.studentId, one.id));
    await db.$count(lesson, eq(lesson.courseId, 1 + number % 5));
    await sleep(pause);
  }
}

const programs = {
  courses_teacher: (eager) => withPg(async (db) => {
    if (eager) {
      await db.select().from(course).leftJoin(teacher, eq(teacher.id, course.teacherId)).orderBy(course.id);
      return;
    }
    for (const row of await db.select().from(course).orderBy(course.id)) {
      await db.select().from(teacher).where(eq(teacher.id, row.teacherId));
    }
  }),
  courses_lessons: (eager) => withPostgres(async (db) => {
    if (eager) {
      await db.query.course.findMany({ with: { lessons: true } });
      return;
    }
    for (const row of await db.query.course.findMany()) {
      await db.query.lesson.findMany({ where: eq(lesson.courseId, row.id) });
    }
  }),
  courses_students: (eager) => withPg(async (db) => {
    const rows = await db.select({ id: course.id }).from(course);
    const ask = (condition) => db.select({ id: student.id, name: student.name, courseId: enrolment.courseId })
      .from(student).innerJoin(enrolment, eq(enrolment.studentId, student.id)).where(condition);
    if (eager) await ask(inArray(enrolment.courseId, rows.map((row) => row.id)));
    else for (const row of rows) await ask(eq(enrolment.courseId, row.id));
  }),
  lessons_counted: (eager) => withPostgres(async (db) => {
    if (eager) {
      await db.select({ id: lesson.courseId, n: count() }).from(lesson).groupBy(lesson.courseId);
      return;
    }
    for (const row of await db.select({ id: course.id }).from(course)) {
      await db.$count(lesson, eq(lesson.courseId, row.id));
    }
  }),
  latest_lesson: (eager) => withPg(async (db) => {
    if (eager) {
      await db.selectDistinctOn([lesson.courseId]).from(lesson).orderBy(lesson.courseId, desc(lesson.heldOn));
      return;
    }
    for (const row of await db.select().from(course)) {
      await db.query.lesson.findFirst({ where: eq(lesson.courseId, row.id), orderBy: desc(lesson.heldOn) });
    }
  }),
  courses_at_once: (eager) => withPg(async (db) => {
    if (eager) {
      await db.select().from(course).leftJoin(teacher, eq(teacher.id, course.teacherId));
      return;
    }
    const rows = await db.select().from(course).orderBy(course.id);
    await Promise.all(rows.map((row) => db.select().from(lesson).where(eq(lesson.courseId, row.id))));
  }, 4),
  lessons_inserted: (eager) => withPostgres((db) => db.transaction(async (tx) => {
    const rows = await tx.select({ id: course.id }).from(course);
    const values = rows.map((row) => ({ courseId: row.id, heldOn: '2026-05-01', room: 'R9' }));
    if (eager) await tx.insert(lesson).values(values);
    else for (const value of values) await tx.insert(lesson).values(value);
  })),
  seats_updated: (eager) => withPg(async (db) => {
    if (eager) {
      await db.update(course).set({ seats: sql`${course.seats} + 1` });
      return;
    }
    for (const row of await db.select().from(course).orderBy(course.id)) {
      await db.update(course).set({ seats: row.seats + 1 }).where(eq(course.id, row.id));
    }
  }),
  currency_asked: (eager) => withPg((db) => db.transaction(async (tx) => {
    const rows = await tx.select().from(course);
    for (const _ of eager ? rows.slice(0, 1) : rows) {
      await tx.select().from(setting).where(eq(setting.key, 'currency'));
    }
  })),
  requests_served: () => withPg((db) => serve(db, 60), 3),
  requests_without_pause: () => withPostgres((db) => serve(db, 0)),
  tiles_shown: () => withPg((db) => Promise.all(
    ['R1', 'R2', 'R3', 'R4', 'R5', 'R6'].map((room) => db.$count(lesson, eq(lesson.room, room))),
  ), 3),
  jobs_done: () => withPostgres(async (db) => {
    for (const number of [4, 2, 5, 1, 3]) {
      await db.transaction(async (tx) => {
        const [row] = await tx.select().from(course).where(eq(course.id, number)).for('update');
        await tx.update(course).set({ seats: row.seats + 1 }).where(eq(course.id, row.id));
      });
    }
  }),
};

const cut = process.argv[2].lastIndexOf('_');
await programs[process.argv[2].slice(0, cut)](process.argv[2].slice(cut + 1) === 'eager');
