-- What was given is no more than half of it: the start that a schedule keeps, or now, counts too.
create or replace function rota._check_span(starts_at timestamptz, ends_at timestamptz)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if ends_at <= starts_at then
        raise exception 'ends_at must be later than starts_at, which is %',
            to_char(starts_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"')
            using errcode = 'RTV01',
                  hint = 'A schedule that is saved again keeps its starts_at unless another is '
                      'given; a new one starts now.';
    end if;
end;
$$;

comment on function rota._check_span is
    'Refuse a schedule that ends before it starts.';
