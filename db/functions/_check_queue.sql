create or replace function rota._check_queue(queue text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if queue is null or length(queue) not between 1 and 100 or queue ~ '[[:cntrl:]]' then
        raise exception 'queue must have 1 to 100 characters and no control characters'
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_queue is
    'Refuse what cannot be the name of a queue.';
