create or replace function rota._check_step(parameter text, name text)
    returns void
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or length(name) not between 1 and 200 or name ~ '[[:cntrl:]]' then
        raise exception '% must have 1 to 200 characters and no control characters', parameter
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_step is
    'Refuse what cannot be the name of a step or an event.';
