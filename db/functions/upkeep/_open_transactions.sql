create or replace function rota._open_transactions()
    returns text[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_stat_clear_snapshot();  -- a transaction would be shown what it saw before

    return array(
        select l.virtualtransaction
        from pg_catalog.pg_locks as l
        join pg_catalog.pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'virtualxid'
            and a.datname = current_database()
            and l.pid <> pg_backend_pid()
    );
end;
$$;

comment on function rota._open_transactions is
    'Name the transactions that are open in this database, but for our own.';
