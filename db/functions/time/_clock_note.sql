-- A time that is skipped does not come back from its conversion to a moment. One that comes twice
-- is converted to its first occurrence by us, and to its second by "at time zone".
create or replace function rota._clock_note(slot timestamptz, time_zone text, locals timestamp[])
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_local constant timestamp := slot at time zone _clock_note.time_zone;
    v_first constant timestamptz :=
        rota._local_instant(v_local, _clock_note.time_zone) at time zone 'UTC';
    v_list constant text := (
        select string_agg(to_char(u.local_time, 'YYYY-MM-DD HH24:MI:SS'), ', ' order by u.place)
        from unnest(locals[:3]) with ordinality as u(local_time, place)
    ) || case when cardinality(locals) > 3 then ', ...' else '' end;
begin
    return case
        when cardinality(locals) > 1
            then format('merged: %s are one moment, for the clocks skip to it', v_list)
        when rota._local_instant(locals[1], _clock_note.time_zone)
                at time zone 'UTC' at time zone _clock_note.time_zone <> locals[1]
            then format('moved: the clocks skip %s', v_list)
        when v_local at time zone _clock_note.time_zone = v_first
            then null
        when slot = v_first
            then 'repeated: the first of two moments with this local time'
        else 'repeated: the second of two moments with this local time'
    end;
end;
$$;

comment on function rota._clock_note is
    'Say what a change of the clocks does to a slot that stands for these local times, if it does.';
