-- Pure arithmetic on its arguments and the server's time zone data; it takes no lock and always
-- ends: each turn of the loop moves on in local time or in UTC, and _cron_next_local gives up
-- after 60 years without a match, the loop after 60 years of matches that the zone skips.
--
-- Expressions of fixed times (no star and no step in minute and hour) run once for each local time
-- they name: a time that comes twice at its first occurrence, a time that is skipped at the end of
-- the gap. The others run at every moment whose local time they match, neither more nor less.
create or replace function rota.next_run(
    cron text,
    time_zone text,
    after timestamptz
)
    returns timestamptz
    language plpgsql
    stable
    strict
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_spec record;
    v_utc timestamp;
    v_local timestamp;
    v_next timestamp;
    v_ahead interval;
    v_instant timestamp;
    v_give_up timestamp;
begin
    if after not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00' then
        raise exception 'after must lie between the years 1 and 9998, not at %',
            rota._utc_text(after)
            using errcode = 'RTV01';
    end if;
    perform rota._check_zone(next_run.time_zone);
    v_spec := rota._cron_parse(cron);

    -- matches are whole seconds, so the fraction of a moment that itself is excluded may go
    v_utc := date_trunc('second', after at time zone 'UTC');
    v_local := v_utc at time zone 'UTC' at time zone next_run.time_zone;
    v_give_up := v_local + interval '60 years';

    loop
        v_next := rota._cron_next_local(v_spec, v_local);
        if v_next is null then
            raise exception 'cron "%" never comes: day-of-month, month and day-of-week together '
                'allow no date', left(cron, 100)
                using errcode = 'RTV02',
                      hint = 'Months have 28 to 31 days, and the years end with 9999.';
        elsif v_next > v_give_up then
            raise exception 'cron "%" never comes: % skips all that minute and hour allow',
                left(cron, 100), next_run.time_zone
                using errcode = 'RTV02',
                      hint = 'A fixed time, without star or step in minute and hour, would be '
                          'moved to the end of the skipped hour.';
        end if;

        if not v_spec.elapsed then
            v_instant := rota._local_instant(v_next, next_run.time_zone);
            exit when v_instant at time zone 'UTC' > after;

            -- we are in the second pass of a repeated hour, whose times have all had their run
            v_instant := rota._local_shift(
                v_utc - interval '25 hours', v_utc, next_run.time_zone
            );
            v_local := (v_instant - interval '1 second')
                at time zone 'UTC' at time zone next_run.time_zone;
            continue;
        end if;

        -- only a change of offset within the next 25 hours can bring back a local time
        -- before v_next
        v_ahead := least(v_next - v_local, interval '25 hours');
        if (v_utc + v_ahead) at time zone 'UTC' at time zone next_run.time_zone
            = v_local + v_ahead
        then
            v_instant := case
                when v_next = v_local + v_ahead then v_utc + v_ahead
                else rota._local_instant(v_next, next_run.time_zone)
            end;
            exit when v_instant at time zone 'UTC' at time zone next_run.time_zone = v_next;
        else
            v_instant := rota._local_shift(v_utc, v_utc + v_ahead, next_run.time_zone);
            if v_utc + (v_next - v_local) < v_instant then
                v_instant := v_utc + (v_next - v_local);
                exit;
            end if;
        end if;

        -- go on from the change of offset, itself included
        v_utc := v_instant - interval '1 second';
        v_local := v_instant at time zone 'UTC' at time zone next_run.time_zone
            - interval '1 second';
    end loop;

    return v_instant at time zone 'UTC';
end;
$$;

comment on function rota.next_run is
    'Give the least moment after another at which a cron expression comes due in a time zone.';
