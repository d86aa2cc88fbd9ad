-- Logical replication does not copy sequences, nor does a dump of data alone, and one that lies
-- behind gives ids twice, which nothing refuses where the first job of an id has finished.
-- The sequence only ever moves up: ALTER SEQUENCE has nextval wait until the transaction ends, so
-- what is read after it stays true until the move. The first one changes nothing but takes that
-- lock; the second moves, and makes other sessions forget the ids that they keep in store.
-- On a healthy database neither is done. A shard's increment and start are kept.
create or replace function rota._heal_job_ids()
    returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_next numeric;
begin
    if rota._id_ahead() is null then
        return null;
    end if;

    alter sequence rota.job_ids owned by none;
    v_next := rota._next_job_id(rota._id_ahead());

    if v_next is null or v_next = rota._next_job_id()
        or v_next > (
            select s.seqmax
            from pg_catalog.pg_sequence as s
            where s.seqrelid = 'rota.job_ids'::regclass
        )
    then
        return null;
    end if;

    execute format('alter sequence rota.job_ids restart with %s', v_next);
    return v_next;
end;
$$;

comment on function rota._heal_job_ids is
    'Move the sequence of ids beyond every id in use, unless it is, and say where it goes on.';
