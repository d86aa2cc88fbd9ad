-- For maintain, under a lock timeout. Rows go first, and none is waited for. Then the parent is
-- locked against everybody, if there is anything to do, before any partition: whoever reads or
-- writes waits there, before he has learned what partitions there are, and finds the new ones. Were
-- a reader to wait for the default partition instead, he would look for its rows where they no
-- longer are, and a finish would choose it for a row that it may not hold any more.
create or replace function rota._keep_weeks(
    parent text,
    at timestamptz,
    older_than timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_unit text := rota._history_unit(parent);
    v_missing timestamptz[] := rota._missing_weeks(parent, v_unit, at, older_than);
    v_unfit text[] := rota._unfit_partitions(parent, v_unit, at);
    v_name text;
    v_start timestamptz;
    v_held boolean;
    v_rows bigint;
    v_detail text;
begin
    execute format(
        'delete from only rota.%1$I as f
        where f.ctid = any(array(
            select o.ctid
            from only rota.%1$I as o
            where o.finished_at < $1
            limit 10000
            for update skip locked
        ))',
        parent || '_default'
    ) using older_than;
    get diagnostics v_rows = row_count;

    update rota.settings as s
    set kept_since = older_than
    where parent <> 'receipts' and v_rows > 0 and s.kept_since < older_than;

    update rota.settings as s
    set completed_since = older_than
    where parent = 'receipts' and v_rows > 0 and s.completed_since < older_than;

    if v_missing = '{}' and v_unfit = '{}'
        and rota._expired_weeks(parent, older_than) = '{}'
    then
        return;
    end if;

    begin
        execute format('lock table only rota.%I in access exclusive mode', parent);
    exception
        when lock_not_available then
            raise warning 'rota.% is in use, its partitions are left to the next maintain', parent;
            return;
    end;

    foreach v_name in array v_unfit loop
        begin
            execute format('lock table rota.%I in access exclusive mode nowait', v_name);
            execute format('select exists (select from rota.%I)', v_name) into v_held;

            if not v_held then
                execute format('drop table rota.%I', v_name);
                v_missing := null;
            end if;
        exception
            when others then
                raise warning 'rota.%, which is not needed, could not be dropped: %',
                    v_name, sqlerrm;
        end;
    end loop;

    v_missing := coalesce(
        v_missing, rota._missing_weeks(parent, v_unit, at, older_than)
    );

    begin
        if v_missing <> '{}' then
            execute format('lock table rota.%I in access exclusive mode', parent || '_default');
        end if;
    exception
        when lock_not_available then
            raise warning 'rota.%_default is in use, new ones are left to the next maintain',
                parent;
            v_missing := '{}';
    end;

    foreach v_start in array v_missing loop
        begin
            perform rota._make_partition(parent, v_start, coalesce(v_unit, 'hour'));
        exception
            when others then
                get stacked diagnostics v_detail = pg_exception_detail;
                raise warning 'rota.% could not be made: %',
                    rota._partition_name(parent, coalesce(v_unit, 'hour'), v_start),
                    concat_ws('; ', sqlerrm, nullif(v_detail, ''));
        end;
    end loop;

    perform rota._drop_partitions(parent, older_than);
end;
$$;

comment on function rota._keep_weeks is
    'Make the partitions that a history table lacks, and drop those that expired or do not fit.';
