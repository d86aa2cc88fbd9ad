-- What check_invariants calls C7: it cannot be, so if it is, that is a fault of Rota, or of a hand.
create or replace function rota._explain_lost_turn(job rota.live_jobs, at timestamptz)
    returns setof rota.job_reason
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        true,
        'LOST_TURN',
        format(
            'No turn leads to it, so no claim looks for jobs of key %s and priority %s from there.',
            job.key, job.priority
        ),
        'select * from check_invariants(), which names all of them; enqueue one of that key.',
        jsonb_build_object('key', job.key, 'priority', job.priority)
    where job.key is not null
        and isfinite(job.run_at)
        and not exists (
            select
            from rota.turns as t
            where t.queue = job.queue
                and t.key = job.key
                and t.priority = job.priority
                and (t.from_run_at, t.from_id) <= (job.run_at, job.id)
                and (
                    t.is_full
                    or t.ready_at <= greatest(job.run_at, at + interval '1 second')
                )
        )
$$;

comment on function rota._explain_lost_turn is
    'Say whether no turn leads to a job with a key.';
