-- Utility commands and DDL. One statement a line; groups of equal meaning are separated by a blank line.

set a = 1
set a = 'x'
set a to 5
set session a = 1
set a = on
set a = b, c

set local a = 1
set local a to 'x'

set a to default
set session a = default

set b.c = 'x'

set time zone 'utc'
set timezone = 'x'
set timezone to 'y'

set search_path to a, public
set search_path = 'b'

set names 'utf8'
set client_encoding to latin1

set role a
set role none

set session authorization a
set session authorization 'b'

set transaction isolation level serializable
set transaction isolation level read committed

set transaction read only

set session characteristics as transaction read only

set constraints all deferred

reset a

reset all

reset role

show a

show all

show search_path

discard all

discard plans

discard temp
discard temporary

commit and chain

prepare transaction 'x'
prepare transaction 'y'

commit prepared 'x'
commit prepared 'y'

rollback prepared 'x'

declare c cursor for select a from t where b = 1
declare d cursor for select a from t where (b = $1)

declare c no scroll cursor with hold for select a from t

fetch 1 from c
fetch next from d
fetch c
fetch forward 1 in c
fetch forward from c

fetch 100 from c
fetch forward 100 from d

fetch all from c

fetch backward 10 from c

move 10 from c

close c
close d
close all

prepare p as select a from t where b = $1
prepare q as select a from t where b = 1

prepare p (int) as select a from t where b = $1

execute p
execute q

deallocate p
deallocate prepare q

deallocate all

listen a
listen b

unlisten a
unlisten *

notify a
notify b

lock table t
lock t

lock t in share mode

truncate t
truncate table t

truncate t, u

truncate t restart identity cascade

copy t from stdin

copy t (a, b) from stdin

copy t to stdout

copy t from stdin with (format csv)
copy t from stdin (format csv)

copy t from stdin with (format binary)

copy (select a from t where b = 1) to stdout
copy (select a from t where b = 2) to stdout

vacuum

vacuum t

vacuum full t

analyze
analyse

analyze t
analyse t

explain select a from t where b = 1
explain select a from t where (b = $1)

explain analyze select a from t where b = 1

explain (format json) select a from t where b = 1

call p(1)
call p($1)

call q(1)

do $$begin perform 1; end$$
do 'begin null; end'

checkpoint

refresh materialized view v

refresh materialized view concurrently v

reindex table t

cluster t

create table t (a int)
create table t (a integer)
CREATE TABLE "t" ("a" int)

create table t (b int)

create table t (a int4)

create table if not exists t (a int)

create temp table t (a int)
create temporary table t (a int)

create unlogged table t (a int)

create table t (a int primary key)

create table t (a int, primary key (a))

create table t (a int not null)

create table t (a int null)

create table t (a varchar(10))
create table t (a character varying(20))
create table t (a varchar)

create table t (a numeric(10,2))
create table t (a decimal(8,1))

create table t (a bigserial)

create table t (a int references u (b) on delete set null)

create table t (a int references u (b) on delete cascade)

create table t (a int generated always as identity)

create table t (a text check (a <> ''))
create table t (a text check (a <> 'x'))

create table t (like u including all)

create table t (a int) partition by range (a)

create table t as select a from u where b = 1
create table t as select a from u where b = 2

create index i on t (a)
create index i on t using btree (a)

create index concurrently i on t (a)

create unique index i on t (a)

create index j on t (a)

create index on t (a)

create index i on t using gin (a)

create index i on t (lower(a))

create index i on t (a desc)

create index i on t (a) where b is null

create view v as select a from t

create or replace view v as select a from t

create materialized view v as select a from t

create sequence s

create sequence s start 10

create schema s

create schema if not exists s

create extension if not exists x

create type k as enum ('a', 'b')

create function f() returns int language sql as 'select 1'
create function f() returns int language sql as $$select 2$$

create function f() returns int language sql begin atomic select 1; select 2; end

create trigger g before insert on t for each row execute function f()

create role u

create role u login password 'x'

create policy p on t using (a = current_user)

create database d

alter table t add a int
alter table t add column a int

alter table t add b int

alter table t drop a
alter table t drop column a

alter table t alter a set not null
alter table t alter column a set not null

alter table t alter a set default 1

alter table t rename a to b
alter table t rename column a to b

alter table t rename to u

alter table t add constraint k unique (a)

alter table t add constraint k foreign key (a) references u (b)

alter table t enable row level security

alter sequence s restart

alter role u password 'x'

alter system set a = 1

drop table t
drop table t restrict
DROP TABLE "t"

drop table t cascade

drop table if exists t

drop table t, u

drop table u

drop index i

drop view v

drop function f(int)

grant select on t to u
grant select on table t to u

grant select on t to v

grant all on t to u

grant insert, update on t to u

revoke select on t from u

grant a to b

import foreign schema a from server b into c

security label on table t is 'x'
