-- How the planner is to treat our functions; applied at each deploy, after them. A function keeps
-- what it must have to be right (search_path, DateStyle) in its own file: this is about speed.
--
-- plan_cache_mode, jit: planning anew at each call costs more than the call (claim: 470 against
--     160 us); and a plan in which much is forbidden looks so dear to PostgreSQL 15 that it would
--     compile it (finish: 295 against 12 us a job).
-- enable_seqscan: a plan that is made while the tables are empty must not survive their growth.
-- enable_nestloop: nor may the joins between the sets of a batch be nested loops: 1,000 x 1,000.
--     A claim takes its rows by their places, one after the other, and returns them so.
-- random_page_cost, cpu_index_tuple_cost: a table of one page, analyzed, is read whole by an index
--     more cheaply than ten of its rows by their places. That plan, too, must not survive growth.
-- enable_hashjoin, enable_mergejoin: what goes from edge to edge is few beside all edges, which a
--     table that was never analyzed does not tell.
--
-- A setting costs each call of its function about half a microsecond. What only claim_next_job
-- calls runs under its settings; _settle, with what it calls, under those of whoever ends jobs.
-- What is called for every job has none at all, so that the planner can put it in the place of its
-- call (_is_lease, _ones).
do $$
declare
    v record;
begin
    for v in
        select s.setting, s.value, f.name
        from (
            values
                ('plan_cache_mode', 'force_generic_plan', array[
                    'claim_next_job', '_look_behind', '_newest_cursor', 'next_due_in',
                    '_complete_jobs', '_end_attempts', 'finish_jobs', 'heartbeat_jobs',
                    '_cancel_jobs', '_retry_jobs', '_post_turns',
                    '_reached', '_hold_jobs', '_heal_edges', '_add_workflow', '_bad_workflow',
                    '_revivable', '_family', 'record_step', 'await_event', 'emit_event'
                ]),
                ('jit', 'off', array[
                    'claim_next_job', '_look_behind', '_newest_cursor', 'next_due_in',
                    '_complete_jobs',
                    '_end_attempts', 'finish_jobs', 'heartbeat_jobs',
                    'enqueue_jobs', '_id_ahead', 'check_invariants', 'cancel_jobs', 'retry_jobs',
                    'visible_queues', 'release_unhandled_jobs', '_binding_walls', 'take_census',
                    '_count_minutes',
                    'explain_job', '_explain_waiting', '_explain_service', '_explain_order',
                    '_row_lockers', 'doctor', '_find_in_queues', '_find_in_workers',
                    '_find_in_schedules', '_find_old_snapshots', '_find_in_tables',
                    '_find_in_server', '_find_in_statistics', '_count_live', '_post_turns',
                    '_offer_room',
                    '_cancel_jobs', '_reached', '_hold_jobs', '_read_workflow', '_bad_workflow',
                    '_add_workflow', '_revivable', '_family', 'parent_results', '_heal_edges',
                    '_forget_workflows', '_forget_steps', 'emit_event', '_thin_history',
                    '_elsewhere'
                ]),
                ('enable_seqscan', 'off', array[
                    'claim_next_job', '_look_behind', '_newest_cursor', '_share_cursor',
                    'next_due_in', '_complete_jobs', '_end_attempts', '_past_ending',
                    'heartbeat_job', 'heartbeat_jobs',
                    'hold_lease', 'enqueue_job', '_id_ahead', '_is_queue', 'delete_queue',
                    '_check_job', 'cancel_job', '_cancel_jobs', '_retire_job', 'retry_job',
                    '_retry_jobs', '_retry_time', 'schedule_job', '_lock_schedule',
                    '_missed_slots', 'backfill_schedule', 'bring_forward_jobs',
                    'release_unhandled_jobs', '_count_minutes', 'explain_job', '_explain_order',
                    '_row_holders', '_post_turns', '_offer_room', '_limits_changed',
                    '_forget_flows', '_forget_unique_keys',
                    '_reached', '_hold_jobs', '_heal_edges', '_hold_parents', '_add_workflow',
                    '_revivable', '_family', '_check_workflow', 'cancel_workflow',
                    'retry_workflow', 'parent_results', '_forget_workflows', '_forget_steps',
                    'record_step', 'recorded_steps', 'sleep_job', 'await_event', 'emit_event',
                    '_hold_next', '_thin_history'
                ]),
                ('enable_nestloop', 'on', array['claim_next_job', '_reached', '_family']),
                ('enable_tidscan', 'on', array['claim_next_job']),
                ('enable_nestloop', 'off', array[
                    '_complete_jobs', '_end_attempts', 'finish_jobs', 'heartbeat_jobs',
                    'enqueue_jobs', '_add_workflow', '_bad_workflow', '_revivable',
                    '_cancel_jobs', '_heal_edges'
                ]),
                ('random_page_cost', '0', array['_end_attempts']),
                ('cpu_index_tuple_cost', '1', array['_end_attempts']),
                ('enable_hashjoin', 'off', array['_reached', '_family']),
                ('enable_mergejoin', 'off', array['_reached', '_family'])
        ) as s(setting, value, functions)
        cross join lateral unnest(s.functions) as f(name)
    loop
        execute format('alter function rota.%I set %I = %L', v.name, v.setting, v.value);
    end loop;
end;
$$;
