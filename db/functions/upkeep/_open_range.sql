-- Reads the catalogue. The bounds of a partition can be had as text only, written in the styles of
-- the session, hence the settings.
create or replace function rota._open_range(
    parent text,
    inout starts_at timestamptz,
    inout ends_at timestamptz
)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
as $$
declare
    v_taken record;
begin
    for v_taken in
        select
            substring(b.bound from 'FROM [(]''([^'']+)''[)]')::timestamptz as starts_at,
            substring(b.bound from 'TO [(]''([^'']+)''[)]')::timestamptz as ends_at
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        cross join lateral pg_get_expr(c.relpartbound, c.oid) as b(bound)
        where i.inhparent = ('rota.' || quote_ident(parent))::regclass
            and b.bound <> 'DEFAULT'
        order by 1
    loop
        if v_taken.starts_at <= _open_range.starts_at then
            starts_at := greatest(_open_range.starts_at, v_taken.ends_at);
        else
            ends_at := least(_open_range.ends_at, v_taken.starts_at);
        end if;
    end loop;
end;
$$;

comment on function rota._open_range is
    'Cut from a range of time, at its two ends, what a partition holds already.';
