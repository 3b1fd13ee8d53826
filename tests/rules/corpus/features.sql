-- PostgreSQL's own forms. One statement a line; groups of equal meaning are separated by a blank line.

-- constants of every form
select 1
select -1
select - 1
select - (1)
select 'x'
select E'x\n'
select $$x$$
select $tag$ x $tag$
select U&'\0041'
select N'x'
select B'101'
select X'1F'
select 1.5
select .5
select 1e10
select 1_000
select 0x1F
select null
select true
select false
select $1
select $1::int
select '5'::int
select int '5'
select date '2026-01-01'
select timestamp with time zone '2026-01-01'
select interval '1 day'
select interval '1' day
select cast('x' as text)
select 'x'::varchar(10)
select 1 as one
select 1 one
select (1)
(select 1)

select +1
select + 2

select -1::int
select - 1::int
select -(1::int)
select -($1::int)

select '1'::int::text
select 1::bigint::text

select a - 5 from t
select a-5 from t
select a -5 from t
select a - -5 from t

select a + 5 from t
select a+5 from t

-- quoting and case
select a, b from t
SELECT A, B FROM T
select "a", "b" from "t"
select a as x, b as y from t
select a x, b y from t
select all a, b from t

select "A" from t

select a from "T"

select t.user from t
select t."user" from t

select "user" from t

select user from t

select "name", "type", "key", "value" from t
select name, type, key, value from t

select "position", "time" from t
select position, time from t

-- casts
select a::int from t
select cast(a as int) from t
select cast(a as integer) from t
select a::integer from t
select (a)::int from t

select a::int4 from t

select (a + b)::int from t
select cast(a + b as int) from t

select a + b::int from t

select a::varchar from t
select a::varchar(10) from t
select cast(a as character varying(20)) from t

select a::numeric from t
select a::numeric(10,2) from t
select a::decimal(8) from t
select a::dec from t

select a::float from t
select a::double precision from t

select a::float8 from t

select a::timestamp from t
select a::timestamp without time zone from t
select a::timestamp(3) from t

select a::timestamp with time zone from t
select cast(a as timestamp(3) with time zone) from t

select a::timestamptz from t
select a::timestamptz(3) from t

select a::interval from t
select a::interval day from t

select a::int[] from t
select a::integer[] from t
select a::int array from t
select cast(a as int[]) from t

select a::text from t

select a::bool from t

select a::boolean from t

select a::s.kind from t

-- conditions
select a from t where b = 1
select a from t where (b = 1)
select a from t where ((b) = (1))
select a from t where b = null
select a from t where b = true
select a from t where b = -1

select a from t where b <> 1
select a from t where b != 1

select a from t where b < 1

select a from t where b <= 1

select a from t where b in (1)
select a from t where b in (1, 2, 3)
select a from t where b in ($1, $2)
select a from t where b in ('x')
select a from t where b in (null, -1)
select a from t where (b in (1))
select a from t where (b) in (1, 2)
select a from t where b in (1::int, 2::int)

select a from t where b not in (1)
select a from t where b not in (1, 2)

select a from t where not b in (1, 2)

select a from t where b in (c)

select a from t where b in (c, d)

select a from t where b in (select c from u)

select a from t where b = any (select c from u)

select a from t where b not in (select c from u)

select a from t where (b, c) in ((1, 2))
select a from t where (b, c) in ((1, 2), (3, 4))
select a from t where (b, c) in (($1, $2), ($3, $4), ($5, $6))

select a from t where b = any (array[1])
select a from t where b = any (array[1, 2, 3])
select a from t where b = any(array[$1, $2])
select a from t where b = some (array[1])

select a from t where b = any (array[1]::int[])
select a from t where b = any (array[1, 2]::int[])

select a from t where b = any ($1)
select a from t where b = any ('{1,2}')
select a from t where b = any ($1::int[])

select a from t where b <> all ($1)
select a from t where b != all ('{}'::int[])

select a from t where b between 1 and 2
select a from t where b between $1 and $2
select a from t where (b between 1 and 2)

select a from t where b not between 1 and 2

select a from t where b between symmetric 1 and 2

select a from t where b between 1 and 2 and c
select a from t where (b between 1 and 2) and c

select a from t where b is null
select a from t where b isnull
select a from t where (b is null)

select a from t where b is not null
select a from t where b notnull

select a from t where not b is null

select a from t where b is true

select a from t where b is not true

select a from t where b is unknown

select a from t where b is distinct from 1
select a from t where b is distinct from null

select a from t where b is not distinct from 1

select a from t where b like 'x'
select a from t where b like $1

select a from t where b ~~ 'x'

select a from t where b like 'x' escape '!'

