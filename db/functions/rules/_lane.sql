-- A number, not a pair of key and priority, so that the index of lanes compares nothing more for a
-- job without a key. Two keys may share a number, so who looks for a key asks for it, too. What
-- this returns is in an index: it must not change. Written so that the planner can put it in the
-- place of its call.
create or replace function rota._lane(key text, priority integer)
    returns bigint
    language sql
    immutable
as $$
    select case
        when key is null then priority::bigint
        else hashtextextended(key, priority) & 4611686018427387903 | 4611686018427387904
    end
$$;

comment on function rota._lane is
    'Number the lane of a key and a priority: the priority itself for jobs without a key.';
