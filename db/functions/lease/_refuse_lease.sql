create or replace function rota._refuse_lease(lease interval)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'lease must be more than 0 and at most 30 days, not %',
        coalesce(rota._span_text(lease), 'null')
        using errcode = 'RTV01';
end;
$$;

comment on function rota._refuse_lease is
    'Refuse a lease that is born expired or would hide a dead worker for ever.';
