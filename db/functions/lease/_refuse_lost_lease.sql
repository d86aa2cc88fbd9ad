create or replace function rota._refuse_lost_lease(job_id bigint)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'job % is not held under this token', coalesce(job_id::text, 'null')
        using errcode = 'RTC02',
              hint = 'The lease ran out and was taken back, or the attempt has ended;'
                  ' discard this result.';
end;
$$;

comment on function rota._refuse_lost_lease is
    'Raise the one error that a late worker gets.';
