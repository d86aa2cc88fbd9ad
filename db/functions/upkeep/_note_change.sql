-- A trigger of a partition that is being copied (_thin_history).
create or replace function rota._note_change()
    returns trigger
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into rota.thinned_changes (part, job_id)
    values (
        tg_table_name,
        (to_jsonb(case tg_op when 'DELETE' then old else new end) ->> tg_argv[0])::bigint
    )
    on conflict do nothing;

    return null;
end;
$$;

comment on function rota._note_change is
    'Note that a row of a partition came or went while it was being copied.';
