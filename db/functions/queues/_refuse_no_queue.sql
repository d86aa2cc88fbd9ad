create or replace function rota._refuse_no_queue(queue text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_queue(queue);

    raise exception 'there is no queue %', queue
        using errcode = 'RTN03',
              hint = 'A queue begins with its first job, or with configure_queue.';
end;
$$;

comment on function rota._refuse_no_queue is
    'Raise the error of a queue that nobody has used or configured.';
