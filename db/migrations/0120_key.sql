-- depends: 0114_totals_in_order

-- A key is what jobs of a queue share who take turns: a tenant, an account, a device. null, which
-- takes no byte, for a job without one. counted is true for a job that takes room under a limit of
-- its queue or key: one that runs there, and one of a key in strict order that has begun and has
-- not ended. Else it is null, never false, so that a claim of where no limits are changes no index.
--
-- The domain gets its constraint after the column. PostgreSQL writes all of a table anew to add a
-- column of a domain that has one, and nobody reads or writes a job meanwhile; nor are rows looked
-- at that have just got null (not valid). What comes later is held to it like to any other.
do $$
begin
    if to_regtype('rota.job_key') is null then
        create domain rota.job_key as text;
    end if;

    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.live_jobs'::regclass and a.attname = 'key'
    ) then
        alter table rota.live_jobs
            add column key rota.job_key,
            add column counted boolean;
    end if;

    if not exists (
        select from pg_catalog.pg_constraint as c where c.contypid = 'rota.job_key'::regtype
    ) then
        alter domain rota.job_key
            add constraint key_of_1_to_200_characters
            check (length(value) between 1 and 200) not valid;
    end if;
end;
$$;

-- The indexes below ask this function, which is made anew with each deploy (enqueue/_lane.sql).
create or replace function rota._lane(key text, priority integer)
    returns bigint
    language sql
    immutable
as $$
    select case
        when key is null then priority::bigint
        else hashtextextended(key, priority) & 4611686018427387903 | 4611686018427387904
    end
$$;