select a from t where b not like 'x'

select a from t where b ilike 'x'

select a from t where b similar to 'x'

select a from t where b ~ 'x'

select a from t where b ~* 'x'

select a from t where b and c or d
select a from t where (b and c) or d
select a from t where ((b) and (c)) or (d)

select a from t where b and (c or d)

select a from t where b and c and d
select a from t where (b and c) and d

select a from t where b and (c and d)

select a from t where not b and c
select a from t where (not b) and c

select a from t where not (b and c)

select a from t where (not b) = c

select a from t where b = 1 or c = 2
select a from t where (b = 1) or (c = 2)
select a from t where (b = 1 or c = 2)

select a from t where exists (select 1 from u where u.b = t.b)
select a from t where exists (select 2 from u where (u.b = t.b))

select a from t where exists (select c from u where u.b = t.b)

select a from t where not exists (select 1 from u where u.b = t.b)

select a from t where b = (select max(c) from u)
select a from t where b = ((select max(c) from u))

select a from t where (b, c) = (1, 2)

select a from t where (b, c) > (1, 2)

select a from t where row(b, c) > row(1, 2)

-- arithmetic and parentheses
select a * (b + c) from t

select a * b + c from t
select (a * b) + c from t

select a + b + c from t
select (a + b) + c from t

select a + (b + c) from t

select -a from t
select - a from t

select - (a + b) from t

select a ^ b * c from t
select (a ^ b) * c from t

select a || b || 'x' from t
select (a || b) || $1 from t

select (a).b from t
select ((a)).b from t

select (a).* from t

-- json, arrays, ranges, text search
select a -> 'x' from t
select a->$1 from t

select a ->> 'x' from t
select a->>'y' from t

select a #>> '{a,b}' from t

select a from t where b @> '{"x": 1}'
select a from t where b @> $1::jsonb
select a from t where b@>'{}'

select a from t where b <@ '{"x": 1}'

select a from t where b ? 'x'

select a from t where b ?| array['x', 'y']
select a from t where b ?| array[$1]

select a from t where b && array[1, 2]
select a from t where b && array[3]

select a[1] from t
select a[2] from t

select a[b] from t

select a[1:2] from t

select array[a, b] from t

select array(select a from t)

select a <-> 'x' from t order by a <-> 'x' limit 5
select a <-> $1 from t order by a <-> $2 limit $3

select a from t where b @@ to_tsquery('english', 'x')
select a from t where b @@ to_tsquery($1, $2)

select a from t where daterange(b, c, '[]') -|- $1

select a operator(pg_catalog.+) b from t

select a at time zone 'utc' from t
select a at time zone $1 from t

select a collate "C" from t

-- functions
select now()
select NOW ( )

select current_timestamp

select current_date

select current_user

select pg_catalog.now()

select count(*) from t
select COUNT ( * ) from t

select count(a) from t

select count(distinct a) from t
select count(distinct (a)) from t

select count(*) filter (where a > 1) from t

select coalesce(a, 1) from t
select coalesce(a, $1) from t

select coalesce(a, b) from t

select nullif(a, 1) from t

select greatest(a, 1) from t

select string_agg(a, ',' order by b) from t
select string_agg(a, $1 order by b) from t

select f(a => 1)
select f(a := 2)

select f(1)
select f('x')

select f(variadic array[1, 2])

select extract(year from a) from t

select date_part('year', a) from t

select substring(a from 1 for 2) from t
select substring(a from $1 for $2) from t

select substring(a, 1, 2) from t

select trim(a) from t

select position('x' in a) from t
select position($1 in a) from t

select rank() over (partition by a order by b) from t

select rank() over w from t window w as (partition by a)

select sum(a) over (order by b rows between 1 preceding and current row) from t

select percentile_cont(0.5) within group (order by a) from t
select percentile_cont($1) within group (order by a) from t

select case when a then 1 else 2 end from t
select case when a then $1 else $2 end as x from t
select case when (a) then 1 else (2) end from t

select case a when 1 then 2 end from t

select xmlelement(name foo) from t

-- from
select a from t x
select a from t as x

select x.a from t x join u y on x.b = y.b
select x.a from t as x inner join u as y on (x.b = y.b)

select a from t left join u on t.b = u.b
select a from t left outer join u on t.b = u.b

select a from t right join u on t.b = u.b
select a from t right outer join u on t.b = u.b

select a from t full join u on t.b = u.b
select a from t full outer join u on t.b = u.b

select a from t cross join u

select a from t natural join u

select a from t join u using (b)
select a from t inner join u using (b)

select a from t join u using (c)

select a from t, u where t.b = u.b

