-- Where the fingerprint takes for one what libpg_query's tells apart. Each group: `-- name: reason`, then statements that
-- are one here and all different for libpg_query.

-- text of COMMENT ON: a string is a value wherever it stands, and may be a secret
comment on table t is 'x'
comment on table t is 'y'

-- file of COPY: as above
copy t from '/tmp/x'
copy t from '/tmp/y'

-- password of a role: as above
create role u login password 'x'
create role u login password 'y'

-- password of a role: as above
alter role u password 'x'
alter role u password 'y'
