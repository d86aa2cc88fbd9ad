-- One action is recorded for a bulk, if it changed anything.
create or replace function rota._bulk_outcome(
    function text,
    filter jsonb,
    reason text,
    max_jobs integer,
    dry_run boolean,
    matched bigint[],
    changed bigint[]
)
    returns rota.bulk_outcome
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if changed <> '{}' then
        perform rota._record_action(
            function,
            queue => filter ->> 'queue',
            affected => cardinality(changed),
            details => jsonb_build_object(
                'filter', filter - 'ids', 'reason', reason, 'job_ids', changed[:100]
            )
        );
    end if;

    return row(
        least(cardinality(matched), max_jobs),
        cardinality(changed),
        cardinality(matched) > max_jobs,
        case when dry_run is false then changed[:1000] else matched[:least(max_jobs, 1000)] end
    )::rota.bulk_outcome;
end;
$$;

comment on function rota._bulk_outcome is
    'Say what came of a bulk, and record it.';
