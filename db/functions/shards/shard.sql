-- One row of settings, which a shard has from its deploy on; it tells nothing of any job.
create or replace function rota.shard()
    returns setof rota.shard_identity
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select s.shard, s.ids_from, s.ids_before
    from rota.settings as s
    where s.shard is not null
$$;

comment on function rota.shard is
    'Say which of several databases this is, from which id on id % 1024 says so, and the last id '
    'before that; no row where it is the only one.';
