create or replace function rota._slot_error(reason text)
    returns text
    language sql
    immutable
as $$
    select left('its slots cannot be computed, which is tried again and again: ' || reason, 10000)
$$;

comment on function rota._slot_error is
    'Word the last_error of a schedule whose slots the server cannot compute.';
