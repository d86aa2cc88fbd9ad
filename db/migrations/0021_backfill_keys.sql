-- depends: 0020_replica_identity

-- The unique key of a backfilled slot was once written in the session's DateStyle, and 'SQL, DMY'
-- wrote for the first of February what 'SQL, MDY' does for the second of January. It is ISO now, as
-- it was wherever nobody had changed DateStyle. Keys in another style are written anew, so that a
-- backfill that is repeated after an upgrade still finds the jobs of the one before. A slot that
-- had been added twice, in two styles, keeps both its jobs.
do $$
declare
    v_style text;
begin
    foreach v_style in array array[
        'SQL, DMY', 'SQL, MDY', 'Postgres, DMY', 'Postgres, MDY', 'German'
    ]
    loop
        perform pg_catalog.set_config('datestyle', v_style, true);

        update rota.live_jobs as j
        set unique_key = split_part(j.unique_key, ' for ', 1) || ' for '
            || replace(to_jsonb(j.scheduled_for at time zone 'UTC') #>> '{}', 'T', ' ')
        where j.unique_key is not null
            and j.unique_key like 'backfill of job %'
            and split_part(j.unique_key, ' for ', 2) = (j.scheduled_for at time zone 'UTC')::text
            and not exists (
                select
                from rota.live_jobs as k
                where k.unique_key = split_part(j.unique_key, ' for ', 1) || ' for '
                    || replace(to_jsonb(j.scheduled_for at time zone 'UTC') #>> '{}', 'T', ' ')
            );
    end loop;
end;
$$;
