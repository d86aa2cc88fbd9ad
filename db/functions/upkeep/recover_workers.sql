-- A worker attends by its announcement, which notes the process id of its session. When the worker
-- dies the kernel closes its sockets, and the session ends at once. A worker whose session is gone
-- while the server has gone on (_server_since: after a restart, a crash or a failover leases alone
-- decide, until it announces itself again) is taken for dead once that was seen 1.75 s ago, and is
-- so still: who was only cut off is back by then, in another session. Then it counts as stopped,
-- and recover_jobs takes back what it started before it was seen to be gone.
--
-- Which sessions there are is read after the rows: the session in a row was there by then. A row is
-- locked before it is changed, and its newest version must name the same session: of a worker that
-- returns and a look that takes it for dead, whoever comes first decides. Rows that are locked are
-- passed by, and nothing else is locked. No advisory lock decides anything here. An outsider's
-- session can at most have got a dead one's number: then leases decide.
--
-- All that attend look twice a second together, in turn by the server's clock, so a death is seen
-- within a second whoever died; one that is alone looks every 2 s. Who saw somebody gone looks when
-- that one may be taken for dead.
create or replace function rota.recover_workers()
    returns interval
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    c_grace constant interval := '1.75 s';
    v_now constant timestamptz := rota._now();
    v_epoch constant float8 := extract(epoch from v_now);
    v_slot constant bigint := floor(2 * (v_epoch + 0.1)) + 1;  -- the next half second, nearly
    v_number bigint;  -- of those that attend
    v_place bigint;  -- of this session among them
    v_gone text[];
    v_backends integer[];
    v_first timestamptz;
    v_next float8;
begin
    perform pg_stat_clear_snapshot();  -- a transaction would be shown what it saw before

    with announced as materialized (
        select w.worker, w.backend, w.gone_at, w.backend in (
            select pg_stat_get_backend_pid(s.number)
            from pg_stat_get_backend_idset() as s(number)
        ) as attends
        from rota.workers as w
        where w.server_since = rota._server_since() and w.stopped_at is null
    )
    select
        count(*) filter (where a.attends),
        count(*) filter (where a.attends and a.backend < pg_backend_pid()),
        array_agg(a.worker) filter (where not a.attends),
        array_agg(a.backend) filter (where not a.attends),
        min(coalesce(a.gone_at, v_now)) filter (where not a.attends)
    into v_number, v_place, v_gone, v_backends, v_first
    from announced as a;

    if v_gone is not null then
        with seen as (
            update rota.workers as w
            set gone_at = coalesce(w.gone_at, v_now),
                stopped_at = case when w.gone_at <= v_now - c_grace then v_now end
            where w.ctid = any(array(
                select g.ctid
                from rota.workers as g
                where (g.worker, g.backend) in (select * from unnest(v_gone, v_backends))
                    and g.stopped_at is null
                    and (g.gone_at is null or g.gone_at <= v_now - c_grace)
                for no key update skip locked
            ))
            returning w.stopped_at
        )
        select case when bool_or(s.stopped_at is not null) then 0 end into v_next
        from seen as s;

        v_next := coalesce(v_next, greatest(0.1, extract(epoch from v_first + c_grace - v_now)));
    end if;

    return make_interval(secs => least(v_next, case
        when v_number < 2 then 2
        else (v_slot + mod(mod(v_place - v_slot, v_number) + v_number, v_number)) / 2.0 - v_epoch
    end, 30));
end;
$$;

comment on function rota.recover_workers is
    'Take for dead the workers whose sessions ended, and say when to look again: 0 after having'
    ' taken one for dead, for recover_jobs has work then.';
