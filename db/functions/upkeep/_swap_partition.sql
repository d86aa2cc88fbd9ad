-- The copy takes the place of a partition. What came or went since it was made is done to it first,
-- in a transaction of its own. No snapshot is left then that is older than the copies: a finish
-- that is repeated, and waits here for the lock of the parent, looks with its own, and must find in
-- the copy what it would have found. Whoever comes to the parent waits before he has learned what
-- partitions there are. False if somebody is in the way, who is waited for no longer than
-- lock_timeout. The check by which attaching need not read the copy is gone when it is attached.
create or replace function rota._swap_partition(part rota.thinned)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_copy constant text := part.part || '_thin';
    v_key constant text := case part.parent when 'attempts' then 'job_id' else 'id' end;
    v_changed bigint[];
begin
    v_changed := array(
        select c.job_id
        from rota.thinned_changes as c
        where c.part = _swap_partition.part.part
    );

    if v_changed <> '{}' then
        delete from rota.thinned_changes as c
        where c.part = _swap_partition.part.part and c.job_id = any(v_changed);

        execute format('delete from rota.%I as f where f.%I = any($1)', v_copy, v_key)
        using v_changed;
        execute format(
            'insert into rota.%I select f.* from only rota.%I as f where f.%I = any($1)',
            v_copy, part.part, v_key
        )
        using v_changed;

        update rota.thinned as t
        set xid = pg_current_xact_id(),
            open = null
        where t.part = _swap_partition.part.part;

        return false;
    end if;

    perform
    from rota.settings as s
    for no key update skip locked;

    if not found then
        return false;  -- nothing goes while somebody changes how long it is kept
    end if;

    begin
        execute format('lock table only rota.%I in access exclusive mode', part.parent);
        execute format('lock table rota.%I in access exclusive mode', part.part);
        execute format('lock table rota.%I in access exclusive mode', part.parent || '_default');

        if exists (
            select from rota.thinned_changes as c where c.part = _swap_partition.part.part
        ) then
            return false;
        end if;
    exception
        when lock_not_available then
            raise warning 'rota.% is in use: what ran out in % is left to later', part.parent,
                part.part;
            return false;
    end;

    execute format('alter table rota.%I detach partition rota.%I', part.parent, part.part);
    execute format('drop table rota.%I', part.part);
    execute format('alter table rota.%I rename to %I', v_copy, part.part);
    execute format(
        'alter table rota.%I attach partition rota.%I for values from (%L) to (%L)',
        part.parent, part.part, rota._utc_text(part.starts_at), rota._utc_text(part.ends_at)
    );
    execute format('alter table rota.%I drop constraint within_its_time', part.part);
    perform rota._note_gone(part, part.removed_completed, part.removed_failed);

    return true;
end;
$$;

comment on function rota._swap_partition is
    'Put the copy of a partition, from which has gone what ran out, in its place.';
