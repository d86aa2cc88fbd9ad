create or replace function rota._is_time_to_share(shared_at timestamptz, at timestamptz)
    returns boolean
    language sql
    immutable
as $$
    select coalesce(at >= shared_at + interval '1 second', true)
$$;

comment on function rota._is_time_to_share is
    'Tell whether a session should look for, or share, a cursor of a lane.';
