-- For _keep_weeks, which has locked the parent against everybody. So only who uses a partition
-- directly can hold it (autovacuum, for one), and is not waited for. Each stands for itself: what
-- keeps one from being dropped (somebody's view on it) stops no other. From when on all is kept is
-- noted in a row that maintain has locked.
create or replace function rota._drop_partitions(parent text, older_than timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
    v_end timestamptz;
    v_held boolean;
    v_detail text;
begin
    for v_name, v_end in
        select p.name, p.ends_at
        from rota._history_parts(parent) as p
        where p.name = any(rota._expired_weeks(parent, older_than))
        order by p.ends_at
    loop
        begin
            execute format('lock table rota.%I in access exclusive mode nowait', v_name);
            execute format('select exists (select from rota.%I)', v_name) into v_held;
            execute format('drop table rota.%I', v_name);

            update rota.settings as s
            set kept_since = v_end
            where parent <> 'receipts' and s.kept_since < v_end;

            update rota.settings as s
            set completed_since = v_end
            where parent = 'receipts' and v_held and s.completed_since < v_end;
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
    'Drop the partitions of a history table that ended before this time.';
