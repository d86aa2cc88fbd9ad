create or replace function rota._end_thinning(part rota.thinned, is_there boolean)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    delete from rota.thinned_changes as c
    where c.part = _end_thinning.part.part;

    if to_regclass(format('rota.%I', part.part || '_thin')) is not null then
        execute format('drop table rota.%I', part.part || '_thin');
    end if;

    if not is_there then
        delete from rota.thinned as t
        where t.part = _end_thinning.part.part;

        return;
    end if;

    if exists (
        select
        from pg_catalog.pg_trigger as t
        where t.tgrelid = format('rota.%I', part.part)::regclass and t.tgname = 'thinned'
    ) then
        execute format('drop trigger thinned on rota.%I', part.part);
    end if;

    update rota.thinned as t
    set gone = t.going,
        going = null,
        next_block = null,
        open = null
    where t.part = _end_thinning.part.part;
end;
$$;

comment on function rota._end_thinning is
    'Note that a partition has been gone through, and clear away what that took.';
