-- A clock that was put back leaves turns that are ready when it is there again, and jobs behind
-- them that are due now. To look at a key too early costs one look. Of one that is full it is known
-- when there is room again.
create or replace function rota._mend_turns(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    update rota.turns as t
    set ready_at = at
    where t.ctid = any(array(
        select u.ctid
        from rota.turns as u
        where not u.is_full
            and u.ready_at > at + interval '1 minute'
            and u.from_run_at <= at
        for update skip locked
    ));
end;
$$;

comment on function rota._mend_turns is
    'Bring forward the turns of a clock that was put back.';
