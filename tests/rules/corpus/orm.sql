-- Statements as drivers and ORMs send them. One statement a line; groups of equal meaning are separated by a blank line.

-- sqlalchemy: get by primary key, psycopg2, psycopg 3, asyncpg
SELECT author.id AS author_id, author.name AS author_name FROM author WHERE author.id = 5
SELECT author.id AS author_id, author.name AS author_name FROM author WHERE author.id = $1
SELECT author.id AS author_id, author.name AS author_name FROM author WHERE author.id = $1::INTEGER
SELECT author.id, author.name FROM author WHERE author.id = '7'
SELECT author.id, author.name FROM author WHERE author.id = $1::BIGINT

-- sqlalchemy: selectinload
SELECT post.author_id AS post_author_id, post.id AS post_id FROM post WHERE post.author_id IN (1, 2, 3)
SELECT post.author_id AS post_author_id, post.id AS post_id FROM post WHERE post.author_id IN ($1::INTEGER, $2::INTEGER)
SELECT post.author_id AS post_author_id, post.id AS post_id FROM post WHERE post.author_id IN ($1)
SELECT post.author_id, post.id FROM post WHERE post.author_id IN (CAST($1 AS INTEGER), CAST($2 AS INTEGER))

-- sqlalchemy: joinedload
SELECT post.id, post.title, author_1.id AS id_1, author_1.name FROM post LEFT OUTER JOIN author AS author_1 ON author_1.id = post.author_id
SELECT post.id, post.title, author_1.id AS id_2, author_1.name FROM post LEFT JOIN author author_1 ON author_1.id = post.author_id

-- sqlalchemy: subquery count
SELECT count(*) AS count_1 FROM (SELECT post.id AS post_id FROM post WHERE post.author_id = $1) AS anon_1
SELECT count(*) AS count_1 FROM (SELECT post.id AS post_id FROM post WHERE post.author_id = 3) AS anon_1

-- sqlalchemy: insert with returning
INSERT INTO author (name, country) VALUES ('a', 'b') RETURNING author.id
INSERT INTO author (name, country) VALUES ($1::VARCHAR, $2::VARCHAR) RETURNING author.id
INSERT INTO author (name, country) VALUES ('x', NULL), ('y', 'z') RETURNING author.id

