drop function if exists rota._partition_name(text, timestamptz);

-- The name alone tells hours, days and weeks apart (_unfit_partitions).
create or replace function rota._partition_name(parent text, unit text, at timestamptz)
    returns text
    language sql
    stable
as $$
    select format('%s_%s', parent, to_char(at at time zone 'UTC', case unit
        when 'hour' then '"h"YYYYMMDDHH24'
        when 'day' then '"d"YYYYMMDD'
        else 'YYYYMMDD'
    end))
$$;

comment on function rota._partition_name is
    'Name the partition for the hour, day or week that begins at this time.';
