-- For maintain, when the hours of receipts are there: what came before would have to be moved out
-- of the default partition, while all wait. A lane that somebody holds is left to the next call.
create or replace function rota._mark_lanes(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_has_room boolean := exists (
        select
        from rota._history_parts('receipts') as p
        where p.starts_at <= at and p.ends_at > at
    );
begin
    update rota.lanes as l
    set unkept = case when l.unkept then null else true end
    where l.ctid = any(array(
        select m.ctid
        from rota.lanes as m
        where coalesce(m.unkept, false)
            <> (v_has_room and m.retired_at is null and rota._keeps_nothing(m.queue) is true)
        for no key update skip locked
    ));
end;
$$;

comment on function rota._mark_lanes is
    'Tell claims whose jobs leave a receipt and nothing else when they complete.';
