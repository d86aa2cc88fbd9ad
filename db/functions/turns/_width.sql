drop function if exists rota._width(rota.taken_turns, integer);

-- As many as are needed if the keys have as many jobs as those of the last look; where these had
-- none that may start, twice as many. Few at first: to take a turn hides the key from other claims.
create or replace function rota._width(taken rota.taken_turns, room integer, width integer)
    returns integer
    language sql
    immutable
as $$
    select least(
        room,
        1000,
        case when coalesce(cardinality(taken.places), 0) = 0
            then 2 * greatest(width, 8)
            else (room * cardinality(taken.turns) - 1) / cardinality(taken.places) + 1
        end
    )
$$;

comment on function rota._width is
    'Say how many turns a claim takes next, by what it found with the last.';
