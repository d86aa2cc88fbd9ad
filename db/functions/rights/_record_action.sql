-- Written in the transaction of what it tells of, and so undone with it. Nobody reads or locks the
-- row before that ends. What was passed in is cut, so that nobody fills the log.
create or replace function rota._record_action(
    function text,
    job_id bigint default null,
    queue text default null,
    schedule text default null,
    token_id bigint default null,
    affected bigint default 1,
    details jsonb default '{}'
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_details jsonb := jsonb_strip_nulls(details);
begin
    if octet_length(v_details::text) > 4000 then
        v_details := jsonb_build_object('cut', left(v_details::text, 1000));
    end if;

    insert into rota.action_log (
        at, actor, function, job_id, queue, schedule, token_id, affected, details
    )
    values (
        rota._now(), rota._caller(), function, job_id, queue, left(schedule, 200), token_id,
        affected, v_details
    );
end;
$$;

comment on function rota._record_action is
    'Write down what an operator does.';
