-- Of weeks that were made ahead none is to stand in the way of the hours that are wanted now. What
-- has begun goes on.
create or replace function rota._unfit_partitions(parent text, unit text, at timestamptz)
    returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(
        select p.name
        from rota._history_parts(parent) as p
        where p.starts_at > at
            and p.name <> rota._partition_name(parent, unit, date_trunc(unit, p.starts_at, 'UTC'))
    )
$$;

comment on function rota._unfit_partitions is
    'Name the partitions yet to come that are not of this length.';
