-- In the transaction that removes them, so that no snapshot shows the one without the other. Of
-- finished_jobs those that completed were attempts, too; the others are jobs alone.
create or replace function rota._note_gone(part rota.thinned, completed bigint, failed bigint)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    update rota.settings as s
    set completed_since = case
            when completed > 0 then greatest(s.completed_since, part.ends_at)
            else s.completed_since
        end,
        failed_since = case
            when failed > 0 and part.parent = 'attempts'
                then greatest(s.failed_since, part.ends_at)
            else s.failed_since
        end
    where completed > 0 and s.completed_since < part.ends_at
        or failed > 0 and part.parent = 'attempts' and s.failed_since < part.ends_at;
end;
$$;

comment on function rota._note_gone is
    'Note up to when what ended may have been taken out of history.';
