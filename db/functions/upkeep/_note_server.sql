-- Asked by each deploy. A dump that was restored elsewhere keeps the timeline of its ids, and may
-- be older than the last of them.
create or replace function rota._note_server()
    returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now bigint := (select c.system_identifier from pg_control_system() as c);
    v_before bigint;
begin
    select s.system_identifier into v_before
    from rota.settings as s
    for no key update;

    if v_before = v_now then
        return null;
    end if;

    update rota.settings as s
    set system_identifier = v_now;

    return case when v_before is not null then rota._jump_ids() end;
end;
$$;

comment on function rota._note_server is
    'Have ids go on far beyond what was given out if the database was on another server before.';
