-- depends: 0102_census

-- The attempts that ended, by minute, and after 8 days by hour: written by roll_up from history.
create table if not exists rota.minutes (
    minute timestamptz not null,
    seconds integer not null,  -- how long it is: 60 or 3600
    queue text not null,
    task text not null,
    outcome text not null,
    ended bigint not null,
    gave_up bigint not null,   -- of them those after which the job was FAILED
    ran_seconds float8 not null,
    firsts bigint not null,    -- first attempts; of these is told how long they had waited
    waited_seconds float8 not null,
    ran_histogram bigint[] not null,  -- 14 numbers: see _bucket
    waited_histogram bigint[] not null,

    constraint minutes_pkey primary key (minute, queue, task, outcome)
);

create index if not exists minutes_to_become_hours on rota.minutes (minute) where seconds = 60;

-- The same, all minutes together, those too that are not kept any more.
create table if not exists rota.totals (
    queue text not null,
    task text not null,
    outcome text not null,
    ended bigint not null,
    gave_up bigint not null,
    ran_seconds float8 not null,
    firsts bigint not null,
    waited_seconds float8 not null,
    ran_histogram bigint[] not null,
    waited_histogram bigint[] not null,

    constraint totals_pkey primary key (queue, task, outcome)
) with (fillfactor = 50);

do $$
begin
    if to_regtype('rota.statistics_age') is null then
        create type rota.statistics_age as (
            census_at timestamptz,
            census_took interval,
            counted_since timestamptz,
            counted_until timestamptz
        );
    end if;
end;
$$;
