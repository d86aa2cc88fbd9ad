-- No two changes in the tz database are closer than 95 hours, so of two moments three days apart
-- with one offset none lies in between: a span is looked at in steps of three days, and only where
-- the offset differs the moment is searched for. Changes are whole seconds, and so must both ends
-- be.
create or replace function rota._zone_changes(
    time_zone text,
    utc_after timestamp,
    utc_upto timestamp
)
    returns timestamp[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if time_zone = 'UTC' then
        return '{}';
    end if;

    return array(
        select rota._local_shift(o.utc, o.next_utc, _zone_changes.time_zone)
        from (
            select
                p.utc,
                lead(p.utc) over (order by p.utc) as next_utc,
                p.offset_then,
                lead(p.offset_then) over (order by p.utc) as next_offset
            from (
                select u.utc, u.utc at time zone 'UTC' at time zone _zone_changes.time_zone - u.utc
                from (
                    select s from generate_series(utc_after, utc_upto, interval '3 days') as s
                    union
                    select greatest(utc_after, utc_upto)
                ) as u(utc)
            ) as p(utc, offset_then)
        ) as o
        where o.next_offset <> o.offset_then
        order by o.utc
    );
end;
$$;

comment on function rota._zone_changes is
    'List the moments (in UTC) after one and up to another at which a zone changes its offset.';
