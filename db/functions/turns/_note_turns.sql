-- The time that is noted lies two seconds back, for transactions that commit late, and not behind
-- what was found.
create or replace function rota._note_turns(
    queue text,
    priority integer,
    at timestamptz,
    first_ready_at timestamptz,
    took interval
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config(
        rota._turns_setting(queue, priority),
        case when took > interval '1 ms'
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