select a from t join u on t.b = u.b join v on u.c = v.c
select a from (t join u on t.b = u.b) join v on u.c = v.c

select a from t join (u join v on u.c = v.c) on t.b = u.b

select a from only t

select s.a from (select a from t) s
select s.a from (select a from t) as s

select a from t, lateral (select b from u where u.c = t.c limit 1) x
select a from t, lateral (select b from u where u.c = t.c limit $1) as x

select a from t left join lateral (select b from u where u.c = t.c) x on true
select a from t left join lateral (select b from u where u.c = t.c) as x on $1

select * from generate_series(1, 10)
select * from generate_series($1, $2)

select * from unnest($1::int[], $2::text[])

select * from unnest(array[1, 2]) with ordinality
select * from unnest(array[3]) with ordinality

select * from t tablesample system (10)
select * from t tablesample system ($1)

select * from t
table t

select t.* from t

-- order, limit, locks
select a from t order by b

select a from t order by b asc

select a from t order by b desc

select a from t order by b desc nulls last

select a from t order by 1
select a from t order by 2

select a from t limit 1
select a from t limit $1
select a from t fetch first row only
select a from t fetch first 5 rows only
select a from t fetch next 1 row only

select a from t order by b fetch first 5 rows with ties

select a from t limit 1 offset 2
select a from t offset 2 limit 1
select a from t offset 2 rows fetch first 1 rows only

select a from t offset 1
select a from t offset 1 rows

select a from t for update

select a from t for no key update

select a from t for share

select a from t for key share

select a from t for update of t

select a from t for update nowait

select distinct a from t

select distinct on (a) b from t
select distinct on (a) b as c from t

select distinct on (a) c from t

select a from t group by a

select a from t group by a, b

select a from t group by rollup (a, b)

select a from t group by cube (a, b)

select a from t group by grouping sets ((a), (b))

select a, count(*) from t group by a having count(*) > 1
select a, count(*) as n from t group by a having (count(*) > $1)

-- set operations and CTEs
select a from t union select b from u
select a from t union distinct select b from u
(select a from t) union (select b from u)

select a from t union all select b from u
(select a from t) union all (select b from u)

(select a from t limit 1) union all select b from u

select a from t intersect select b from u

select a from t except select b from u

with x as (select a from t) select a from x

with x as materialized (select a from t) select a from x

with x (b) as (select a from t) select b from x

with recursive x as (select 1 as n union all select n + 1 from x where n < 10) select n from x
with recursive x as (select $1 as n union all select (n + $2) from x where (n < $3)) select n from x

with x as (delete from t where a = 1 returning *) insert into u select * from x

values (1, 2)
values ($1, $2)
values (1, 2), (3, 4)

-- writes
insert into t (a, b) values (1, 'x')
insert into t (a, b) values ($1, $2)
insert into t(a,b) values (1, 'x'), (2, 'y'), (3, null)
INSERT INTO "t" ("a", "b") VALUES (1, date '2026-01-01')

insert into t (a, b) values (1, now())
insert into t (a, b) values (1, now()), (2, now())

insert into t (a, b) values (1, default)
insert into t (a, b) values (1, default), (2, default)

insert into t default values

insert into t (a) select b from u

insert into t (a) values (1) on conflict do nothing

insert into t (a) values (1) on conflict (a) do nothing

insert into t (a) values (1) on conflict on constraint k do nothing

insert into t (a, b) values (1, 2) on conflict (a) do update set b = excluded.b
insert into t (a, b) values (1, 2), (3, 4) on conflict (a) do update set b = (excluded.b)

insert into t (a) values (1) returning a

insert into t (a) values (1) returning a as x
insert into t (a) values (2) returning a x

insert into t (a) values (1) returning *

insert into t overriding system value values (1)

update t set a = 1
update t set a = $1
update t set a = null

update t set a = 1 where b = 2 returning a

update t set a = a + 1 where b = 2
update t set a = (a + 1) where (b = 2)

update t set (a, b) = (1, 2)

update t set a = u.a from u where t.b = u.b

update t as x set a = 1 where x.b = 2
update t x set a = 1 where x.b = 2

delete from t

delete from t where a = 1
delete from t where a = $1

delete from t using u where t.a = u.a

delete from only t where a = 1

delete from t where current of c

merge into t using u on t.a = u.a when matched then update set b = u.b when not matched then insert (a, b) values (u.a, u.b)
merge into t using u on (t.a = u.a) when matched then update set b = u.b when not matched then insert (a, b) values (u.a, u.b)

merge into t using u on t.a = u.a when matched and u.b = 1 then delete
merge into t using u on t.a = u.a when matched and (u.b = $1) then delete
