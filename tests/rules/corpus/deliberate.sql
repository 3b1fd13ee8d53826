-- Where the fingerprint tells apart what libpg_query's takes for one. Each group: `-- name: reason`, then statements that
-- are one for libpg_query and all different here. A group that no longer is so fails the test.

-- schemas: tables of one name in two schemas are two tables
select a from deliberate
select a from s.deliberate
select a from public.deliberate

-- digits in names: shards and yearly tables are counted apart
select a from log_2025
select a from log_2026

-- in and =: a list is a batch, an equality is one row
select a from d where e = 1
select a from d where e in (1)
select a from d where e = any ($1)

-- in and = with row values: as above
select a from d where (e, f) in ((1, 2))
select a from d where (e, f) = (1, 2)

-- order of conditions: placeholders are numbered in order of appearance, so the order belongs to the template
select a from d where e = 1 and f = 2
select a from d where f = 1 and e = 2

-- order of a select list: the reply has other columns
select e, f from d
select f, e from d

-- repeated columns: the reply has other columns
select e from d
select e, e from d

-- order of FROM: part of the template's text
select e from d, g
select e from g, d

-- order of the columns of an INSERT: the placeholders mean other columns
insert into d (e, f) values (1, 2)
insert into d (f, e) values (1, 2)

-- order of assignments: as above
update d set e = 1, f = 2
update d set f = 1, e = 2

-- number of constants: each is a placeholder with a value
select h(1)
select h(1, 2)
select h(1, 2, 3)

-- number of rows' columns: as above
values (1)
values (1, 2, 3)

-- number of select-list constants: the reply has other columns
select 1, 2
select 1, 2, 3

-- order of arguments: other meaning
select h(e, f) from d
select h(f, e) from d

-- mixed lists: only lists of constants alone are folded
select a from d where e in (f, 1)
select a from d where e in (f, 2, 3)

-- mixed arrays: as above
select array[e, 1] from d
select array[e] from d

-- repeated conditions: each is a placeholder
select a from d where e = 1 or e = 2
select a from d where e = 1 or e = 2 or e = 3

-- DEFAULT and a constant: DEFAULT has no value
insert into d values (1, 2)
insert into d values (1, default)

-- DEFAULT and a constant in SET: as above
update d set e = 1
update d set e = default

-- TRUE alone as a condition: it is a placeholder
select e as q from d where true
select e as r from d

-- CROSS JOIN and JOIN ON TRUE: as above
select e from d cross join g
select e from d join g on true

-- ELSE NULL: as above
select case when e then 1 end from d
select case when e then 1 else null end from d

-- LIMIT ALL: a limit with no limit
select e from d limit all
select e from d limit 1

-- fields of EXTRACT: year and month are other questions
select extract(year from e) from d
select extract(month from e) from d

-- optional words of TRIM: not read by a normaliser of tokens
select trim(e) from d
select trim(both from e) from d
select trim(both ' ' from e) from d

-- order of SUBSTRING's parts: placeholders are numbered in order of appearance
select substring(e from 1 for 2) from d
select substring(e for 2 from 1) from d

-- NOT x IN (SELECT …): needs the extent of x
select e from d where f not in (select a from g)
select e from d where not f in (select a from g)

-- aliases of functions: the columns they name may be used elsewhere
select * from h(1)
select * from h(1) as x
select * from h(1) x (e)

-- columns of an alias: as above
select * from d x
select * from d as x (e)

-- constants of DDL: numbers there are no values but part of the definition
create table d (e int default 1)
create table d (e int default 2)

-- payload of NOTIFY: it is a placeholder
notify n
notify n, 'x'

-- arguments of EXECUTE: each is a placeholder
execute n
execute n (1)
execute n (1, 2)

-- options of EXPLAIN: old and new syntax
explain analyze select e from d
explain (analyze) select e from d

-- options of VACUUM: old and new syntax
vacuum analyze d
vacuum (analyze) d

-- options of COPY: old and new syntax
copy d from stdin csv
copy d from stdin with (format csv)

-- default mode of LOCK: a default is not written out
lock d
lock d in access exclusive mode

-- SHOW TRANSACTION ISOLATION LEVEL: the old syntax of a setting
show transaction isolation level
show transaction_isolation

-- pg_catalog types: a schema is a schema
select e::int from d
select e::pg_catalog.int4 from d

-- CREATE USER and CREATE ROLE options: WITH is optional
alter user n password 'x'
alter user n with password 'x'

-- arguments of CALL: each is a placeholder
call n(1)
call n(1, 2)

-- LIMIT and OFFSET: a page has two placeholders, a limit one
select a from t limit 1
select a from t limit 1 offset 2
select a from t offset 1

-- in and =: two forms of one ORM
SELECT "posts".* FROM "posts" WHERE "posts"."author_id" = $1
SELECT "posts".* FROM "posts" WHERE "posts"."author_id" IN ($1, $2, $3)

-- in and =: the corpus's own
select a from t where b = 1
select a from t where b in (1)
select a from t where b = any ($1)

-- not in and <>: as in and =
select a from t where b <> 1
select a from t where b not in (1)

-- in and = with row values: the corpus's own
select a from t where (b, c) in ((1, 2))
select a from t where (b, c) = (1, 2)

-- number of constants: the corpus's own
select 1
select 1, 2
select 1, 2, 3

-- number of columns of VALUES: the corpus's own
values (1)
values (1, 2)
values (1, 2, 3)

-- DEFAULT and a constant: the corpus's own
insert into t (a, b) values (1, 'x')
insert into t (a, b) values (1, default)

-- arguments of EXECUTE: the corpus's own
execute p
execute n (1)

-- repeated columns: with an alias
select e as r from d
select e, e from d

-- repeated columns: with a condition that is a constant
select e as q from d where true
select e, e from d
