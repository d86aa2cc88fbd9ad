-- depends: 0106_findings

do $$
begin
    -- What a turn of upkeep did (do_chores).
    if to_regtype('rota.chores_done') is null then
        create type rota.chores_done as (
            recovered integer,       -- jobs that were taken back
            again_in_seconds float8  -- when to call again
        );
    end if;
end;
$$;

-- Of the jobs that run for longer than their timeout, since when the first has.
alter table rota.census
    add column if not exists overdue_since timestamptz;
