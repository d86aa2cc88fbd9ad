-- Those who read walls do not wait, those who change them do. At higher levels a call could not see
-- what the one before it has changed.
create or replace function rota._lock_walls()
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'walls can be changed at READ COMMITTED only, not at %',
            upper(current_setting('transaction_isolation') collate "C")
            using errcode = 'RTC04';
    end if;

    lock table rota.queue_walls in share row exclusive mode;
end;
$$;

comment on function rota._lock_walls is
    'Have one session at a time change walls.';
