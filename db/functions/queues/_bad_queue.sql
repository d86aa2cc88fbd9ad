-- What a worker's command line cannot spell is no name for a queue: there "a,b" are two queues,
-- "mail:2" is a limit, and outer spaces are cut off; "mail.*" is kept free for patterns. Written so
-- that the planner can inline it.
create or replace function rota._bad_queue(queue text)
    returns text
    language sql
    stable
as $$
    select case
        when queue is null or length(queue) not between 1 and 100
            then format('queue must have 1 to 100 characters, not %s', coalesce(length(queue), 0))
        when queue ~ '[[:cntrl:]*,:]|^[[:space:]]|[[:space:]]$'
            then 'queue must not contain control characters, "*", "," or ":", nor begin or end'
                ' with a space'
    end
$$;

comment on function rota._bad_queue is
    'Say what is wrong with the name of a queue, or return null.';
