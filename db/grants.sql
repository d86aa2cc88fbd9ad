-- Who may do what: all of it. Nothing is executable by PUBLIC, no table is writable but by the
-- owner through the functions, and a role has exactly what stands here: rights granted by hand are
-- taken back at every deploy. A role that could not be created is passed by (db/deploy.py says so).
--
--   rota_producer   adds jobs and schedules
--   rota_worker     runs jobs
--   rota_operator   looks at everything and steers
--   rota_reader     looks at everything
--   rota_api        the login of the API: finds whose a token is, and becomes that role

do $$
declare
    v_roles text;
    v_kind text;
    v_right record;
begin
    select string_agg(quote_ident(r.rolname), ', ')
    into v_roles
    from pg_catalog.pg_roles as r
    where r.rolname in (
        'rota_producer', 'rota_worker', 'rota_operator', 'rota_reader', 'rota_api'
    );

    -- One statement for all: each of them writes the right of every function anew.
    foreach v_kind in array '{functions, tables, sequences}'::text[] loop
        execute format(
            'revoke all on all %s in schema rota from %s',
            v_kind,
            concat_ws(', ', 'public', v_roles)
        );
    end loop;
    if v_roles is not null then
        execute format('grant usage on schema rota to %s', v_roles);
    end if;

    for v_right in
        select
            a.kind,
            string_agg(format('rota.%I', a.object), ', ') as objects,
            r.rolname as role
        from (
            values
                ('function', 'enqueue_job',         '{rota_producer}'::text[]),
                ('function', 'enqueue_jobs',        '{rota_producer}'),
                ('function', 'enqueue_many',        '{rota_producer}'),
                ('function', 'enqueue_workflow',    '{rota_producer}'),
                ('function', 'emit_event',          '{rota_producer, rota_operator}'),
                ('function', 'schedule_job',        '{rota_producer, rota_operator}'),
                ('function', 'next_run',            '{rota_producer, rota_operator, rota_reader}'),
                ('function', 'preview_schedule',    '{rota_producer, rota_operator, rota_reader}'),

                ('function', 'begin_request',       '{rota_producer, rota_operator}'),
                ('function', 'end_request',         '{rota_producer, rota_operator}'),
                ('function', 'ended_jobs',          '{rota_operator, rota_reader, rota_api}'),

                ('function', 'claim_next_job',      '{rota_worker}'),
                ('function', 'finish_job',          '{rota_worker}'),
                ('function', 'finish_jobs',         '{rota_worker}'),
                ('function', 'heartbeat_job',       '{rota_worker}'),
                ('function', 'heartbeat_jobs',      '{rota_worker}'),
                ('function', 'release_job',         '{rota_worker}'),
                ('function', 'parent_results',
                    '{rota_worker, rota_operator, rota_reader}'),
                ('function', 'record_step',         '{rota_worker}'),
                ('function', 'recorded_steps',
                    '{rota_worker, rota_operator, rota_reader}'),
                ('function', 'sleep_job',           '{rota_worker}'),
                ('function', 'await_event',         '{rota_worker}'),
                ('function', 'release_unhandled_jobs', '{rota_worker}'),
                ('function', 'bring_forward_jobs',  '{rota_worker}'),
                ('function', 'hold_lease',          '{rota_worker}'),
                ('function', 'begin_sleep',         '{rota_worker, rota_api}'),
                ('function', 'end_sleep',           '{rota_worker, rota_api}'),
                ('function', 'next_due_in',         '{rota_worker, rota_api}'),
                ('function', 'announce_worker',     '{rota_worker}'),
                ('function', 'dismiss_worker',      '{rota_worker}'),
                ('function', 'do_chores',           '{rota_worker, rota_operator}'),
                ('function', 'recover_jobs',        '{rota_worker, rota_operator}'),
                ('function', 'recover_workers',     '{rota_worker, rota_operator}'),
                ('function', 'maintain',            '{rota_worker, rota_operator}'),
                ('function', 'take_census',         '{rota_worker, rota_operator}'),
                ('function', 'roll_up',             '{rota_worker, rota_operator}'),
                ('function', 'statistics_age',      '{rota_operator, rota_reader}'),

                ('function', 'cancel_job',          '{rota_operator}'),
                ('function', 'cancel_jobs',         '{rota_operator}'),
                ('function', 'retry_job',           '{rota_operator}'),
                ('function', 'retry_jobs',          '{rota_operator}'),
                ('function', 'cancel_workflow',     '{rota_operator}'),
                ('function', 'retry_workflow',      '{rota_operator}'),
                ('function', 'pause_queue',         '{rota_operator}'),
                ('function', 'resume_queue',        '{rota_operator}'),
                ('function', 'pause_schedule',      '{rota_operator}'),
                ('function', 'resume_schedule',     '{rota_operator}'),
                ('function', 'trigger_schedule',    '{rota_operator}'),
                ('function', 'backfill_schedule',   '{rota_operator}'),
                ('function', 'delete_schedule',     '{rota_operator}'),
                ('function', 'configure_queue',     '{rota_operator}'),
                ('function', 'configure_key',       '{rota_operator}'),
                ('function', 'delete_queue',        '{rota_operator}'),
                ('function', 'configure_retention', '{rota_operator}'),
                ('function', 'wall',                '{rota_operator}'),
                ('function', 'unwall',              '{rota_operator}'),
                ('function', 'check_invariants',    '{rota_operator}'),
                ('function', 'explain_job',         '{rota_operator, rota_reader}'),
                ('function', 'doctor',              '{rota_operator, rota_reader}'),

                ('function', 'create_token',        '{rota_operator}'),
                ('function', 'revoke_token',        '{rota_operator}'),
                ('function', 'authenticate_token',  '{rota_api}'),
                ('function', 'principal_of',
                    '{rota_producer, rota_worker, rota_operator, rota_reader, rota_api}'),
                ('function', 'needs_token',
                    '{rota_producer, rota_worker, rota_operator, rota_reader, rota_api}'),

                ('function', 'version',
                    '{rota_producer, rota_worker, rota_operator, rota_reader, rota_api}'),
                ('function', 'was_deployed',
                    '{rota_producer, rota_worker, rota_operator, rota_reader, rota_api}'),

                ('function', 'shard_of',
                    '{rota_producer, rota_worker, rota_operator, rota_reader}'),
                ('function', 'shard',
                    '{rota_producer, rota_worker, rota_operator, rota_reader, rota_api}'),

                ('function', 'visible_queues',
                    '{rota_producer, rota_worker, rota_operator, rota_reader}'),
                ('function', 'binding_principals',  '{rota_operator, rota_reader}'),
                ('function', '_lane',               '{rota_operator, rota_reader}'), -- in a view

                ('table',    'jobs',                '{rota_operator, rota_reader}'),
                ('table',    'executions',          '{rota_operator, rota_reader}'),
                ('table',    'job_executions',      '{rota_operator, rota_reader}'),
                ('table',    'workflow_status',     '{rota_operator, rota_reader}'),
                ('table',    'workflow_nodes',      '{rota_operator, rota_reader}'),
                ('table',    'open_dependencies',   '{rota_operator, rota_reader}'),
                ('table',    'schedule_status',     '{rota_operator, rota_reader}'),
                ('table',    'queue_status',        '{rota_operator, rota_reader}'),
                ('table',    'key_limits',          '{rota_operator, rota_reader}'),
                ('table',    'queue_heads',         '{rota_operator, rota_reader}'),
                ('table',    'worker_status',       '{rota_operator, rota_reader}'),
                ('table',    'queue_census',        '{rota_operator, rota_reader}'),
                ('table',    'worker_census',       '{rota_operator, rota_reader}'),
                ('table',    'queue_depths',        '{rota_operator, rota_reader}'),
                ('table',    'attempt_minutes',     '{rota_operator, rota_reader}'),
                ('table',    'attempt_totals',      '{rota_operator, rota_reader}'),
                ('table',    'walls',               '{rota_operator, rota_reader}'),
                ('table',    'tokens',              '{rota_operator, rota_reader}'),
                ('table',    'actions',             '{rota_operator, rota_reader}')
        ) as a(kind, object, roles)
        join pg_catalog.pg_roles as r on r.rolname = any(a.roles)
        group by a.kind, r.rolname
    loop
        execute format(
            'grant %s %s to %I',
            case v_right.kind when 'function' then 'execute on function' else 'select on' end,
            v_right.objects,
            v_right.role
        );
    end loop;
end;
$$;
