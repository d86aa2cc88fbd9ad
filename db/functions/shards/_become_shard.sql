-- Ids go on with those that are the database's own alone: id % 1024 is its number. They begin
-- beyond what any of the others gave while it was alone, whose ids do not tell. The increment
-- is the same however many there are, so that others can be added, and whatever moves the sequence
-- (_jump_ids, _next_job_id) moves it by so many increments. As in _heal_job_ids, ALTER SEQUENCE has
-- nextval wait until the transaction ends. Done already, it changes nothing.
create or replace function rota._become_shard(shard integer, beyond bigint default 0)
    returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_is integer;
    v_increment bigint;
    v_value bigint;
    v_given bigint;
    v_next bigint;
begin
    select s.shard into v_is
    from rota.settings as s
    for no key update;

    if v_is <> _become_shard.shard then
        raise exception 'this database is shard % already', v_is
            using errcode = 'RTV01';
    end if;

    alter sequence rota.job_ids owned by none;

    select s.seqincrement into v_increment
    from pg_catalog.pg_sequence as s
    where s.seqrelid = 'rota.job_ids'::regclass;

    select i.last_value, i.last_value - (not i.is_called)::integer into v_value, v_given
    from rota.job_ids as i;

    if v_is is not null and v_increment = 1024 and v_value % 1024 = v_is then
        return null;
    end if;

    v_next := greatest(v_given, beyond) + 1;
    v_next := v_next + (_become_shard.shard - v_next % 1024 + 1024) % 1024;
    execute format('alter sequence rota.job_ids increment by 1024 restart with %s', v_next);

    update rota.settings as s
    set shard = _become_shard.shard,
        ids_from = coalesce(s.ids_from, v_next),
        ids_before = coalesce(s.ids_before, v_given);

    return v_next;
end;
$$;

comment on function rota._become_shard is
    'Make this one of several databases, and say from which id on its ids tell which.';
