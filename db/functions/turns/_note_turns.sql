drop function if exists rota._note_turns(text, integer, timestamptz, timestamptz, interval);

-- The time that is noted lies two seconds back, for transactions that commit late, and not behind
-- what was found. What was noted before is forgotten when a look from the start is quick again.
create or replace function rota._note_turns(
    queue text,
    priority integer,
    at timestamptz,
    first_ready_at timestamptz,
    took interval,
    width integer  -- how many were looked for
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config(
        rota._turns_setting(queue, priority),
        case when took > interval '250 us' + width * interval '20 us'
            then format(
                '%s %s',
                round(extract(epoch from least(first_ready_at, at) - interval '2 seconds'), 6),
                round(extract(epoch from at + least(50 * took, interval '1 minute')), 6)
            )
            else ''
        end,
        false
    );
end;
$$;

comment on function rota._note_turns is
    'Remember from where on to look for turns, if to look for the first one was slow.';
