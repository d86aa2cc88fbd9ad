-- Pure arithmetic on its argument, whose length is bounded here, so that a hostile expression
-- costs no more than a long one.
--
-- The two rules that cron leaves to its readers:
--   * either_day: when neither day field contains a star, a day matches by either of them;
--     otherwise it must match both.
--   * elapsed: a star or a step in the minute or hour field makes a pattern, which follows elapsed
--     time; without one the expression names fixed times of the local day.
create or replace function rota._cron_parse(
    cron text,
    out seconds bigint,
    out minutes bigint,
    out hours bigint,
    out days bigint,
    out last_days bigint,
    out months bigint,
    out weekdays bigint,
    out either_day boolean,
    out elapsed boolean
)
    returns record
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- space, tab, line feed and so on, as "C" has them: other collations have other blanks
    v_blanks constant text := ' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13);
    v_entries text[];
    v_words text;
begin
    v_words := upper(btrim(left(cron, 1001), v_blanks) collate "C");
    if v_words like '@%' then
        v_words := case v_words
            when '@HOURLY' then '0 * * * *'
            when '@DAILY' then '0 0 * * *'
            when '@MIDNIGHT' then '0 0 * * *'
            when '@WEEKLY' then '0 0 * * 0'
            when '@MONTHLY' then '0 0 1 * *'
            when '@YEARLY' then '0 0 1 1 *'
            when '@ANNUALLY' then '0 0 1 1 *'
        end;
    end if;

    v_entries := regexp_split_to_array(v_words, '[' || v_blanks || ']+');
    if length(cron) > 1000 or coalesce(cardinality(v_entries), 0) not in (5, 6) then
        raise exception 'cron "%" is not an expression of five or six fields', left(cron, 100)
            using errcode = 'RTV02',
                  hint = 'The fields are [second] minute hour day-of-month month day-of-week, in '
                      'at most 1000 characters; or write @hourly, @daily, @midnight, @weekly, '
                      '@monthly, @yearly or @annually.';
    end if;

    if cardinality(v_entries) = 5 then
        v_entries := array['0'] || v_entries;
    end if;

    seconds := rota._cron_field(v_entries[1], 'second', 0, 59);
    minutes := rota._cron_field(v_entries[2], 'minute', 0, 59);
    hours := rota._cron_field(v_entries[3], 'hour', 0, 23);
    select m.days, m.last_days into days, last_days from rota._cron_monthdays(v_entries[4]) as m;
    months := rota._cron_field(
        v_entries[5], 'month', 1, 12, '{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}'
    );
    weekdays := rota._cron_weekdays(v_entries[6]);
    either_day := strpos(v_entries[4] || v_entries[6], '*') = 0;
    elapsed := (v_entries[2] || v_entries[3]) ~ '[*/]';
end;
$$;

comment on function rota._cron_parse is
    'Read a cron expression into sets of bits, or raise RTV02 with the field that is wrong.';
