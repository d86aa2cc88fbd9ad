-- Pure arithmetic on its argument. The special items are taken out first; what is left goes
-- through _cron_field, which raises what neither of the two understands.
create or replace function rota._cron_weekdays(entry text)
    returns bigint
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_names constant text[] := array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT'];
    v_bits bigint := 0;
    v_item text;
    v_parts text[];
    v_days bigint;
    v_week integer;
begin
    if entry !~ '[L#]' then
        v_days := rota._cron_field(entry, 'day-of-week', 0, 7, v_names);
        return (v_days | (v_days >> 7)) & 127;
    end if;

    foreach v_item in array string_to_array(entry, ',') loop
        v_parts := regexp_match(v_item, '^([0-7]|[A-Z]{3})(?:#([1-5])|L)$');
        v_days := rota._cron_field(
            coalesce(v_parts[1], v_item), 'day-of-week', 0, 7, v_names
        );
        v_week := case
            when v_parts is null then 0
            else coalesce(v_parts[2], '6')::integer
        end;
        -- 7 is Sunday as 0 is
        v_bits := v_bits | (((v_days | (v_days >> 7)) & 127) << (7 * v_week));
    end loop;

    return v_bits;
end;
$$;

comment on function rota._cron_weekdays is
    'Read the day-of-week field: bit 7 * n + d is weekday d (Sunday is 0) in any week (n = 0), '
    'the n-th time in its month (n from 1 to 5), or the last time (n = 6).';
