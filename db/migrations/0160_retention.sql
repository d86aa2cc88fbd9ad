-- depends: 0152_turns_in_time

-- How long jobs and attempts that succeeded are kept, and all others; null for as long as the
-- retention says. kept_since is from when on anything is there at all: of before, whole partitions
-- were dropped. What ran out was taken out of partitions that are there still, up to
-- completed_since of what succeeded, up to failed_since of the rest: from then on every attempt is
-- still there. Both are moved forward by maintain, and never back.
alter table rota.settings
    add column if not exists keep_completed interval,
    add column if not exists keep_failed interval,
    add column if not exists completed_since timestamptz not null default '-infinity',
    add column if not exists failed_since timestamptz not null default '-infinity';

-- One row: to read it again takes no time.
do $$
begin
    alter table rota.settings
        drop constraint if exists retention_of_at_least_a_week;

    if not exists (
        select
        from pg_catalog.pg_constraint as c
        where c.conrelid = 'rota.settings'::regclass and c.conname = 'kept_for_at_least_an_hour'
    ) then
        alter table rota.settings
            add constraint kept_for_at_least_an_hour check (
                retention >= interval '1 hour'
                and (keep_completed = interval '0' or keep_completed >= interval '1 hour')
                and keep_failed >= interval '1 hour'
            );
    end if;
end;
$$;
