-- Settings as sessions get them, not as the one that asks has set them for itself.
create or replace function rota._find_in_server()
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with setting as materialized (
        select s.name, s.reset_val from pg_catalog.pg_settings as s
    )
    select
        'critical' as severity,
        'durability' as "check",
        format('%s is off: a crash of the machine can lose or corrupt jobs.', s.name) as finding,
        format('alter system set %s = on, then: select pg_reload_conf()', s.name) as remedy,
        null::jsonb as evidence
    from setting as s
    where s.name in ('fsync', 'full_page_writes') and s.reset_val = 'off'

    union all
    select
        'warning',
        'durability',
        'synchronous_commit is off: a crash can lose jobs whose enqueue was answered, and run'
            ' finished ones again.',
        'Turn it on for the database, the role or the server, wherever it was turned off.',
        null
    from setting as s
    where s.name = 'synchronous_commit' and s.reset_val = 'off'

    union all
    select
        'critical',
        'read only',
        'Sessions can only read unless they ask for more: nothing is enqueued or claimed.',
        'Turn default_transaction_read_only off, where it was turned on.',
        null
    from setting as s
    where s.name = 'default_transaction_read_only' and s.reset_val = 'on'

    union all
    select
        'warning',
        'connections',
        format('%s of %s connections are in use.', n.used, n.most),
        'Fewer workers or a pooler; or a higher max_connections.',
        to_jsonb(n)
    from (
        select
            (
                select count(*)
                from pg_catalog.pg_stat_activity as a
                where a.backend_type = 'client backend'
            ) as used,
            current_setting('max_connections')::integer as most
    ) as n
    where n.used > 0.85 * n.most

    union all
    select
        'critical',
        'wraparound',
        format(
            'The oldest transaction id of database %s is %s old: vacuum cannot keep up, and'
            ' PostgreSQL stops at two billion.',
            d.datname, age(d.datfrozenxid)
        ),
        'End what keeps old snapshots; then: vacuum (freeze)',
        jsonb_build_object('age', age(d.datfrozenxid))
    from pg_catalog.pg_database as d
    where d.datname = current_database()
        and age(d.datfrozenxid) > 2 * current_setting('autovacuum_freeze_max_age')::bigint

    union all
    select
        'note',
        'rights',
        format(
            'The owner of the schema, %s, may not see what other logins do: old snapshots may go'
            ' unnoticed.',
            current_user
        ),
        format('grant pg_read_all_stats to %I', current_user),
        null
    where not pg_has_role(current_user, 'pg_read_all_stats', 'usage')
$$;

comment on function rota._find_in_server is
    'Find settings of the server, and what it runs out of.';
