-- One row lock. A queue that was never paused is left as it is.
create or replace function rota.resume_queue(queue text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
begin
    perform rota._check_wall(queue);

    if not rota._is_queue(queue) then
        perform rota._refuse_no_queue(queue);
    end if;

    update rota.queues as q
    set paused_at = null
    where q.name = queue and q.paused_at is not null;

    perform rota._wake(queue, v_now, v_now);
    perform rota._record_action('resume_queue', queue => queue);
end;
$$;

comment on function rota.resume_queue is
    'Let claims take jobs from a paused queue again.';
