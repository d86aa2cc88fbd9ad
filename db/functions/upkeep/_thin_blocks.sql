-- Block by block, as many as there is time for. What is deleted in its place is noted in the same
-- transaction as gone (settings), and a row that somebody is just bringing back is passed by.
create or replace function rota._thin_blocks(part rota.thinned, at timestamptz, most interval)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_blocks constant bigint := pg_relation_size(format('rota.%I', part.part)::regclass)
        / current_setting('block_size')::bigint;
    v_statement constant text := format(
        case when part.copies
            then '%1$s, stays as (
                insert into rota.%3$I
                select f.*
                from only rota.%2$I as f
                where f.ctid >= $1
                    and f.ctid < $2
                    and f.ctid not in (select r.place from ran_out as r where not r.is_known)
            )'
            else '%1$s, goes as (
                delete from only rota.%2$I as f
                where f.ctid = any(array(
                    select o.ctid
                    from only rota.%2$I as o
                    where o.ctid = any(array(
                        select r.place from ran_out as r where not r.is_known
                    ))
                    for update skip locked
                ))
            )'
        end || '
        select
            count(*) filter (where not r.is_known and r.completed),
            count(*) filter (where not r.is_known and not r.completed),
            coalesce(bool_or(r.is_known), false)
        from ran_out as r',
        rota._ran_out(part.parent, part.part), part.part, part.part || '_thin'
    );
    v_next bigint := part.next_block;
    v_step bigint := 64;
    v_completed bigint;
    v_failed bigint;
    v_known boolean;
    v_removed_completed bigint := 0;
    v_removed_failed bigint := 0;
    v_again boolean := part.again_at is not null;
begin
    while v_next < v_blocks loop
        execute v_statement
        into v_completed, v_failed, v_known
        using
            format('(%s,0)', v_next)::tid, format('(%s,0)', v_next + v_step)::tid, part.going;

        v_removed_completed := v_removed_completed + v_completed;
        v_removed_failed := v_removed_failed + v_failed;
        v_again := v_again or v_known;
        v_next := v_next + v_step;
        exit when clock_timestamp() > v_began + most;

        if clock_timestamp() < v_began + most / 4 then
            v_step := least(v_step * 2, 65536);
        end if;
    end loop;

    if not part.copies then
        perform rota._note_gone(part, v_removed_completed, v_removed_failed);
    end if;

    update rota.thinned as t
    set next_block = case when v_next < v_blocks then v_next end,
        removed_completed = t.removed_completed + v_removed_completed,
        removed_failed = t.removed_failed + v_removed_failed,
        again_at = case when v_again then at + interval '1 day' end,
        xid = pg_current_xact_id()
    where t.part = _thin_blocks.part.part;
end;
$$;

comment on function rota._thin_blocks is
    'Go on through the blocks of a partition of history.';
