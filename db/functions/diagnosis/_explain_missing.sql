-- Behind a wall nothing is said of the ids that others draw.
create or replace function rota._explain_missing(job_id bigint, is_walled boolean)
    returns rota.job_reason
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        true,
        'UNKNOWN',
        format('There is no job %s%s.', coalesce(job_id::text, 'null'), case
            when is_walled then ''
            when not s.is_called or job_id > s.last_value then format(
                ': the last id that was given is %s',
                case when s.is_called then s.last_value::text else 'none' end
            )
            else ': what was to enqueue it has not committed, or was rolled back'
                || coalesce(
                    ', or it ended before ' || rota._utc_text(nullif(
                        greatest(t.kept_since, t.completed_since, t.failed_since), '-infinity'
                    )) || ' and is not kept any more',
                    ''
                )
        end),
        'See whether its producer committed, and to which database.',
        case when not is_walled then jsonb_build_object('last_id', s.last_value) end
    from rota.job_ids as s
    cross join rota.settings as t
$$;

comment on function rota._explain_missing is
    'Say what is known of a job that is not there.';
