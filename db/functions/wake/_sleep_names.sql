-- What a sleeping session locks. One name a queue, so that a producer calls nobody who serves other
-- queues; but of more than 16 queues the empty name, which no queue has and every producer looks
-- at, stands for all: locks lie in memory that is one for the whole server and no larger for many
-- queues, and where it is used up nobody can even connect. And a comma for a session that sleeps
-- for more than a second, which must be told of jobs that are due before it would look.
create or replace function rota._sleep_names(queues text[], longest interval)
    returns setof text
    language sql
    immutable
as $$
    select case when count(*) over () <= 16 then u.name else '' end
    from unnest(queues) as u(name)
    where u.name is not null
    group by u.name
    union
    select ','
    where longest > interval '1 second'
$$;

comment on function rota._sleep_names is
    'Name what a session locks while it waits for jobs of these queues.';
