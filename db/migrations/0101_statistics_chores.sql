-- depends: 0100_history_by_time

-- How far roll_up has come; null for other chores.
alter table rota.chores
    add column if not exists since timestamptz,        -- from here on all minutes are counted,
    add column if not exists until timestamptz,        -- up to here
    add column if not exists ready_until timestamptz,  -- those up to here come next, once nobody
                                                       -- can end anything in them any more:
    add column if not exists readers text[],  -- these transactions may have read the clock before
    add column if not exists xid xid8;        -- then: all that were open are older than this

insert into rota.chores (chore)
values ('take_census'), ('roll_up')
on conflict do nothing;
