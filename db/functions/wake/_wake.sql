-- NOTIFY takes a lock that is one for the whole server and holds it until the commit is on disk,
-- so it is sent only when somebody sleeps. A worker that falls asleep between this look and our
-- commit finds the job by the quick looks that follow its falling asleep, or by its poll.
drop function if exists rota._wake(text);
drop function if exists rota._wake(text, timestamptz, timestamptz);

create or replace function rota._wake(
    queue text,
    run_at timestamptz,
    at timestamptz
)
    returns boolean
    language sql
    volatile
as $$
    select rota._nobody_sleeps(queue, run_at, at) or pg_notify('rota_jobs', queue) is not null
$$;

comment on function rota._wake is
    'Notify those workers of a queue who would look for a job that is due at that time too late.';
