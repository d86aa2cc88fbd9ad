-- Whoever inherits a role is behind its walls, whatever else he is (_binding_walls). To become the
-- role is enough, which PostgreSQL lets apart from version 16 on.
create or replace function rota._grant_to_act_as(principal text, member text)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'grant %I to %I%s', principal, member,
        case when current_setting('server_version_num')::integer >= 160000
            then ' with inherit false, set true'
        end
    )
$$;

comment on function rota._grant_to_act_as is
    'Write the grant by which a member can become a role, and no more where that can be said.';
