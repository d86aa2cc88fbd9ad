-- Pure arithmetic on its argument. The special items are taken out first; what is left goes
-- through _cron_field, which raises what neither of the two understands.
create or replace function rota._cron_monthdays(
    entry text,
    out days bigint,
    out last_days bigint
)
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_item text;
    v_back integer;
begin
    last_days := 0;
    if entry !~ '[LW]' then
        days := rota._cron_field(entry, 'day-of-month', 1, 31);
        return;
    end if;

    days := 0;
    foreach v_item in array string_to_array(entry, ',') loop
        v_back := substring(v_item from '^L-([0-9]{1,2})$')::integer;
        if v_item = 'L' then
            last_days := last_days | 1;
        elsif v_item = 'LW' then
            last_days := last_days | (1::bigint << 31);
        elsif v_back <= 30 then
            last_days := last_days | (1::bigint << v_back);
        elsif v_item ~ '^[0-9]{1,2}W$' then
            days := days | (rota._cron_field(rtrim(v_item, 'W'), 'day-of-month', 1, 31) << 31);
        else
            days := days | rota._cron_field(v_item, 'day-of-month', 1, 31);
        end if;
    end loop;
end;
$$;

comment on function rota._cron_monthdays is
    'Read the day-of-month field: in days bit n is day n and bit 31 + n the weekday nearest to it; '
    'in last_days bit n is n days before the last and bit 31 the last weekday.';
