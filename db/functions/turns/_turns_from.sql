-- While an old snapshot pins turns that are gone, a look for the first one steps over all of them.
-- A session whose look was slow notes a time before which there was none, and begins its next looks
-- there (_note_turns). A turn that a transaction commits late lies before it, and is found by a
-- look from the start, for which a fiftieth of the time is spent. Two numbers in one setting; what
-- cannot be read as such is none.
create or replace function rota._turns_from(queue text, priority integer, at timestamptz)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_noted text := current_setting(rota._turns_setting(queue, priority), true);
    v_from timestamptz;
begin
    if v_noted ~ '^[0-9]{1,11}[.][0-9]{6} [0-9]{1,11}[.][0-9]{6}$' then
        v_from := to_timestamp(split_part(v_noted, ' ', 1)::double precision);

        if at >= v_from and at < to_timestamp(split_part(v_noted, ' ', 2)::double precision) then
            return v_from;
        end if;
    end if;

    return '-infinity';
end;
$$;

comment on function rota._turns_from is
    'Say from which time on this session looks for turns.';
