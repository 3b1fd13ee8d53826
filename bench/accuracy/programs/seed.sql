-- :n courses and what belongs to them; n is put in by the benchmark.
INSERT INTO office SELECT i, 'office ' || i FROM generate_series(1, {n}) AS i;
INSERT INTO teacher SELECT i, 'teacher ' || i, repeat('b', 300), 1 + (i * 5) % {n} FROM generate_series(1, {n}) AS i;
INSERT INTO course SELECT i, 'course ' || i, 12, 1 + (i * 3) % {n} FROM generate_series(1, {n}) AS i;
INSERT INTO lesson (course_id, held_on, room)
    SELECT i, date '2026-03-01' + j, 'R' || j FROM generate_series(1, {n}) AS i, generate_series(1, 3) AS j;
INSERT INTO student SELECT md5('s' || i)::uuid, 'student ' || i FROM generate_series(1, 2 * {n}) AS i;
INSERT INTO enrolment (course_id, student_id)
    SELECT i, md5('s' || (1 + (i + j * 2) % (2 * {n})))::uuid FROM generate_series(1, {n}) AS i, generate_series(1, 3) AS j;
INSERT INTO topic SELECT 1, NULL, 'music';
INSERT INTO topic SELECT 1 + i, 1 + i / 3, 'topic ' || i FROM generate_series(1, 2 * {n}) AS i;
INSERT INTO setting VALUES ('currency', 'EUR'), ('locale', 'nb');
SELECT setval(pg_get_serial_sequence(t, 'id'), 100000)
    FROM unnest(ARRAY['office', 'teacher', 'topic', 'course', 'lesson', 'enrolment', 'badge']) AS t;
ANALYZE;
