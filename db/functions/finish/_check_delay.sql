create or replace function rota._check_delay(parameter text, delay interval)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if delay not between interval '0' and interval '366 days'
        or timestamp '2001-02-01' + delay < timestamp '2001-02-01'  -- see _leads_on
    then
        raise exception '% must be from 0 to 366 days, not %', parameter,
            rota._span_text(delay)
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_delay is
    'Refuse a delay that is negative or would never end.';
