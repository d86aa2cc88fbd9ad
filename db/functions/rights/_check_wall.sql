-- By the pattern and nothing else, before any look for the queue: the same words whether there is
-- such a queue or not. One look at an empty table where there are no walls; what is called for
-- every job takes that look itself.
create or replace function rota._check_wall(queue text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.queue_walls;

    if found and not rota._sees_queue(queue) then
        raise exception 'role % may not use queue %', rota._caller(),
            left(coalesce(queue, 'null'), 100)
            using errcode = '42501',
                  hint = format('Its walls leave it %s', (
                      select string_agg(distinct w.queue_pattern, ', ')
                      from rota._binding_walls() as w
                  ));
    end if;
end;
$$;

comment on function rota._check_wall is
    'Refuse a queue that lies behind a wall of the caller.';
