-- depends: 0143_waiting_counted

-- The timeline of the server on which ids were last given out: a failover begins a new one. A
-- sequence, so that reading it opens no table, and who moves the ids need not commit to be seen.
create sequence if not exists rota.id_timeline as bigint minvalue 0 start 0;

do $$
begin
    if pg_sequence_last_value('rota.id_timeline') is null then
        perform setval(
            'rota.id_timeline',
            ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
        );
    end if;
end;
$$;

insert into rota.chores (chore)
values ('jump_ids')
on conflict do nothing;
