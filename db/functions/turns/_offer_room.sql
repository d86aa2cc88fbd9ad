-- Called by whoever ends an attempt that was counted, before the row goes. Always posts: a look
-- whether the key waits for room would pass by the claim that finds it full at this very moment.
-- That claim holds the key's lock (flow_locks) until it has committed, so who takes our turn then
-- sees what it has left. A key may wait in each priority. Jobs without a key wait for nothing but
-- that somebody claims.
create or replace function rota._offer_room(queues text[], keys text[], at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into rota.turns (queue, priority, key, ready_at, from_run_at, from_id)
    select distinct k.queue, l.priority, k.key, at, timestamptz 'infinity', 0
    from unnest(queues, keys) as k(queue, key)
    join rota.lanes as l on l.queue = k.queue and l.keyed
    where k.key is not null;

    perform rota._wake(k.queue, at, at)
    from (select distinct u.queue from unnest(queues) as u(queue)) as k;
end;
$$;

comment on function rota._offer_room is
    'Let the keys know, of which an attempt has ended, that there is room again.';
