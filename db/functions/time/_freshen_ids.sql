-- A standby that takes over may lack the last of what its primary did, and with it the ids that
-- were given out. People use them as keys elsewhere, so they must not come again. A failover begins
-- a new timeline: on one that is not that of the last ids they go on far beyond.
--
-- Sequences are not undone, so the row that excludes others is let go at once, by undoing the
-- block's subtransaction: nobody waits here for a transaction that stays open.
create or replace function rota._freshen_ids()
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_timeline bigint := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))
        ::bit(32)::bigint;
begin
    if pg_sequence_last_value('rota.id_timeline') is distinct from v_timeline then
        begin
            insert into rota.chores as c (chore)
            values ('jump_ids')
            on conflict (chore) do update
                set ran_at = c.ran_at;

            if pg_sequence_last_value('rota.id_timeline') is distinct from v_timeline then
                perform rota._jump_ids();
                perform setval('rota.id_timeline', v_timeline);
            end if;

            raise exception using errcode = 'RTI03';
        exception
            when sqlstate 'RTI03' then
                null;
        end;
    end if;

    perform set_config('rota.ids', 'fresh', false);

    return true;
end;
$$;

comment on function rota._freshen_ids is
    'See to it that the ids of a new timeline are none that were given out on the one before.';