-- sqlalchemy: insertmanyvalues
INSERT INTO post (title, author_id) SELECT p0::VARCHAR, p1::INTEGER FROM (VALUES ('a', 1, 0), ('b', 2, 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING post.id
INSERT INTO post (title, author_id) SELECT p0::VARCHAR, p1::INTEGER FROM (VALUES ($1, $2, 0)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING post.id

-- sqlalchemy: update, delete
UPDATE author SET name='x' WHERE author.id = 3
UPDATE author SET name=$1::VARCHAR WHERE author.id = $2::INTEGER
update author set name = NULL where (author.id = -4)

DELETE FROM author WHERE author.id = 3
DELETE FROM author WHERE author.id = $1::INTEGER

-- sqlalchemy: connection set-up
select pg_catalog.version()

select current_schema()

show standard_conforming_strings

show transaction isolation level

SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relname = $1::VARCHAR AND pg_catalog.pg_class.relkind = ANY (ARRAY[$2::VARCHAR, $3::VARCHAR, $4::VARCHAR]) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)
SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relname = 'author' AND pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p']) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)

-- django
SELECT "shop_author"."id", "shop_author"."name" FROM "shop_author" WHERE "shop_author"."id" = 5 LIMIT 21
SELECT "shop_author"."id", "shop_author"."name" FROM "shop_author" WHERE "shop_author"."id" = $1 LIMIT 21
SELECT shop_author.id, shop_author.name FROM shop_author WHERE (shop_author.id = 5) LIMIT 21

SELECT "shop_post"."id" FROM "shop_post" INNER JOIN "shop_author" ON ("shop_post"."author_id" = "shop_author"."id") WHERE ("shop_author"."active" AND "shop_post"."title"::text LIKE '%x%') ORDER BY "shop_post"."id" DESC
SELECT "shop_post"."id" FROM "shop_post" JOIN "shop_author" ON "shop_post"."author_id" = "shop_author"."id" WHERE "shop_author"."active" AND "shop_post"."title"::text LIKE $1 ORDER BY "shop_post"."id" DESC

SELECT COUNT(*) AS "__count" FROM "shop_post" WHERE "shop_post"."author_id" = 7
SELECT count(*) FROM shop_post WHERE shop_post.author_id = '7'

SELECT 1 AS "a" FROM "shop_post" WHERE "shop_post"."author_id" = 7 LIMIT 1
SELECT 1 FROM shop_post WHERE (shop_post.author_id = 8) LIMIT 1

SELECT "auth_user"."id", "auth_user"."password" FROM "auth_user" WHERE UPPER("auth_user"."email"::text) = UPPER('a@b')
SELECT auth_user.id, auth_user.password FROM auth_user WHERE upper(auth_user.email::text) = upper($1)

SELECT "django_session"."session_key", "django_session"."session_data" FROM "django_session" WHERE ("django_session"."expire_date" > '2026-01-01T00:00:00+00:00'::timestamptz AND "django_session"."session_key" = 'abc') LIMIT 21
SELECT "django_session"."session_key", "django_session"."session_data" FROM "django_session" WHERE "django_session"."expire_date" > $1 AND "django_session"."session_key" = $2 LIMIT 21

SELECT ("shop_post_tags"."post_id") AS "_prefetch_related_val_post_id", "shop_tag"."id" FROM "shop_tag" INNER JOIN "shop_post_tags" ON ("shop_tag"."id" = "shop_post_tags"."tag_id") WHERE "shop_post_tags"."post_id" IN (1, 2, 3)
SELECT "shop_post_tags"."post_id" AS "_prefetch_related_val_post_id", "shop_tag"."id" FROM "shop_tag" INNER JOIN "shop_post_tags" ON ("shop_tag"."id" = "shop_post_tags"."tag_id") WHERE "shop_post_tags"."post_id" IN ($1)

UPDATE "shop_post" SET "likes" = ("shop_post"."likes" + 1) WHERE "shop_post"."id" = 4
UPDATE "shop_post" SET "likes" = "shop_post"."likes" + $1 WHERE "shop_post"."id" = $2

INSERT INTO "shop_tag" ("name", "slug") VALUES ('a', 'b'), ('c', 'd') ON CONFLICT DO NOTHING
INSERT INTO "shop_tag" ("name", "slug") VALUES ($1, $2) ON CONFLICT DO NOTHING

SELECT (1) AS "a" FROM "shop_tag" WHERE ("shop_tag"."slug" = 'x' AND NOT ("shop_tag"."id" = 4)) LIMIT 1
SELECT 1 AS "a" FROM "shop_tag" WHERE "shop_tag"."slug" = 'x' AND NOT "shop_tag"."id" = 4 LIMIT 1

SELECT "shop_post"."id", CASE WHEN "shop_post"."likes" > 10 THEN 'hot' ELSE 'cold' END AS "state" FROM "shop_post"
SELECT "shop_post"."id", CASE WHEN ("shop_post"."likes" > $1) THEN $2 ELSE $3 END FROM "shop_post"

SELECT DISTINCT ON ("shop_post"."author_id") "shop_post"."id" FROM "shop_post" ORDER BY "shop_post"."author_id" ASC, "shop_post"."id" DESC

SELECT "shop_post"."id" FROM "shop_post" WHERE "shop_post"."id" = 1 FOR UPDATE SKIP LOCKED
SELECT shop_post.id FROM shop_post WHERE shop_post.id = $1 FOR UPDATE SKIP LOCKED

SAVEPOINT "s140_x1"
SAVEPOINT "s140_x2"
SAVEPOINT sa_savepoint_1
SAVEPOINT active_record_1

RELEASE SAVEPOINT "s140_x1"
RELEASE SAVEPOINT sa_savepoint_2
RELEASE active_record_1

ROLLBACK TO SAVEPOINT "s140_x1"
ROLLBACK TO sa_savepoint_2

-- activerecord
SELECT "posts".* FROM "posts" WHERE "posts"."author_id" = $1
SELECT "posts".* FROM "posts" WHERE "posts"."author_id" = 7

SELECT "posts".* FROM "posts" WHERE "posts"."author_id" IN ($1, $2, $3)
SELECT "posts".* FROM "posts" WHERE "posts"."author_id" IN (1)

SELECT "authors".* FROM "authors" WHERE "authors"."id" = $1 LIMIT $2
SELECT "authors".* FROM "authors" WHERE "authors"."id" = 7 LIMIT 1

SELECT 1 AS one FROM "posts" WHERE "posts"."author_id" = $1 LIMIT $2
SELECT 1 AS one FROM "posts" WHERE "posts"."author_id" = 8 LIMIT 1

SELECT COUNT(*) FROM "comments" WHERE "comments"."post_id" = $1
SELECT count(*) AS count_all FROM comments WHERE comments.post_id = 4

SELECT COUNT(*) AS "count_all", "comments"."post_id" AS "comments_post_id" FROM "comments" GROUP BY "comments"."post_id"

INSERT INTO "posts" ("title", "created_at") VALUES ($1, $2) RETURNING "id"
INSERT INTO "posts" ("title", "created_at") VALUES ('a', '2026-01-01 00:00:00') RETURNING "id"

SELECT "posts".* FROM "posts" INNER JOIN "authors" ON "authors"."id" = "posts"."author_id" WHERE "authors"."name" = $1 AND ("posts"."id" > $2 OR "posts"."id" IS NULL)
SELECT "posts".* FROM "posts" JOIN "authors" ON ("authors"."id" = "posts"."author_id") WHERE ("authors"."name" = 'x') AND (("posts"."id" > 5) OR ("posts"."id" ISNULL))

SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = '"posts"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

SELECT pg_try_advisory_lock(4242)
SELECT pg_try_advisory_lock($1)

-- sequelize
SELECT "id", "name" FROM "Authors" AS "Author" WHERE "Author"."id" = 5
SELECT "id", "name" FROM "Authors" "Author" WHERE ("Author"."id" = $1)

SELECT "Post"."id", "Post"."title", "author"."id" AS "author.id" FROM "Posts" AS "Post" LEFT OUTER JOIN "Authors" AS "author" ON "Post"."authorId" = "author"."id" WHERE "Post"."id" = '7'
SELECT "Post"."id", "Post"."title", "author"."id" FROM "Posts" AS "Post" LEFT JOIN "Authors" AS "author" ON "Post"."authorId" = "author"."id" WHERE "Post"."id" = $1

SELECT count("Post"."id") AS "count" FROM "Posts" AS "Post" WHERE "Post"."authorId" = 1

SELECT count("Post"."id")::integer AS "count" FROM "Posts" AS "Post"

INSERT INTO "Posts" ("id","title","createdAt") VALUES (DEFAULT,$1,$2) RETURNING "id","title","createdAt"
INSERT INTO "Posts" ("id","title","createdAt") VALUES (DEFAULT,'x','y'),(DEFAULT,'z','w') RETURNING "id","title","createdAt"

UPDATE "Posts" SET "title"=$1,"updatedAt"=$2 WHERE "id" = $3
UPDATE "Posts" SET "title"='x',"updatedAt"='y' WHERE "id" = 5

SELECT "id" FROM "Authors" AS "Author" WHERE "Author"."name" ILIKE '%x%' AND "Author"."deletedAt" IS NULL

-- drizzle
select "id", "title" from "post" where "post"."author_id" = $1 order by "post"."id" desc limit $2
select "id", "title" from "post" where ("post"."author_id" = 3) order by "post"."id" desc limit 8

select "id", "name" from "author" where "author"."id" in ($1, $2, $3)
select id, name from author where author.id in (1)

select "post"."id", "author"."name" from "post" left join "author" on "post"."author_id" = "author"."id" where ("post"."id" = $1 and "author"."name" <> $2)
select "post"."id", "author"."name" from "post" left outer join "author" on "post"."author_id" = "author"."id" where "post"."id" = 1 and "author"."name" != 'x'

insert into "comment" ("id", "post_id", "body") values (default, $1, $2), (default, $3, $4) returning "id"
insert into "comment" ("id", "post_id", "body") values (default, 4, 'x') returning "id"

select "post"."id", "post_author"."data" as "author" from "post" "post" left join lateral (select json_build_array("post_author"."id", "post_author"."name") as "data" from (select * from "author" "post_author" where "post_author"."id" = "post"."author_id" limit $1) "post_author") "post_author" on true
select "post"."id", "post_author"."data" as "author" from "post" "post" left join lateral (select json_build_array("post_author"."id", "post_author"."name") as "data" from (select * from "author" "post_author" where "post_author"."id" = "post"."author_id" limit 1) "post_author") "post_author" on true

-- prisma
SELECT "public"."Post"."id", "public"."Post"."title" FROM "public"."Post" WHERE ("public"."Post"."id" = $1 AND 1=1) LIMIT $2 OFFSET $3
SELECT "public"."Post"."id", "public"."Post"."title" FROM "public"."Post" WHERE ("public"."Post"."id" = 5 AND 1=1) LIMIT 1 OFFSET 0

SELECT "public"."Post"."id" FROM "public"."Post" WHERE "public"."Post"."authorId" IN ($1,$2,$3,$4) OFFSET $5
SELECT "public"."Post"."id" FROM "public"."Post" WHERE ("public"."Post"."authorId" IN (1)) OFFSET 0

SELECT COUNT(*) FROM (SELECT "public"."Post"."id" FROM "public"."Post" WHERE 1=1 OFFSET $1) AS "sub"
SELECT COUNT(*) FROM (SELECT "public"."Post"."id" FROM "public"."Post" WHERE 1=1 OFFSET 0) AS "sub"

INSERT INTO "public"."Post" ("title","authorId") VALUES ($1,$2) RETURNING "public"."Post"."id", "public"."Post"."title"

UPDATE "public"."Post" SET "title" = $1 WHERE ("public"."Post"."id" = $2 AND 1=1) RETURNING "public"."Post"."id"

-- typeorm
SELECT "Author"."id" AS "Author_id", "Author"."name" AS "Author_name" FROM "author" "Author" WHERE (("Author"."id" = $1)) LIMIT 1
SELECT "Author"."id", "Author"."name" FROM "author" AS "Author" WHERE "Author"."id" = 5 LIMIT 1

SELECT DISTINCT "distinctAlias"."Post_id" AS "ids_Post_id" FROM (SELECT "Post"."id" AS "Post_id" FROM "post" "Post" WHERE "Post"."authorId" = $1) "distinctAlias" ORDER BY "Post_id" ASC LIMIT 1
SELECT DISTINCT "distinctAlias"."Post_id" FROM (SELECT "Post"."id" FROM "post" "Post" WHERE ("Post"."authorId" = 4)) "distinctAlias" ORDER BY "Post_id" ASC LIMIT 1

INSERT INTO "post"("title", "authorId") VALUES ($1, $2) RETURNING "id"
INSERT INTO post (title, "authorId") VALUES ('a', 2) RETURNING id

START TRANSACTION
start transaction isolation level serializable

BEGIN
begin work
BEGIN TRANSACTION
BEGIN ISOLATION LEVEL REPEATABLE READ
BEGIN READ ONLY

COMMIT
end
COMMIT WORK
commit transaction

ROLLBACK
rollback work
ABORT

-- hibernate, jdbc
select a1_0.id,a1_0.name from author a1_0 where a1_0.id=$1
select a1_0.id,a1_0.name from author a1_0 where a1_0.id=44
select a1_0.id, a1_0.name as n from author as a1_0 where (a1_0.id)=(44)

select p1_0.author_id,p1_0.id from post p1_0 where p1_0.author_id = any ($1)
select p1_0.author_id,p1_0.id from post p1_0 where p1_0.author_id = any ('{1,2}')
select p1_0.author_id,p1_0.id from post p1_0 where p1_0.author_id = some ($1::bigint[])

select nextval('author_seq')
select nextval('post_seq'::regclass)

select a1_0.id from author a1_0 order by a1_0.id offset $1 rows fetch first $2 rows only
select a1_0.id from author a1_0 order by a1_0.id limit 10 offset 20
select a1_0.id from author a1_0 order by a1_0.id offset 20 limit 10
select a1_0.id from author a1_0 order by a1_0.id offset 1 row fetch next row only

SET extra_float_digits = 3
set extra_float_digits to 2
SET SESSION extra_float_digits = 3

SET application_name = 'PostgreSQL JDBC Driver'

-- ecto, gorm, sqlx, go
SELECT p0."id", p0."title" FROM "posts" AS p0 WHERE (p0."author_id" = $1)
SELECT p0.id, p0.title FROM posts p0 WHERE p0.author_id = 4

SELECT * FROM "users" WHERE "users"."id" = $1 AND "users"."deleted_at" IS NULL ORDER BY "users"."id" LIMIT 1
SELECT * FROM users WHERE users.id = 3 AND (users.deleted_at IS NULL) ORDER BY users.id LIMIT 1

SELECT p0."id" FROM "posts" AS p0 WHERE (p0."author_id" = ANY($1))
