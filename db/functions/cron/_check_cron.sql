-- What next_run can answer today it can answer from any later moment: expressions repeat within 40
-- years. Only new rules of the zone can change that.
create or replace function rota._check_cron(cron text, time_zone text)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if cron is null or time_zone is null then
        raise exception '% must not be null',
            case when cron is null then 'cron' else 'time_zone' end
            using errcode = 'RTV02';
    end if;

    perform rota.next_run(cron, _check_cron.time_zone, rota._now());
end;
$$;

comment on function rota._check_cron is
    'Raise RTV02 unless a cron expression can come due in a time zone.';
