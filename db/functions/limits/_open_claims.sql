-- Every claim reads the lanes, and holds a lock of that table until its transaction ends; so does
-- whoever else reads it. Of those who were open before (null: of all), who is open still.
--
-- Who has prepared his transaction is known by the same name until the server is started again, and
-- by none of before after that (-1/...). So such a one is taken for one of them.
create or replace function rota._open_claims(open_before text[])
    returns table (virtualtransaction text, pid integer)
    language sql
    stable
as $$
    select distinct l.virtualtransaction, l.pid
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_database as d on d.oid = l.database
    where d.datname = current_database()
        and l.relation = 'rota.lanes'::regclass
        and l.pid is distinct from pg_backend_pid()
        and (
            open_before is null
            or l.virtualtransaction = any(open_before)
            or l.virtualtransaction like '-1/%'
        )
$$;

comment on function rota._open_claims is
    'Name the transactions of others that may be claims, of all or of those that were open before.';
