-- The name alone says which week it is: retention reads it (_keep_weeks).
create or replace function rota._partition_name(parent text, week timestamptz)
    returns text
    language sql
    stable
as $$
    select format('%s_%s', parent, to_char(week at time zone 'UTC', 'YYYYMMDD'))
$$;

comment on function rota._partition_name is
    'Name the partition that holds the week that begins at this time.';
