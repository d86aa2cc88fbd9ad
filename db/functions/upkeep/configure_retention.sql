-- One row of settings, which every caller may write: the last one wins, and maintain reads it anew.
create or replace function rota.configure_retention(retention interval)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_no_wall('configure_retention');

    if retention is null or retention not between interval '7 days' and interval '100 years' then
        raise exception 'retention must be from 7 days to 100 years, not %',
            coalesce(rota._span_text(retention), 'null')
            using errcode = 'RTV01';
    end if;

    update rota.settings as s
    set retention = configure_retention.retention;

    perform rota._record_action(
        'configure_retention',
        details => jsonb_build_object('retention', rota._span_text(retention))
    );
end;
$$;

comment on function rota.configure_retention is
    'Say how long finished jobs and executions are kept; whole weeks are dropped by maintain.';
