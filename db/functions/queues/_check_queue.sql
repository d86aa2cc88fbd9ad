-- A queue that exists may keep the name that it got while more names were allowed.
create or replace function rota._check_queue(queue text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_complaint text := rota._bad_queue(queue);
begin
    if v_complaint is not null and not rota._is_queue(queue) then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_queue is
    'Refuse what cannot be the name of a queue.';
