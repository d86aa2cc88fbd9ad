-- When the server came up last: it was started, or a crash ended all of its sessions, after which
-- its statistics begin anew (as they do when somebody resets them: then it only looks as if it had
-- come up, until the workers announce themselves again). A standby that was promoted has a time of
-- its own. So two equal answers mean that no session has ended for the server's sake between them.
create or replace function rota._server_since()
    returns timestamptz
    language sql
    stable
as $$
    select greatest(
        pg_catalog.pg_postmaster_start_time(),
        pg_catalog.pg_stat_get_bgwriter_stat_reset_time()
    )
$$;

comment on function rota._server_since is
    'Tell one life of the server from another.';
