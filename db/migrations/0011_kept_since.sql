-- depends: 0010_attempts

-- From when on every attempt that ended is still there: moved forward by maintain when it drops
-- something, never back. The retention does not tell that, for it may be raised again.
alter table rota.settings
    add column if not exists kept_since timestamptz not null default '-infinity';

-- Weeks were dropped one after the other, so that of the first one that is left nothing is missing.
update rota.settings as s
set kept_since = coalesce(
    (
        select min(to_date(right(c.relname, 8), 'YYYYMMDD'))::timestamp at time zone 'UTC'
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = 'rota.attempts'::regclass and c.relname ~ '_[0-9]{8}$'
    ),
    s.kept_since
)
where s.kept_since = '-infinity';
