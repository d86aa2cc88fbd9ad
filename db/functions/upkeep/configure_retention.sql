drop function if exists rota.configure_retention(interval);

-- One row of settings, which every caller may write: the last one wins, and maintain reads it anew.
-- Lanes come after it, and nobody who holds one waits for settings.
create or replace function rota.configure_retention(
    retention interval default null,
    keep_completed interval default null,
    keep_failed interval default null
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_complaint text := coalesce(
        case when num_nonnulls(retention, keep_completed, keep_failed) = 0
            then 'retention, keep_completed or keep_failed must be given'
        end,
        rota._bad_keep('retention', retention, false),
        rota._bad_keep('keep_completed', keep_completed, true),
        rota._bad_keep('keep_failed', keep_failed, false)
    );
begin
    perform rota._check_no_wall('configure_retention');

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    update rota.settings as s
    set retention = coalesce(configure_retention.retention, s.retention),
        keep_completed = coalesce(configure_retention.keep_completed, s.keep_completed),
        keep_failed = coalesce(configure_retention.keep_failed, s.keep_failed);

    perform rota._keep_again(null);

    perform rota._record_action(
        'configure_retention',
        details => jsonb_strip_nulls(jsonb_build_object(
            'retention', rota._span_text(retention),
            'keep_completed', rota._span_text(keep_completed),
            'keep_failed', rota._span_text(keep_failed)
        ))
    );
end;
$$;

comment on function rota.configure_retention is
    'Say how long ended jobs and executions are kept, those that succeeded and all others; what is'
    ' left out stays as it is.';
