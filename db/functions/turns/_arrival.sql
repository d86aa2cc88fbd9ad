-- The lock by which producers of a key and a claim that finds it empty know of each other
-- (_post_turns). There are 128, so that a bulk of many keys does not fill the server's table of
-- locks. Anybody may hold one: then turns are posted that are not needed, and nothing is lost.
create or replace function rota._arrival(queue text, key text)
    returns integer
    language sql
    immutable
as $$
    select (hashtextextended(key, hashtext(queue)) & 127)::integer
$$;

comment on function rota._arrival is
    'Number the advisory lock of those who add jobs of a key.';
