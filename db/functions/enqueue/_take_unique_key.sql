-- For a job that is to be added with unique_for, in a function that plans by index
-- (db/settings.sql). The primary key decides: of two calls the second waits at it, and then finds
-- what the first has left. A row changes hands only as it was seen, when its time was over and its
-- job was not live; if it is another one by then, it is looked at anew. First comes a look without
-- a lock, so calls that find the key taken write nothing and wait for nobody.
--
-- A live job may have the key without unique_for. One that is added just now is met at the unique
-- index of live_jobs, by the caller, who then gives the row back. The other way round that index
-- holds, too: a job with unique_for has its unique_key there as any other. It is looked for by its
-- key alone (queue || ''): a plan made while the table is empty would take the lanes of its queue.
create or replace function rota._take_unique_key(
    queue text,
    unique_key text,
    unique_for interval,
    at timestamptz
)
    returns rota.enqueued_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id bigint;
    v_is_taken boolean;
begin
    loop
        select
            u.job_id,
            u.until > at or exists (select from rota.live_jobs as j where j.id = u.job_id)
        into v_job_id, v_is_taken
        from rota.unique_keys as u
        where u.queue = _take_unique_key.queue and u.unique_key = _take_unique_key.unique_key;

        if v_is_taken then
            return row(v_job_id, false)::rota.enqueued_job;
        end if;

        insert into rota.unique_keys as u (queue, unique_key, job_id, until)
        select
            _take_unique_key.queue,
            _take_unique_key.unique_key,
            nextval('rota.job_ids'),
            rota._later(at, unique_for)
        where not exists (
            select from rota.live_jobs as j
            where j.unique_key = _take_unique_key.unique_key
                and j.queue || '' = _take_unique_key.queue
        )
        on conflict on constraint unique_keys_pkey do update
        set job_id = excluded.job_id,
            until = excluded.until
        where u.job_id = v_job_id
        returning u.job_id into v_job_id;

        if found then
            return row(v_job_id, true)::rota.enqueued_job;
        end if;

        select j.id into v_job_id
        from rota.live_jobs as j
        where j.unique_key = _take_unique_key.unique_key
            and j.queue || '' = _take_unique_key.queue;

        exit when found;
    end loop;

    return row(v_job_id, false)::rota.enqueued_job;
end;
$$;

comment on function rota._take_unique_key is
    'Take a unique_key for a time, for a job that gets this id; or return the job that has it.';
