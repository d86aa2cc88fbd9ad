-- For _keep_weeks, which has locked the parent against everybody. So only who uses a partition
-- directly can hold it (autovacuum, for one), and is not waited for. Each week stands for itself:
-- what keeps one from being dropped (somebody's view on it) stops no other. From when on all is
-- kept is noted in a row that maintain has locked.
create or replace function rota._drop_partitions(parent text, older_than timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
    v_end timestamptz;
    v_detail text;
begin
    foreach v_name in array rota._expired_weeks(parent, older_than) loop
        begin
            execute format('lock table rota.%I in access exclusive mode nowait', v_name);
            execute format('drop table rota.%I', v_name);

            v_end := (to_date(right(v_name, 8), 'YYYYMMDD') + 7)::timestamp at time zone 'UTC';

            update rota.settings as s
            set kept_since = v_end
            where s.kept_since < v_end;
        exception
            when others then
                get stacked diagnostics v_detail = pg_exception_detail;
                raise warning 'rota.% could not be dropped: %',
                    v_name, concat_ws('; ', sqlerrm, nullif(v_detail, ''));
        end;
    end loop;
end;
$$;

comment on function rota._drop_partitions is
    'Drop the weeks of a history table that ended before this time.';
