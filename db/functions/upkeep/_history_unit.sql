-- As fine as the shortest time for which something is kept asks for, and so coarse that the longest
-- one does not make more than a hundred of them: each look by id opens all. Receipts have their
-- hours where somebody leaves any.
create or replace function rota._history_unit(parent text)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when parent = 'receipts' then case when min(k.span) = interval '0' then 'hour' end
        when min(k.span) filter (where k.span > interval '0') <= interval '2 days'
            and max(k.span) <= interval '4 days'
            then 'hour'
        when min(k.span) filter (where k.span > interval '0') <= interval '60 days'
            and max(k.span) <= interval '100 days'
            then 'day'
        else 'week'
    end
    from rota._kept_spans() as k
$$;

comment on function rota._history_unit is
    'Tell whether the next partitions of a history table are hours, days or weeks; null for none.';
