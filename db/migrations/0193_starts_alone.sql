-- depends: 0192_checks_of_history

-- Where nothing but starts is limited, what runs need not be marked as counted, and claims change
-- no index: 16 more in queues.limited says so to claims, where limits change (_limits_changed) and
-- here for those that stand. The functions of before take it for a limit like others.
--
-- Who sets a limit holds the row of its queue. So each row is locked first, and what limits there
-- are is looked at by a statement after that, which sees what was committed meanwhile. A queue that
-- comes later has its limits from functions that know, or is taken for one like others.
do $$
declare
    v_name text;
begin
    for v_name in
        select q.name from rota.queues as q where q.limited & 4 > 0 order by q.name
    loop
        perform from rota.queues as q where q.name = v_name for no key update;

        update rota.queues as q
        set limited = q.limited | 16
        where q.name = v_name
            and q.limited & 4 > 0
            and num_nonnulls(q.max_running, q.key_max_running) = 0
            and q.key_in_order is not true
            and not exists (
                select from rota.flows as f where f.queue = v_name and f.max_running is not null
            );
    end loop;
end;
$$;
