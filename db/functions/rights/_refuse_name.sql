create or replace function rota._refuse_name(name text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'the name "%" is not for role %', 
        left(coalesce(name, 'null'), 200), rota._caller()
        using errcode = '42501',
              hint = format('Behind a wall names begin with %s', (
                  select string_agg(
                      distinct case when right(w.queue_pattern, 2) = '.*'
                          then left(w.queue_pattern, -1)
                          else w.queue_pattern || ':'
                      end,
                      ' or '
                  )
                  from rota._binding_walls() as w
              ));
end;
$$;

comment on function rota._refuse_name is
    'Raise the error of a name behind a wall, the same whether anything has that name or not.';
