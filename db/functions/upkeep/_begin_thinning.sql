-- The oldest partition that is over, and in which something has run out since it was last gone
-- through. What goes has been counted (_counted_until). A sample tells how much has run out: where
-- it is much, what stays is copied, and the room is given back with the old partition; where it is
-- little, it is deleted in its place. Rows that come or go while copies are made are noted by a
-- trigger. Whoever writes to the partition when that is made is waited for, as long as lock_timeout
-- says, and the copying begins in a transaction of its own: so nothing changes unseen.
create or replace function rota._begin_thinning(at timestamptz)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set default_tablespace = ''
    set default_table_access_method = 'heap'
as $$
declare
    v_counted constant timestamptz := rota._counted_until(at);
    v_longest constant interval := (select max(k.span) from rota._kept_spans() as k);
    v_key text;
    v_next rota.thinned;
    v_blocks bigint;
    v_rows bigint;
    v_number bigint;
begin
    if not exists (select from rota._kept_spans() as k where k.span < v_longest) then
        return false;  -- all of a partition goes with it
    end if;

    loop
        select h.parent, p.name, p.starts_at, p.ends_at, g.going
        into v_next.parent, v_next.part, v_next.starts_at, v_next.ends_at, v_next.going
        from (values ('finished_jobs'), ('attempts')) as h(parent)
        cross join lateral rota._history_parts(h.parent) as p
        cross join lateral (
            select array_agg(
                case when k.completed then 'C' else 'F' end || coalesce(':' || k.queue, '')
                order by k.queue nulls first, k.completed
            )
            from rota._kept_spans() as k
            where p.ends_at <= least(
                rota._later(at, -greatest(k.span, interval '2 hours')), v_counted
            )
        ) as g(going)
        left join rota.thinned as t on t.part = p.name
        where p.ends_at > rota._later(at, -v_longest)
            and (not g.going <@ coalesce(t.gone, '{}') or g.going is not null and t.again_at <= at)
        order by p.ends_at, h.parent desc
        limit 1;

        if not found then
            return false;
        end if;

        v_key := case v_next.parent when 'attempts' then 'job_id' else 'id' end;
        v_blocks := pg_relation_size(format('rota.%I', v_next.part)::regclass)
            / current_setting('block_size')::bigint;
        exit when v_blocks > 0;

        insert into rota.thinned as t (part, parent, starts_at, ends_at, gone)
        values (
            v_next.part, v_next.parent, v_next.starts_at, v_next.ends_at, v_next.going
        )
        on conflict (part) do update
        set gone = excluded.gone,
            again_at = null;
    end loop;

    execute format(
        '%s
        select count(*) filter (where not r.is_known), (
            select count(*) from only rota.%I as f where f.ctid >= $1 and f.ctid < $2
        )
        from ran_out as r',
        rota._ran_out(v_next.parent, v_next.part), v_next.part
    )
    into v_number, v_rows
    using
        format('(%s,0)', v_blocks / 2)::tid, format('(%s,0)', v_blocks / 2 + 100)::tid,
        v_next.going;

    v_next.copies := v_number >= 0.2 * v_rows;

    if v_next.copies then
        perform
            set_config('default_tablespace', coalesce(t.spcname, ''), true),
            set_config('default_table_access_method', m.amname, true)
        from pg_catalog.pg_class as c
        join pg_catalog.pg_am as m on m.oid = c.relam
        left join pg_catalog.pg_tablespace as t on t.oid = c.reltablespace
        where c.oid = format('rota.%I', v_next.part)::regclass;

        execute format(
            'create table rota.%1$I (
                like rota.%2$I including defaults including indexes,
                constraint within_its_time check (finished_at >= %3$L and finished_at < %4$L)
            )',
            v_next.part || '_thin', v_next.part, rota._utc_text(v_next.starts_at),
            rota._utc_text(v_next.ends_at)
        );
        perform rota._add_checks(v_next.parent, v_next.part || '_thin');

        if v_next.parent = 'attempts' then
            execute format('alter table rota.%I replica identity full', v_next.part || '_thin');
        end if;

        execute format(
            'create trigger thinned after insert or update or delete on rota.%I
                for each row execute function rota._note_change(%L)',
            v_next.part, v_key
        );
    end if;

    insert into rota.thinned as t (
        part, parent, starts_at, ends_at, going, copies, next_block, xid
    )
    values (
        v_next.part, v_next.parent, v_next.starts_at, v_next.ends_at, v_next.going, v_next.copies,
        0, pg_current_xact_id()
    )
    on conflict (part) do update
    set going = excluded.going,
        copies = excluded.copies,
        next_block = 0,
        removed_completed = 0,
        removed_failed = 0,
        xid = excluded.xid,
        open = null,
        again_at = null;

    return true;
end;
$$;

comment on function rota._begin_thinning is
    'Choose a partition in which something has run out, if there is one, and prepare its copy.';
