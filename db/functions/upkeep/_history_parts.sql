-- Reads the catalogue. Bounds can be had as text only, written in the styles of the session, hence
-- the setting. What is named otherwise somebody else attached.
create or replace function rota._history_parts(parent text)
    returns setof rota.history_part
    language sql
    stable
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
as $$
    select
        c.relname::text,
        substring(b.bound from 'FROM [(]''([^'']+)''[)]')::timestamptz,
        substring(b.bound from 'TO [(]''([^'']+)''[)]')::timestamptz
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    cross join lateral pg_get_expr(c.relpartbound, c.oid) as b(bound)
    where i.inhparent = ('rota.' || quote_ident(parent))::regclass
        and c.relname ~ '_([0-9]{8}|d[0-9]{8}|h[0-9]{10})$'
        and b.bound <> 'DEFAULT'
    order by 2
$$;

comment on function rota._history_parts is
    'List the partitions of a history table, but for the default one.';
